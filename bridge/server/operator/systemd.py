"""A systemd user unit: the server runs from login on, and serves every grant, those of later days included."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bridge.server.host.files import replace_file

NAME = "claude-code-bridge.service"

UNIT = """\
[Unit]
Description=Host's Claude Code for containers

[Service]
ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
UMask=0077
NoNewPrivileges=no

[Install]
WantedBy=default.target
"""


def write_unit(root: Path, config: Path | None) -> Path:
    """Write the unit for the state directory `root`; the file that was written. OSError."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    directory = home / "systemd" / "user"
    directory.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "bridge.server", "serve", "--state", str(root)]
    command += ["--config", str(config.absolute())] if config else []
    replace_file(directory / NAME, UNIT.format(command=" ".join(map(_quoted, command))).encode(), 0o644)
    return directory / NAME


def _quoted(word: str) -> str:
    """A word of a command as systemd reads it: percent and dollar signs mean something to it, too."""
    text = word.replace("%", "%%").replace("$", "$$")
    if not set(word) & set(" \t;'\"\\"):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
