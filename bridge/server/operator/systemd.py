"""systemd user units: the sockets exist from login on, and the first call starts the server."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bridge.server.host.grants import SOCKET_NAME, State

SERVICE = """\
[Unit]
Description=Host's Claude Code for containers
Requires=claude-code-bridge.socket

[Service]
ExecStart={command} serve
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
UMask=0077
NoNewPrivileges=no

[Install]
WantedBy=default.target
"""

SOCKET = """\
[Unit]
Description=Sockets of the host's Claude Code for containers

[Socket]
{listen}SocketMode=0666
DirectoryMode=0755

[Install]
WantedBy=sockets.target
"""


def write_units(state: State, config: Path | None) -> list[str]:
    """Write both units; what was written, and what to type next."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    directory = home / "systemd" / "user"
    directory.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "bridge.server", "--state", str(state.root)]
    command += ["--config", str(config.absolute())] if config else []
    grants = state.grants()
    listen = "".join(f"ListenStream={_escape(str(state.directory(name) / SOCKET_NAME))}\n" for name in grants)
    units = {
        "claude-code-bridge.service": SERVICE.format(command=" ".join(map(_quote, command))),
        "claude-code-bridge.socket": SOCKET.format(listen=listen),
    }
    for name, text in units.items():
        (directory / name).write_text(text)
    start = "claude-code-bridge.socket" if grants else "claude-code-bridge.service"
    lines = [f"bridge: wrote {directory / name}" for name in units]
    return [
        *lines,
        f"bridge: now type `systemctl --user daemon-reload && systemctl --user enable --now {start}`",
    ]


def _escape(text: str) -> str:
    """A percent sign means something to systemd."""
    return text.replace("%", "%%")


def _quote(word: str) -> str:
    return '"' + _escape(word).replace("\\", "\\\\").replace('"', '\\"') + '"' if " " in word else _escape(word)
