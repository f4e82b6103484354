"""The audit log: who called what, as JSON lines, without any text of a prompt and without secrets.

All grants share the log, and no grant may push out the lines of another. So files are rotated at a size, a line has
a largest length, and each grant may write a limited number of bytes over time, as a share of the files' size. Lines
beyond that are counted, and the count is written: nothing is left out silently.

The result: if four grants always write as much as they may, the line of an earlier call stays for a working day
(DAY_S). With eight such grants it stays for three hours, with one for forty. This holds for files of
LEAST_SIZE_FOR_A_DAY or more (the default is four times that). In smaller files LEAST_BURST and LEAST_PER_SECOND
exceed the share, so that a small log still shows something.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from bridge.policy.flags import BY_NAME, CLOSED
from bridge.policy.project_policy import MODES_WITH_COMMANDS
from bridge.policy.terms import printable
from bridge.server.host.config import MIB
from bridge.server.host.log import ServerLog

MAX_LINE = 2048
"""Largest size of one line, bytes."""

MAX_TEXT = 300
"""Characters of one value in a line."""

MAX_WORDS = 24
MAX_OUTLINE = 640
"""Arguments that are named in a line, and their total characters. The calls of agents need half of both."""

KEPT = 4
"""Older files that are kept. NAME.1 is the newest."""

KINDS = {"asked": "asked", "started": "ran", "ended": "ran"}
"""Budget of a grant by event. All other events (refused, ran in the container, network) use the budget "other". A
call that is cancelled while it waits counts as asked, but not as ran. So thousands of such calls use nothing of the
budget for calls that ran."""

OF_SERVER = frozenset({"revoked"})
"""Events of a grant that its containers do not cause. They are not limited."""

DAY_S = 8 * 3600.0
"""Seconds that a call's line is kept while four grants write as much as they may."""

BURST_SHARE = 1 / 16
DAY_SHARE = 1 / 4
"""Shares of one file's size: what each of a grant's three budgets may use at once, and in a working day. Together
15/16, so that four grants write no more in a day than the KEPT files hold. With files of 16 MiB this is 1 MiB at
once and 145 bytes a second: a thousand calls, and then one more every few seconds."""

LEAST_SIZE_FOR_A_DAY = 4 * MIB
"""Size of a file from which on all this holds, bytes."""

LEAST_BURST = 16 * 1024
LEAST_PER_SECOND = 32.0
"""Smallest budget for any file size: bytes at once, and bytes a second."""

_MODEL = r"(claude|opus|sonnet|haiku|default|best|inherit|anthropic)[a-z0-9.:@/,\[\]-]{0,50}"
LOGGED_VALUES = {
    "--output-format": r"text|json|stream-json",
    "--input-format": r"text|stream-json",
    "--model": _MODEL,
    "--fallback-model": _MODEL,
    "--permission-mode": "|".join(sorted(MODES_WITH_COMMANDS)),
    "--max-turns": r"[0-9]{1,9}",
    "--effort": r"low|medium|high|xhigh|max",
    "--permission-prompt-tool": r"stdio",
    "--setting-sources": r"((user|project|local),?){0,3}",
    "--session-id": r"[0-9a-fA-F-]{36}",
}
"""Flags whose value is logged if it matches the pattern. For other values only the length is logged."""


