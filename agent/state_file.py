"""The files of the supervisor on /agent: state.json, the log, and the lock.

state.json is atomic and durable, so that the next start can say how this run ended. Functions here may block on a disk
that hangs: call them in helper threads only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from typing import TYPE_CHECKING, Any

from agent.files import make_way, open_plain, replace

if TYPE_CHECKING:
    from pathlib import Path

    from agent.files import Report

SCHEMA = 1
STATE_BYTES = 1_000_000
"""A thousand times the size that we write. A larger file is not ours."""

MOST_CUT_OFF = 1_000_000
LONGEST_WORD = 40

LOG_BYTES = 1_000_000
LOG_FILES = 4
"""One file in use and three old ones: at most 4 MB of events, enough for months."""


class StateFile:
    """The file with the state of the last run."""

    def __init__(self, path: Path, report: Report) -> None:
        self._path = path
        self._report = report

    def read(self) -> dict[str, Any]:
        """Return what the last run saved. Empty when there was no run, or the file cannot be read."""
        try:
            fd = open_plain(self._path, os.O_RDONLY, self._report)
            with os.fdopen(fd, "rb") as file:
                found = json.loads(file.read(STATE_BYTES))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            self._report(f"{self._path} could not be read ({error}); it is written anew")
            return {}
        return found if isinstance(found, dict) else {}

    def write(self, facts: dict[str, Any]) -> None:
        """Replace the file whole; it is on the disk before this returns. Raises OSError."""
        text = json.dumps({"schema": SCHEMA, "updated_at": utc(), **facts}, indent=1) + "\n"
        replace(self._path, text, self._report, durable=True)


class LogFile:
    """/agent/log/agent.log and a limited number of older files."""

    def __init__(self, path: Path, report: Report) -> None:
        self._path = path
        self._report = report

    def append(self, line: str) -> None:
        """Add a line, starting a new file when this one is full."""
        with contextlib.suppress(FileNotFoundError):  # ignored because the file does not exist before the first line
            if self._path.lstat().st_size > LOG_BYTES:
                self._rotate()
        fd = open_plain(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, self._report)
        with os.fdopen(fd, "a", encoding="utf-8", errors="replace") as file:
            file.write(line)

    def _rotate(self) -> None:
        for number in range(LOG_FILES - 1, 0, -1):
            older = self._path if number == 1 else self._path.with_name(f"{self._path.name}.{number - 1}")
            newer = self._path.with_name(f"{self._path.name}.{number}")
            with contextlib.suppress(FileNotFoundError):  # ignored because there are fewer old files so far
                make_way(newer, self._report)
                older.replace(newer)


def lock(path: Path, report: Report) -> int | None:
    """Lock the volume for this agent until the process ends. Returns None when another agent runs on it.

    The file is opened for reading, because a file open for writing would prevent a remount of the volume.
    """
    fd = open_plain(path, os.O_RDONLY | os.O_CREAT, report, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def how_it_ended(last: dict[str, Any]) -> str | None:
    """Return a sentence when the last run was cut off. Returns None after a clean end, or without an earlier run."""
    if not last or last.get("phase") == "stopped":
        return None
    return (
        f"the last run, started {_short(last.get('started_at', 'at an unknown time'))}, was cut off while it was "
        f"{_short(last.get('phase', 'in an unknown phase'))}: killed, out of memory, or the host went down"
    )


def times_cut_off(last: dict[str, Any]) -> int:
    """Return how many runs in a row were cut off, from the file; 0 where the file has no number."""
    found = last.get("cut_off")
    return found if isinstance(found, int) and 0 <= found < MOST_CUT_OFF else 0


def utc() -> str:
    """Return the present second in ISO 8601, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _short(value: object) -> str:
    """Shorten a value from the file for a message, because the agent may have written it."""
    return str(value)[:LONGEST_WORD]
