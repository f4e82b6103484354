"""Writes log lines without blocking: one line per event on stdout (what `docker logs` shows) and in /agent/log.

A terminal stopped by Ctrl-S, or a log reader that died, must not stop the supervisor.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_LINE = 4000


class Events:
    """The supervisor's log."""

    def __init__(self, form: str, stream: int, *, only_problems: bool = False) -> None:
        """`only_problems` leaves INFO out, where the output belongs to a command."""
        self._json = form == "json"
        self._stream = stream
        self._only_problems = only_problems
        self._lost = 0
        self.keep: Callable[[str], None] = lambda _line: None

    def info(self, speaker: str, text: str) -> None:
        """Log what happened."""
        self._log("INFO", speaker, text)

    def warning(self, speaker: str, text: str) -> None:
        """Log what a person should look at."""
        self._log("WARNING", speaker, text)

    def error(self, speaker: str, text: str) -> None:
        """Log what ends the container, or makes it useless."""
        self._log("ERROR", speaker, text)

    def _log(self, level: str, speaker: str, text: str) -> None:
        # a line may quote text from the agent, which must not control the reader's terminal
        text = "".join(c if c.isprintable() else "?" for c in " ".join(text.splitlines()))
        line = self._line(level, speaker, text)
        self.keep(line)
        if self._only_problems and level == "INFO":
            return
        if self._lost:
            lost = self._line("WARNING", "events", f"{self._lost} lines could not be written")
            self._lost = 0 if self._write(lost) else self._lost
        if not self._write(line):
            self._lost += 1

    def _line(self, level: str, speaker: str, text: str) -> str:
        if self._only_problems and not self._json:
            return f"{speaker}: {text}\n"  # this line appears between the command's own lines
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self._json:
            return json.dumps({"at": at, "level": level, "from": speaker, "event": text}) + "\n"
        return f"{at} {level:<7} {speaker}: {text}\n"

    def _write(self, line: str) -> bool:
        """Write a line whole or not at all. A pipe guarantees this up to 4096 bytes."""
        data = line.encode(errors="replace")
        if len(data) > LONGEST_LINE:
            data = data[:LONGEST_LINE] + b"\n"
        with contextlib.suppress(OSError):  # ignored because the reader is gone or blocked
            was_blocking = os.get_blocking(self._stream)
            os.set_blocking(self._stream, False)
            try:
                return os.write(self._stream, data) == len(data)
            finally:
                os.set_blocking(self._stream, was_blocking)
        return False
