"""Formats what grants have used: a JSON document, text for Prometheus, and lines for people."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from bridge.policy.terms import printable
from bridge.server.host.usage import Row

VERSION = 1
"""The form of the document. It grows when a key is taken away or means something else, not when one is added."""

KINDS = ("input", "output", "cache_read", "cache_creation")
"""The kinds of tokens, as fields of a row."""

BAR = 24
"""Letters of the longest bar."""

_METRICS = (
    ("claude_bridge_requests", "Answers of the API.", "requests"),
    ("claude_bridge_cost_usd", "Cost in US dollars, as the CLI computes it from list prices.", "micros"),
    ("claude_bridge_limited_requests", "Requests that ended with status 429.", "limited"),
    ("claude_bridge_failed_requests", "Requests that ended with another error.", "failed"),
)


@dataclasses.dataclass(frozen=True)
class Line:
    """What one grant used on one day, of all models together."""

    grant: str
    day: str
    models: tuple[str, ...]
    requests: int
    tokens: dict[str, int]
    usd: float
    limited: int
    failed: int

    @property
    def total(self) -> int:
        """Tokens of all kinds together."""
        return sum(self.tokens.values())


def lines(rows: Iterable[Row]) -> list[Line]:
    """Return the use by grant and day, the newest day first."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.day, row.grant), []).append(row)
    ordered = sorted(found.items(), key=lambda each: each[0][1])
    return [_line(of_day) for _, of_day in sorted(ordered, key=lambda each: each[0][0], reverse=True)]


def _line(rows: Sequence[Row]) -> Line:
    return Line(
        rows[0].grant,
        rows[0].day,
        tuple(row.model for row in rows),
        sum(row.requests for row in rows),
        {kind: sum(getattr(row, kind) for row in rows) for kind in KINDS},
        sum(row.micros for row in rows) / 1_000_000,
        sum(row.limited for row in rows),
        sum(row.failed for row in rows),
    )


def document(rows: Iterable[Row], since: str, budgets: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the document of `usage --json`. `since` is the first day; `budgets` those of each grant, as
    `Standing.facts` says them."""
    used = [
        {
            "grant": row.grant,
            "day": row.day,
            "model": row.model,
            "requests": row.requests,
            "tokens": {kind: getattr(row, kind) for kind in KINDS},
            "usd": row.micros / 1_000_000,
            "limited": row.limited,
            "failed": row.failed,
        }
        for row in rows
    ]
    return {"version": VERSION, "since": since, "used": used, "budgets": budgets}


def prometheus(rows: Iterable[Row]) -> str:
    """Return the use of all days together as counters in Prometheus' text format, by grant and model.

    A counter falls when a day becomes too old to be kept; Prometheus takes that for a restart.
    """
    sums: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        sums.setdefault((row.grant, row.model), []).append(row)
    found = ["# HELP claude_bridge_tokens_total Tokens by kind.", "# TYPE claude_bridge_tokens_total counter"]
    for (grant, model), of in sums.items():
        for kind in KINDS:
            labels = f'grant="{grant}",model="{model}",kind="{kind}"'
            found.append(f"claude_bridge_tokens_total{{{labels}}} {sum(getattr(row, kind) for row in of)}")
    for name, text, field in _METRICS:
        found += [f"# HELP {name}_total {text}", f"# TYPE {name}_total counter"]
        for (grant, model), of in sums.items():
            value = sum(getattr(row, field) for row in of)
            shown = f"{value / 1_000_000:.6f}" if field == "micros" else str(value)
            found.append(f'{name}_total{{grant="{grant}",model="{model}"}} {shown}')
    return "\n".join(found) + "\n"


HEADS = ("DAY", "GRANT", "REQUESTS", "INPUT", "OUTPUT", "CACHE READ", "CACHE WRITE", "429", "FAILED", "USD", "MODELS")


def text(rows: Iterable[Row], since: str, budgets: dict[str, list[dict[str, Any]]], *, with_bars: bool) -> list[str]:
    """Return the use as lines for people: a table by day and grant, their sum, and the budgets."""
    found = lines(rows)
    if not found:
        shown = [f"nothing was used since {since} (days are those of UTC)"]
    else:
        usd, tokens = sum(line.usd for line in found), sum(line.total for line in found)
        cells = [(*_cells(line), bar) for line, bar in zip(found, _bars(found, with_bars), strict=True)]
        shown = [
            *aligned([(*HEADS, ""), *cells], left={0, 1, len(HEADS) - 1, len(HEADS)}),
            f"{usd:.2f} USD and {tokens:,} tokens since {since}; days are those of UTC, prices those of the list",
        ]
    shown += [budget_line(name, each) for name, entries in budgets.items() for each in entries]
    return [printable(line, 400).rstrip() for line in shown]


def _cells(line: Line) -> tuple[str, ...]:
    tokens = (f"{line.tokens[kind]:,}" for kind in KINDS)
    failed = (str(line.limited), str(line.failed))
    return line.day, line.grant, str(line.requests), *tokens, *failed, f"{line.usd:.2f}", ", ".join(line.models)


def _bars(found: Sequence[Line], with_bars: bool) -> list[str]:
    most = max((line.usd for line in found), default=0.0) if with_bars else 0.0
    return ["█" * round(BAR * line.usd / most) if most else "" for line in found]


def budget_line(name: str, facts: dict[str, Any]) -> str:
    """Return a budget as one line."""
    parts = [f"{facts['used_usd']:.2f} of {facts['usd']:g} USD"] if facts["usd"] is not None else []
    parts += [f"{facts['used_tokens']:,} of {facts['tokens']:,} tokens"] if facts["tokens"] is not None else []
    end = datetime.datetime.fromtimestamp(facts["ends"], datetime.UTC)
    over = f"; used up, so new calls {MEANINGS[facts['over']]}" if facts["is_over"] else ""
    return f"budget of {name} per {facts['per']}: {', '.join(parts)}{over}; begins again at {end:%Y-%m-%d %H:%M} UTC"


MEANINGS = {"warn": "go on", "hold": "wait", "stop": "are refused"}
"""What new calls do above a budget."""


def aligned(rows: Sequence[Sequence[str]], left: Collection[int]) -> list[str]:
    """Align the columns of a table: those of `left` to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if number in left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def first_day(text: str, today: str) -> str:
    """Return the day that a person means: YYYY-MM-DD, `today`, `yesterday`, or a number of days such as `7d`.

    `today` is the present day in UTC. Raises ValueError with a sentence.
    """
    now = datetime.date.fromisoformat(today)
    number = text.removesuffix("d")
    try:
        if text in ("today", "yesterday"):
            return (now - datetime.timedelta(text == "yesterday")).isoformat()
        if text.endswith("d") and number.isdecimal():
            return (now - datetime.timedelta(int(number) - 1)).isoformat()
        return datetime.date.fromisoformat(text).isoformat()
    except (ValueError, OverflowError):
        raise ValueError(
            f"--since is {text!r}; a day is allowed: 2026-11-28, today, yesterday, or 7d for the last seven days"
        ) from None
