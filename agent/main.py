"""`agent-entrypoint [COMMAND ARG…]`: what tini runs."""

from __future__ import annotations

import os
import sys
import traceback
from typing import NoReturn

from agent.events import Events
from agent.settings import BadSettingError, read
from agent.supervisor import SOFTWARE, Supervisor

USAGE = 64


def main() -> NoReturn:
    """Live as the container's supervisor and end with its exit code."""
    argv = sys.argv[1:]
    try:
        settings = read(os.environ)
    except BadSettingError as error:
        print(f"entrypoint: {error}", file=sys.stderr)
        sys.exit(USAGE)
    # login shells lose PATH to /etc/profile; profile.d puts this one back
    os.environ["AGENT_PATH"] = os.environ.get("PATH", os.defpath)
    # a command's stdout is its own
    events = Events(settings.log, stream=2 if argv else 1, only_troubles=bool(argv))
    try:
        code = Supervisor(settings, argv, events).run()
    except Exception:  # the last resort: tell, and let the restart policy act
        traceback.print_exc()
        events.error("supervisor", "ended by a fault of its own, please report the lines above")
        code = SOFTWARE
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # no interpreter shutdown: helper threads may hang in a sick disk for ever
