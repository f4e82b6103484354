"""/agent/state.json: atomic and durable, so that the next start can tell how this life ended.

Written by a helper thread, in order, because a disk may hang and the supervisor may not.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = 1

LOG_BYTES = 1_000_000
LOG_FILES = 4
"""One written and three old ones: at most 4 MB of events, months of an agent's life."""


class StateFile:
    """The file and what it says."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.trouble = ""

    def read(self) -> dict[str, Any]:
        """Return what the last life left; empty when there was none or nobody can read it."""
        try:
            found = json.loads(self._path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self.trouble = f"{self._path} could not be read ({error}); it is written anew"
            return {}
        return found if isinstance(found, dict) else {}

    def write(self, facts: dict[str, Any]) -> None:
        """Replace the file whole, on the disk before this returns; OSError when that cannot be."""
        text = json.dumps({"schema": SCHEMA, "updated_at": utc(), **facts}, indent=1) + "\n"
        fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            try:
                os.write(fd, text.encode())
                os.fsync(fd)
            finally:
                os.close(fd)
            fresh.replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):  # ignored because the first error is the one to tell
                fresh.unlink()
            raise
        _sync_directory(self._path.parent)


class LogFile:
    """/agent/log/agent.log with a bounded number of predecessors."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, line: str) -> None:
        """Add a line, starting a new file when this one is full."""
        with contextlib.suppress(FileNotFoundError):  # ignored because the first line makes the file
            if self._path.stat().st_size > LOG_BYTES:
                self._rotate()
        with self._path.open("a") as file:
            file.write(line)

    def _rotate(self) -> None:
        for number in range(LOG_FILES - 1, 0, -1):
            older = self._path if number == 1 else self._path.with_name(f"{self._path.name}.{number - 1}")
            with contextlib.suppress(FileNotFoundError):  # ignored because there were fewer until now
                older.replace(self._path.with_name(f"{self._path.name}.{number}"))


def lock(path: Path) -> int | None:
    """Take the volume for this agent alone until the process ends; None when another one lives on it.

    Opened for reading, because a file open for writing would keep the volume from being remounted.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def how_it_ended(last: dict[str, Any]) -> str | None:
    """Return a sentence when the last life was cut off; None after a clean end or none at all."""
    if not last or last.get("phase") == "stopped":
        return None
    return (
        f"the last run, started {last.get('started_at', 'at an unknown time')}, was cut off while it was "
        f"{last.get('phase', 'in an unknown phase')}: killed, out of memory, or the host went down"
    )


def utc() -> str:
    """Return the present second as ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
