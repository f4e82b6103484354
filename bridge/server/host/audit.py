"""The audit log: who called what, as JSON lines, without a word of a prompt and without a secret.

All grants share the log, and none may push out the lines of another. So files are rotated at a size, a line has a
largest length, and each grant may write so many bytes in a time, as a share of the files' size. Lines beyond that are
counted, and the count is written: nothing is left out silently.

What follows: with four grants that write all that they may, from the first moment on, the line of an earlier call is
there for a working day (DAY_S); with eight such grants for three hours, with one for forty. It holds for logs of
LEAST_SIZE_FOR_A_DAY a file and more (the default is four times that); in smaller ones LEAST_BURST and LEAST_PER_SECOND
are more than the share, so that a small log still shows something.
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
from bridge.policy.project_policy import MODES_WITH_HANDS
from bridge.policy.terms import printable
from bridge.server.host.config import MIB
from bridge.server.host.log import ServerLog

MAX_LINE = 2048
"""Bytes of one line."""

MAX_TEXT = 300
"""Characters of one value in it."""

MAX_WORDS = 24
MAX_OUTLINE = 640
"""Arguments that are named in a line, and characters of them together; the calls of agents need half of both."""

KEPT = 4
"""Files that were moved aside and are kept: NAME.1 is the newest."""

KINDS = {"asked": "asked", "started": "ran", "ended": "ran"}
"""Measures of a grant by events; all other events (refused, ran in the container, network) are "other". A call that is
cancelled while it waits is asked for and costs no turn, so that thousands of them take nothing from those that ran."""

OF_SERVER = frozenset({"revoked"})
"""Lines about a grant that are none of its doing."""

DAY_S = 8 * 3600.0
"""So long the line of a call is kept while four grants write all that they may."""

BURST_SHARE = 1 / 16
DAY_SHARE = 1 / 4
"""Of one file's size: what each of a grant's three measures may have at once, and in a working day. Together 15/16, so
that four grants write no more in a day than the KEPT files hold. With files of 16 MiB it is 1 MiB at once and 145 bytes
a second: a thousand calls, and one more in some seconds."""

LEAST_SIZE_FOR_A_DAY = 4 * MIB
"""Bytes of a file, for which all this holds."""

LEAST_BURST = 16 * 1024
LEAST_PER_SECOND = 32.0
"""Bytes, whatever the size."""

_MODEL = r"(claude|opus|sonnet|haiku|default|best|inherit|anthropic)[a-z0-9.:@/,\[\]-]{0,50}"
TELLING = {
    "--output-format": r"text|json|stream-json",
    "--input-format": r"text|stream-json",
    "--model": _MODEL,
    "--fallback-model": _MODEL,
    "--permission-mode": "|".join(sorted(MODES_WITH_HANDS)),
    "--max-turns": r"[0-9]{1,9}",
    "--effort": r"low|medium|high|xhigh|max",
    "--permission-prompt-tool": r"stdio",
    "--setting-sources": r"((user|project|local),?){0,3}",
    "--session-id": r"[0-9a-fA-F-]{36}",
}
"""Flags of which the value is written down when it looks so; of any other only its length."""


class Audit:
    """The log."""

    def __init__(self, path: Path, size: int, log: ServerLog, clock: Callable[[], float] = time.monotonic) -> None:
        """What cannot be written is reported to `log`."""
        self._size = size
        self._clock = clock
        self._files = _Files(path, size, log)
        self._measures: dict[tuple[str, str], _Measure] = {}

    def write(self, event: str, **facts: Any) -> None:
        """Add one line, unless its grant has written too much. A full disk must not end calls."""
        grant = facts.get("grant")
        if not isinstance(grant, str) or event in OF_SERVER:
            self._line(event, facts)
            return
        measure = self._measure(grant, KINDS.get(event, "other"))
        if measure.may(self._clock()):
            self._tell(grant, measure)
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
        """Write how many lines were left out meanwhile; called now and then."""
        for (grant, _), measure in self._measures.items():
            if measure.may(self._clock()):
                self._tell(grant, measure)

    def _tell(self, grant: str, measure: _Measure) -> None:
        if measure.left_out:
            left_out, measure.left_out = measure.left_out, {}
            measure.left -= self._line("suppressed", {"grant": grant, "lines": left_out})

    def _line(self, event: str, facts: dict[str, Any]) -> int:
        """Write one line; its bytes."""
        entry = {"time": round(time.time(), 3), "event": event, **{name: _short(fact) for name, fact in facts.items()}}
        line = json.dumps(entry, default=str, ensure_ascii=True)
        if len(line) >= MAX_LINE:
            entry = {name: fact for name, fact in entry.items() if not isinstance(fact, list)}
            entry = {name: fact for name, fact in entry.items() if not isinstance(fact, str) or len(fact) < 65}
            line = json.dumps({**entry, "event": event, "cut": len(line)}, default=str)
        self._files.emit(logging.makeLogRecord({"msg": line}))
        return len(line) + 1


class _Files(RotatingFileHandler):
    """The file and its predecessors. It is open for one line at a time: who moves it away gets a new one made."""

    def __init__(self, path: Path, size: int, log: ServerLog) -> None:
        super().__init__(path, maxBytes=size, backupCount=KEPT, encoding="ascii", delay=True)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; a failure is reported to the server's log."""
        super().emit(record)
        stream, self.stream = self.stream, None
        if stream is not None:
            with contextlib.suppress(OSError):  # ignored because it was reported when the line was written
                stream.close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the base class's name
        """A full disk must not end calls."""
        error = sys.exception()
        if not isinstance(error, OSError):
            raise
        text = f"audit log {self.baseFilename}: {error}; lines are lost, make room or name another in bridge.yaml"
        self._log.line(text)

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="ascii", opener=_opener)


def _opener(path: str, flags: int) -> int:
    """Follow no link, and let nobody else read the file."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


class _Measure:
    """So many bytes at once, and so many a second."""

    def __init__(self, burst: float, per_second: float, now: float) -> None:
        self._burst = burst
        self._per_second = per_second
        self._since = now
        self.left = burst
        """Bytes; less than none after a line that was longer than what was left, which the next ones wait for."""
        self.left_out: dict[str, int] = {}
        """How many of each event."""

    def may(self, now: float) -> bool:
        """Whether a line may be written."""
        self.left = min(self._burst, self.left + (now - self._since) * self._per_second)
        self._since = now
        return self.left > 0


def outline(argv: list[str]) -> list[str]:
    """The arguments without their text: names of flags, values that tell nothing of anyone, lengths."""
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
    return value if name in TELLING and re.fullmatch(TELLING[name], value[:200]) else f"<{len(value)}>"


def _short(fact: Any) -> Any:
    return printable(fact, MAX_TEXT) if isinstance(fact, str) else fact
