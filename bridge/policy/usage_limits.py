"""Usage limits: what the API and the CLI say of them. Pure.

    429 with `anthropic-ratelimit-unified-status: rejected`    the account has used up a window (five hours, a week)
    429 without it                                             too many requests at once; the CLI itself tries again
    529                                                        the API is overloaded; the CLI itself tries again

Only these sources are used, because no container can write them: the head of an answer that the server's proxy gets
from the API or a gateway, and the CLI's own message `rate_limit_event` on its standard output. Text of an answer is
never one: it is the model's.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable

LIMIT, BURST, OVERLOAD = "limit", "burst", "overload"
"""What holds new work."""

MOST_S = 8 * 24 * 3600.0
"""Seconds that a limit lasts at most: a week, and a day for clocks and time zones."""

UNKNOWN_S = 60.0
"""Seconds that a limit counts if no time was told. The next call finds out more."""

BRIEF_S = 10.0
"""Seconds that new work waits after a burst or an overload, if no time was told."""
BRIEF_MOST_S = 30.0
"""The same at most. The CLI tries again by itself meanwhile."""

LEAST_S = 2.0
"""Seconds that a limit counts at least: the host's clock may be ahead of the API's."""

WINDOWS = {"five_hour": "5-hour limit", "seven_day": "weekly limit", "overage": "limit for extra usage"}
"""The windows that concern everything that the account asks. Others (`seven_day_opus`) concern one model, and other
models still answer."""

HEAD = b"anthropic-ratelimit-unified-"

MAX_EVENT = 4096
"""Bytes of a `rate_limit_event`. One has some 700."""


@dataclasses.dataclass(frozen=True)
class Told:
    """What was told of a limit."""

    cause: str
    """LIMIT, BURST or OVERLOAD."""
    until: float
    """Seconds since the epoch."""
    why: str
    """A part of a sentence, without the time."""
    concerns_all: bool
    """Whether it concerns every call with this account."""
    window: str = ""
    """The API's name for the window that is used up."""


def of_answer(status: int, fields: Iterable[tuple[bytes, bytes]], now: float) -> Told | None:
    """Return what the head of the API's answer says of a limit, if anything."""
    if status not in (429, 529):
        return None
    head = {name.lower(): value.decode("latin-1").strip() for name, value in fields}
    after = _number(head.get(b"retry-after", ""))
    if status == 529:
        return Told(OVERLOAD, now + _brief(after), "the API is overloaded", concerns_all=True)
    if head.get(HEAD + b"status") != "rejected":
        return Told(BURST, now + _brief(after), "the API refuses more requests at once", concerns_all=False)
    reset = _number(head.get(HEAD + b"reset", ""))
    return _limit(head.get(HEAD + b"representative-claim", ""), reset, after, now)


def of_message(line: bytes, now: float) -> Told | None:
    """Return what a line of the CLI's `stream-json` output says of a limit, if anything."""
    if not line.startswith(b'{"type":"rate_limit_event"') or len(line) > MAX_EVENT:
        return None
    try:
        info = json.loads(line)["rate_limit_info"]
        if info["status"] != "rejected":
            return None
        reset, window = info.get("resetsAt"), info.get("rateLimitType")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # a newer CLI says it in another form; then the limit is an error of its call, as without a bridge
    is_number = isinstance(reset, int | float) and not isinstance(reset, bool) and math.isfinite(reset)
    return _limit(window if isinstance(window, str) else "", float(reset) if is_number else None, None, now)


def _limit(window: str, reset: float | None, after: float | None, now: float) -> Told | None:
    if window and window not in WINDOWS and re.match(r"(five_hour|seven_day)_", window):
        return None
    ends = [moment for moment in (reset, now + after if after is not None else None) if moment is not None]
    until = min(max([now + LEAST_S, *ends]), now + MOST_S) if ends else now + UNKNOWN_S
    return Told(LIMIT, until, f"the account's {WINDOWS.get(window, 'usage limit')} is reached", True, window)


def refusal(told: Told, sentence: str, now: float) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return the API's answer to a request during a limit, as header fields and body. The CLI says then what it says
    without a bridge. With a key instead of a login, it says the sentence."""
    fields = [
        (HEAD + b"status", b"rejected"),
        (HEAD + b"reset", b"%d" % told.until),
        (b"retry-after", b"%d" % max(1, math.ceil(told.until - now))),
        (b"content-type", b"application/json"),
    ]
    if told.window in WINDOWS:
        fields.append((HEAD + b"representative-claim", told.window.encode()))
    error = {"type": "rate_limit_error", "message": sentence}
    return fields, json.dumps({"type": "error", "error": error}).encode()


def _brief(after: float | None) -> float:
    return min(BRIEF_S if after is None else max(after, 1.0), BRIEF_MOST_S)


def _number(text: str) -> float | None:
    """Return a number of seconds; None if it is none, for example a date."""
    return float(text) if re.fullmatch(r"\d{1,12}(\.\d{1,6})?", text, re.ASCII) else None
