"""Looks that need nothing of the supervisor's: bridge, memory, Task Master. They may block: helper threads only."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from healthcheck.probes import ProbeError

BRIDGE_DEADLINE_S = 1.0
SOCKET_PATH_BYTES = 107

UNLIMITED = 1 << 60
"""cgroup v1 writes no limit as a number near 2^63."""


@dataclass(frozen=True)
class Memory:
    """Use and limit of the container in bytes; `limit` 0 where there is none."""

    used: int
    limit: int
    oom_kills: int


def bridge(path: str) -> str:
    """Connect to the bridge's socket, as a file proves nothing; return what answers or raise what to do."""
    directory = Path(path).parent
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        raise ProbeError(f"CLAUDE_BRIDGE_SOCKET is longer than {SOCKET_PATH_BYTES} bytes; mount it elsewhere")
    if not directory.is_dir():
        raise ProbeError(f"{directory} is not mounted; run `invoke bridge.up` and mount the grant's directory")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(BRIDGE_DEADLINE_S)
        try:
            connection.connect(path)
        except FileNotFoundError:
            raise ProbeError("socket missing; run `invoke bridge.up` on the host") from None
        except ConnectionRefusedError:
            raise ProbeError("nobody listens on the socket; run `invoke bridge.up` on the host") from None
        except PermissionError:
            raise ProbeError(f"{path} may not be opened by uid {os.getuid()}; see `invoke bridge.doctor`") from None
        except OSError as error:
            reason = "no answer" if error.errno in (errno.EAGAIN, None) else error.strerror
            raise ProbeError(f"bridge: {reason}; see `invoke bridge.status`") from None
    return "the server listens"


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
