"""Who called what, as JSON lines; never a word of a prompt, never a secret.

The log is for all grants together, so that one of them must not push out what is known of another. Files are moved
aside when they have grown to their size; a line has an end; and each grant may have so many lines in a while written.
What comes beyond is counted, and the count is written: nothing is left out silently.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridge.policy.flags import BY_NAME, CLOSED
from bridge.policy.project import MODES_WITH_HANDS
from bridge.policy.scope import printable
from bridge.server.saying import Sayer

MAX_LINE = 4096
"""Bytes of one line."""

MAX_TEXT = 300
"""Characters of one value in it."""

MAX_WORDS = 24
"""Arguments that are named in a line."""

KEPT = 4
"""Files that were moved aside and are kept: NAME.1 is the newest."""

OF_CALLS = frozenset({"asked", "started", "ended"})
"""Lines that every call has. A grant's other lines (refused, ran, network) have a measure of their own."""

OF_SERVER = frozenset({"revoked"})
"""Lines about a grant that are none of its doing."""

BURST = {True: 3000, False: 300}
PER_SECOND = {True: 5.0, False: 1.0}
"""Lines of one grant: those of calls, and the others. A busy agent writes one in some seconds; at this pace the
smallest of its lines needs half a day for 80 MiB."""

_MODEL = r"(claude|opus|sonnet|haiku|default|best|inherit|anthropic)[a-z0-9.:@/,\[\]-]{0,70}"
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

    def __init__(self, path: Path, size: int, sayer: Sayer, clock: Callable[[], float] = time.monotonic) -> None:
        """`sayer` is told when nothing can be written."""
        self._path = path
        self._size = size
        self._sayer = sayer
        self._clock = clock
        self._measures: dict[tuple[str, bool], _Measure] = {}

    def write(self, event: str, **facts: Any) -> None:
        """Add one line, unless its grant has had too many. A full disk must not end calls."""
        grant = facts.get("grant")
        if isinstance(grant, str) and event not in OF_SERVER:
            key = (grant, event in OF_CALLS)
            measure = self._measures.setdefault(key, _Measure(BURST[key[1]], PER_SECOND[key[1]], self._clock()))
            if not measure.take(self._clock(), event):
                return
            self._tell(grant, measure)
        self._line(event, facts)

    def settle(self) -> None:
        """Write how many lines were left out meanwhile; called now and then."""
        for (grant, _), measure in self._measures.items():
            if measure.may(self._clock()):
                self._tell(grant, measure)

    def _tell(self, grant: str, measure: _Measure) -> None:
        if measure.left_out:
            left_out, measure.left_out = measure.left_out, {}
            self._line("suppressed", {"grant": grant, "lines": left_out})

    def _line(self, event: str, facts: dict[str, Any]) -> None:
        entry = {"time": round(time.time(), 3), "event": event, **{name: _short(fact) for name, fact in facts.items()}}
        line = json.dumps(entry, default=str, ensure_ascii=True)
        if len(line) >= MAX_LINE:
            entry = {name: fact for name, fact in entry.items() if not isinstance(fact, str | list) or len(fact) < 65}
            line = json.dumps({**entry, "event": event, "cut": len(line)}, default=str)
        try:
            self._append((line + "\n").encode())
        except OSError as error:
            self._sayer.say(
                f"audit log {self._path}: {error}; lines are lost, make room or name another in bridge.yaml"
            )

    def _append(self, line: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._path, flags, 0o600)
        try:
            if os.fstat(fd).st_size + len(line) > self._size:
                move_aside(self._path, KEPT)
                os.close(fd)
                fd = os.open(self._path, flags, 0o600)
            os.write(fd, line)
        finally:
            os.close(fd)


class _Measure:
    """So many lines at once, and so many a second."""

    def __init__(self, burst: int, per_second: float, now: float) -> None:
        self._burst = burst
        self._per_second = per_second
        self._left = float(burst)
        self._since = now
        self.left_out: dict[str, int] = {}
        """How many of each event."""

    def may(self, now: float) -> bool:
        """Whether there is room for a line."""
        self._left = min(self._burst, self._left + (now - self._since) * self._per_second)
        self._since = now
        return self._left >= 1

    def take(self, now: float, event: str) -> bool:
        """Whether a line may be written; it counts either way."""
        if self.may(now):
            self._left -= 1
            return True
        self.left_out[event] = self.left_out.get(event, 0) + 1
        return False


def move_aside(path: Path, kept: int) -> None:
    """Make room for a new file of that name: the old ones are NAME.1, NAME.2 and so on, the last is removed."""
    names = [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, kept + 1))]
    for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
        with contextlib.suppress(FileNotFoundError):
            newer.replace(older)


def outline(argv: list[str]) -> list[str]:
    """The arguments without their text: names of flags, values that tell nothing of anyone, lengths."""
    shown = []
    previous = ""
    for word in argv[:MAX_WORDS]:
        name, equals, value = word.partition("=")
        if word.startswith("-") and (name in BY_NAME or name in CLOSED):
            shown.append(name if not equals else f"{name}={_value(name, value)}")
            previous = name
        else:
            shown.append(_value(previous, word))
            previous = ""
    if len(argv) > MAX_WORDS:
        shown.append(f"<{len(argv) - MAX_WORDS} more>")
    return shown


def _value(name: str, value: str) -> str:
    return value if name in TELLING and re.fullmatch(TELLING[name], value[:200]) else f"<{len(value)}>"


def _short(fact: Any) -> Any:
    return printable(fact, MAX_TEXT) if isinstance(fact, str) else fact