class Audit:
    """The audit log."""

    def __init__(self, path: Path, size: int, log: ServerLog, clock: Callable[[], float] = time.monotonic) -> None:
        """Failed writes are reported to `log`. `size` is the size of one file in bytes; `clock` returns seconds."""
        self._size = size
        self._clock = clock
        self._files = _Files(path, size, log)
        self._measures: dict[tuple[str, str], _Measure] = {}

    def write(self, event: str, **facts: Any) -> None:
        """Write one line, unless its grant has used up its budget. A full disk does not end calls."""
        grant = facts.get("grant")
        if not isinstance(grant, str) or event in OF_SERVER:
            self._line(event, facts)
            return
        measure = self._measure(grant, KINDS.get(event, "other"))
        if measure.may(self._clock()):
            self._write_suppressed(grant, measure)
            measure.left -= self._line(event, facts)
        else:
            measure.left_out[event] = measure.left_out.get(event, 0) + 1

    def _measure(self, grant: str, kind: str) -> _Measure:
        if (grant, kind) not in self._measures:
            burst = max(self._size * BURST_SHARE, LEAST_BURST)
            per_second = max(self._size * DAY_SHARE / DAY_S, LEAST_PER_SECOND)
            self._measures[grant, kind] = _Measure(burst, per_second, self._clock())
        return self._measures[grant, kind]

    def settle(self) -> None:
        """Write how many lines were left out since the last time. Called regularly."""
        for (grant, _), measure in self._measures.items():
            if measure.may(self._clock()):
                self._write_suppressed(grant, measure)

    def _write_suppressed(self, grant: str, measure: _Measure) -> None:
        if measure.left_out:
            left_out, measure.left_out = measure.left_out, {}
            measure.left -= self._line("suppressed", {"grant": grant, "lines": left_out})

    def _line(self, event: str, facts: dict[str, Any]) -> int:
        """Write one line. Returns its length in bytes."""
        entry = {"time": round(time.time(), 3), "event": event, **{name: _short(fact) for name, fact in facts.items()}}
        line = json.dumps(entry, default=str, ensure_ascii=True)
        if len(line) >= MAX_LINE:
            entry = {name: fact for name, fact in entry.items() if not isinstance(fact, list)}
            entry = {name: fact for name, fact in entry.items() if not isinstance(fact, str) or len(fact) < 65}
            line = json.dumps({**entry, "event": event, "cut": len(line)}, default=str)
        self._files.emit(logging.makeLogRecord({"msg": line}))
        return len(line) + 1


class _Files(RotatingFileHandler):
    """The current file and the older ones. The file is open for one line at a time, so it is created again if
    someone moves it."""

    def __init__(self, path: Path, size: int, log: ServerLog) -> None:
        super().__init__(path, maxBytes=size, backupCount=KEPT, encoding="ascii", delay=True)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line. A failure is reported to the server's log."""
        super().emit(record)
        stream, self.stream = self.stream, None
        if stream is not None:
            with contextlib.suppress(OSError):  # ignored because it was reported when the line was written
                stream.close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the base class's name
        """Report a failed write. A full disk must not end calls."""
        error = sys.exception()
        if not isinstance(error, OSError):
            raise
        text = f"audit log {self.baseFilename}: {error}; lines are lost, make room or name another in bridge.yaml"
        self._log.line(text)

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="ascii", opener=_opener)


def _opener(path: str, flags: int) -> int:
    """Open without following links, and create the file readable by its owner only."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


class _Measure:
    """A budget: so many bytes at once, and so many a second."""

    def __init__(self, burst: float, per_second: float, now: float) -> None:
        self._burst = burst
        self._per_second = per_second
        self._since = now
        self.left = burst
        """Bytes. Negative after a line that was longer than the rest; then later lines wait."""
        self.left_out: dict[str, int] = {}
        """Number of lines that were left out, by event."""

    def may(self, now: float) -> bool:
        """Return whether a line may be written."""
        self.left = min(self._burst, self.left + (now - self._since) * self._per_second)
        self._since = now
        return self.left > 0


def outline(argv: list[str]) -> list[str]:
    """Return the arguments without their text: names of flags, values that reveal nothing, and lengths."""
    shown: list[str] = []
    previous = ""
    room = MAX_OUTLINE
    for word in argv[:MAX_WORDS]:
        name, equals, value = word.partition("=")
        if word.startswith("-") and (name in BY_NAME or name in CLOSED):
            text = name if not equals else f"{name}={_value(name, value)}"
            previous = name
        else:
            text = _value(previous, word)
            previous = ""
        room -= len(text)
        if room < 0:
            break
        shown.append(text)
    if len(argv) > len(shown):
        shown.append(f"<{len(argv) - len(shown)} more>")
    return shown


def _value(name: str, value: str) -> str:
    return value if name in LOGGED_VALUES and re.fullmatch(LOGGED_VALUES[name], value[:200]) else f"<{len(value)}>"


def _short(fact: Any) -> Any:
    return printable(fact, MAX_TEXT) if isinstance(fact, str) else fact
