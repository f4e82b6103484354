"""`agent-entrypoint [COMMAND ARG…]`: the program that tini runs."""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING, NoReturn

from agent import protected
from agent.events import Events
from agent.pause_clock import PauseClockLoop
from agent.settings import BadSettingError, read
from agent.supervisor import SOFTWARE, Supervisor
from agent.volumes import mount_table

if TYPE_CHECKING:
    from agent.settings import Settings

USAGE = 64


def main() -> NoReturn:
    """Run as the container's supervisor, and exit with its exit code."""
    argv = sys.argv[1:]
    try:
        settings = read(os.environ)
    except BadSettingError as error:
        print(f"entrypoint: {error}", file=sys.stderr)
        sys.exit(USAGE)
    if problem := protected.problem(os.environ, mount_table()):
        print(f"entrypoint: {problem}", file=sys.stderr)
        sys.exit(USAGE)
    # /etc/profile resets PATH in login shells; profile.d restores this one
    os.environ["AGENT_PATH"] = os.environ.get("PATH", os.defpath)
    # a command's stdout holds only its own output
    events = Events(settings.log, stream=2 if argv else 1, only_problems=bool(argv))
    loop = PauseClockLoop()
    loop.on_pause = lambda seconds: events.info("supervisor", f"resumed after a pause of {seconds:.0f} s")
    try:
        code = loop.run(_supervise(settings, argv, events))
    except Exception:  # the last resort: print the error; the restart policy starts the container again
        traceback.print_exc()
        events.error("supervisor", "ended by a fault of its own, please report the lines above")
        code = SOFTWARE
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # no interpreter shutdown: a helper thread may hang for ever on a disk


async def _supervise(settings: Settings, argv: list[str], events: Events) -> int:
    return await Supervisor(settings, argv, events).run()
