"""Writes a systemd user unit: the server runs from login on, and serves every grant, including later ones."""

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
    """Write the unit for the state directory `root`. Returns its path. Raises OSError."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    directory = home / "systemd" / "user"
    directory.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "bridge.server", "serve", "--state", str(root)]
    command += ["--config", str(config.absolute())] if config else []
    replace_file(directory / NAME, UNIT.format(command=" ".join(map(_quoted, command))).encode(), 0o644)
    return directory / NAME


def _quoted(word: str) -> str:
    """Return a word of a command as systemd reads it, in which percent and dollar signs have a special meaning."""
    text = word.replace("%", "%%").replace("$", "$$")
    if not set(word) & set(" \t;'\"\\"):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
