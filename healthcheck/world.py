"""Looks that need nothing of the supervisor's: bridge, memory, Task Master. They may block: helper threads only."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from bridge.client.connection import Connection
from bridge.protocol.errors import STEPS, FaultError
from healthcheck.probes import ProbeError

BRIDGE_DEADLINE_S = 1.0
HELLO_EVERY = 15
"""Looks over one connection: about each minute the server says anew which CLI it has."""
SOCKET_PATH_BYTES = 107

UNLIMITED = 1 << 60
"""cgroup v1 writes no limit as a number near 2^63."""


@dataclass(frozen=True)
class Memory:
    """Use and limit of the container in bytes; `limit` 0 where there is none."""

    used: int
    limit: int
    oom_kills: int


class Bridge:
    """The bridge, over one connection that is kept: a socket's file proves nothing, and a hello each time is noise."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection = Connection(path, BRIDGE_DEADLINE_S)
        self._looks = 0

    def look(self) -> str:
        """Ask the server for a sign of life; return what answers or raise what to do."""
        if len(os.fsencode(self._path)) > SOCKET_PATH_BYTES:
            raise ProbeError(f"CLAUDE_BRIDGE_SOCKET is longer than {SOCKET_PATH_BYTES} bytes; mount it elsewhere")
        if self._looks % HELLO_EVERY == 0:
            self._connection.close()
        self._looks += 1
        try:
            said = self._connection.ping()
        except FaultError as fault:
            step = BRIDGE_WORDS.get(fault.kind) or "; ".join([fault.text, *STEPS.get(fault.kind, ())[:1]])
            raise ProbeError(step.format(directory=Path(self._path).parent)) from None
        if not said.get("cli"):
            self._connection.close()  # so that the next look sees it come
            raise ProbeError(said.text("problem"))
        return f"{said.text('cli')} for grant {said.text('grant')}"


BRIDGE_WORDS = {
    "not-mounted": "{directory} is not mounted; run `invoke bridge.up` and mount the grant's directory",
    "missing": "socket missing; run `invoke bridge.up` on the host",
    "dead": "nobody listens on the socket; run `invoke bridge.up` on the host",
    "silent": "no answer; see `invoke bridge.status` on the host",
    "full": "no answer; see `invoke bridge.status` on the host",
}


def memory(root: Path = Path("/sys/fs/cgroup")) -> Memory:
    """Read the container's own cgroup, version 2 or 1; cache that can be dropped at once does not count."""
    if (root / "memory.current").exists():
        return Memory(
            used=_number(root / "memory.current") - _field(root / "memory.stat", "inactive_file"),
            limit=_number(root / "memory.max"),
            oom_kills=_field(root / "memory.events", "oom_kill"),
        )
    limit = _number(root / "memory/memory.limit_in_bytes")
    return Memory(
        used=_number(root / "memory/memory.usage_in_bytes")
        - _field(root / "memory/memory.stat", "total_inactive_file"),
        limit=0 if limit > UNLIMITED else limit,
        oom_kills=_field(root / "memory/memory.oom_control", "oom_kill"),
    )


def task_master(version: str) -> str:
    """Find the program; running it would cost 2 s of a core."""
    path = shutil.which("task-master")
    if path is None:
        raise ProbeError("task-master is not on PATH; build the image anew with `invoke build`")
    if Path(path).resolve().stat().st_size == 0:
        raise ProbeError(f"{path} is empty; build the image anew with `invoke build`")
    return f"{version} at {path}"


def _number(path: Path) -> int:
    text = path.read_text().strip()
    return 0 if text == "max" else int(text)


def _field(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
