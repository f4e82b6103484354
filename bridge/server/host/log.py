"""What the server itself says on standard error: few lines, short ones, and never a client's words.

A client must not be able to fill the operator's disk with it, so that lines beyond a measure are counted only, and a
log file that the server was given (`serve --log`) is moved aside when it has grown.
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
"""Lines; whoever reads them sees what is wrong by the first."""

MAX_LOG = 1024 * 1024
"""Bytes of the log file, of which one predecessor is kept."""


class Sayer:
    """Speaks on standard error."""

    def __init__(self) -> None:
        self._minute = 0
        self._said = 0
        self._swallowed = 0

    def say(self, text: str) -> None:
        """One line, unless there were too many in this minute."""
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._said = minute, 0
            if self._swallowed:
                swallowed, self._swallowed = self._swallowed, 0
                self.say(f"{swallowed} further lines were not written")
        self._said += 1
        if self._said > PER_MINUTE:
            self._swallowed += 1
        else:
            with contextlib.suppress(OSError):  # ignored because there is nobody else to be told
                print(f"bridge: {printable(text, 500)}", file=sys.stderr, flush=True)

    def fault(self, what: str, error: BaseException) -> None:
        """A fault of the server's own: its kind and its place, without the words that it was about."""
        self.say(f"{what}: {place_of(error)}; please report it")

    def unhandled(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The loop's own way to tell of an exception that nobody took."""
        error = context.get("exception")
        if error is None:
            self.say(str(context.get("message")))
        else:
            self.fault("a fault of the server's", error)


def place_of(error: BaseException) -> str:
    """Kind and place of an exception."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace is not None else ""
    return f"{type(error).__name__}{where}"


class LogFile:
    """The file into which everything goes that the process writes."""

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
        """Begin anew when it has grown to its size; called now and then."""
        if os.fstat(2).st_size > MAX_LOG:
            self._path.replace(self._path.with_name(self._path.name + ".1"))
            self._open()
