"""What the supervisor tells: one line per event on stdout (what `docker logs` shows) and in /agent/log.

Nothing here may block: a terminal stopped by Ctrl-S or a log reader that died must not stop the supervisor.
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
    """The one mouth of the supervisor."""

    def __init__(self, form: str, stream: int, *, only_troubles: bool = False) -> None:
        """`only_troubles` leaves INFO out, where the output belongs to a command."""
        self._json = form == "json"
        self._stream = stream
        self._only_troubles = only_troubles
        self._lost = 0
        self.keep: Callable[[str], None] = lambda _line: None

    def info(self, speaker: str, text: str) -> None:
        """Tell what happened."""
        self._tell("INFO", speaker, text)

    def warning(self, speaker: str, text: str) -> None:
        """Tell what somebody should look at."""
        self._tell("WARNING", speaker, text)

    def error(self, speaker: str, text: str) -> None:
        """Tell what ends the container, or makes it useless."""
        self._tell("ERROR", speaker, text)

    def _tell(self, level: str, speaker: str, text: str) -> None:
        # what it quotes may be the agent's own words: no sequence of theirs may steer the terminal of who reads
        text = "".join(c if c.isprintable() else "?" for c in " ".join(text.splitlines()))
        line = self._line(level, speaker, text)
        self.keep(line)
        if self._only_troubles and level == "INFO":
            return
        if self._lost:
            lost = self._line("WARNING", "events", f"{self._lost} lines could not be written")
            self._lost = 0 if self._write(lost) else self._lost
        if not self._write(line):
            self._lost += 1

    def _line(self, level: str, speaker: str, text: str) -> str:
        if self._only_troubles and not self._json:
            return f"{speaker}: {text}\n"  # between a command's own lines
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self._json:
            return json.dumps({"at": at, "level": level, "from": speaker, "event": text}) + "\n"
        return f"{at} {level:<7} {speaker}: {text}\n"

    def _write(self, line: str) -> bool:
        """Write whole or not at all, which a pipe promises up to 4096 bytes."""
        data = line.encode(errors="replace")
        if len(data) > LONGEST_LINE:
            data = data[:LONGEST_LINE] + b"\n"
        with contextlib.suppress(OSError):  # ignored because there is nobody to tell: reader gone or blocked
            was_blocking = os.get_blocking(self._stream)
            os.set_blocking(self._stream, False)
            try:
                return os.write(self._stream, data) == len(data)
            finally:
                os.set_blocking(self._stream, was_blocking)
        return False
