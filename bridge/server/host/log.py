"""The server's own lines on standard error: few and short, without text from clients.

No client may fill the operator's disk with them. Lines beyond a limit are counted and not written. The file of
`serve --log` is moved aside when it has grown too large.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any

from bridge.policy.terms import printable

PER_MINUTE = 20
"""Lines. The first ones are enough to see the problem."""

MAX_LOG = 1024 * 1024
"""Largest size of the log file, bytes. One older file is kept."""


class ServerLog:
    """Writes lines to standard error."""

    def __init__(self) -> None:
        self._minute = 0
        self._written = 0
        self._left_out = 0

    def line(self, text: str) -> None:
        """Write one line, unless there were too many in this minute."""
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._written = minute, 0
            if self._left_out:
                left_out, self._left_out = self._left_out, 0
                self.line(f"{left_out} further lines were not written")
        self._written += 1
        if self._written > PER_MINUTE:
            self._left_out += 1
        else:
            with contextlib.suppress(OSError):  # ignored because there is no other place to report it
                print(f"bridge: {printable(text, 500)}", file=sys.stderr, flush=True)

    def fault(self, what: str, error: BaseException) -> None:
        """Report a fault of the server: the exception's type and place, without text from a client."""
        self.line(f"{what}: {place_of(error)}; please report it")

    def unhandled(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle the event loop's uncaught exceptions."""
        error = context.get("exception")
        if error is None:
            self.line(str(context.get("message")))
        else:
            self.fault("a fault of the server's", error)


def place_of(error: BaseException) -> str:
    """Return the type of an exception and the place where it was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace is not None else ""
    return f"{type(error).__name__}{where}"


class LogFile:
    """The file that receives everything that the process writes to stdout and stderr."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._path, flags, 0o600)
        for standard in (1, 2):
            os.dup2(fd, standard)
        os.close(fd)

    def settle(self) -> None:
        """Start a new file when this one has reached its size. Called regularly. Raises OSError."""
        if os.fstat(2).st_size > MAX_LOG:
            self._path.replace(self._path.with_name(self._path.name + ".1"))
            self._open()
