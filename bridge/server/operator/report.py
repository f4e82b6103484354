"""Formats what the operator's commands print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bridge.policy.terms import printable
from bridge.protocol.moment import moment
from bridge.server.operator.usage_report import budget_line

VERSION = 1
"""The form of the document. It grows when a key is taken away or means something else, not when one is added."""

ABOUT_ALL = ("grants", "problems")
"""What of the server's answer is not about the server itself."""


def status_document(answer: dict[str, Any] | None) -> dict[str, Any]:
    """Return the document of `status --json`. `answer` is the server's; None if no server runs."""
    if answer is None:
        return {"version": VERSION, "server": None, "grants": {}, "problems": {}}
    server = {key: value for key, value in answer.items() if key not in ABOUT_ALL}
    return {"version": VERSION, "server": server, **{key: answer[key] for key in ABOUT_ALL}}


def status_lines(answer: dict[str, Any]) -> list[str]:
    """Return the server's status as lines of text: counts, and a table of its grants."""
    grants = [_grant(name, grant) for name, grant in answer["grants"].items()]
    heads = ["GRANT", "RUNNING", "QUEUED", "CONNECTIONS", "OLDEST", "WORKSPACE"]
    lines = [
        f"Claude Code {answer['cli'] or 'missing'}; up {answer['uptime_s']:.0f} s",
        f"login: {login_line(answer['login'])}",
        f"{answer['running']} running, {answer['queued']} queued, {answer['served']} served",
        *([f"new work waits until {moment(held['until'])}: {held['why']}"] if (held := answer["held"]) else []),
        *_aligned([heads, *grants]),
        *(
            _waiting(name, call)
            for name, grant in answer["grants"].items()
            for call in grant["calls"]
            if call["waits_for"]
        ),
        *(
            budget_line(name, each)
            for name, grant in answer["grants"].items()
            for each in grant["budgets"]
            if each["is_over"]
        ),
    ]
    return [printable(line) for line in lines]


def login_line(login: dict[str, Any]) -> str:
    """Return where the login comes from, how long it lasts, and what is wrong with it, in one line."""
    from_where = f"from {login['source']}; {login['lasts']}" if login["source"] else ""
    return "; ".join(filter(None, [from_where, login["problem"]]))


def _grant(name: str, grant: dict[str, Any]) -> list[str]:
    oldest = max((call["age_s"] for call in grant["calls"]), default=None)
    age = "-" if oldest is None else f"{oldest:.0f} s"
    note = f"  ({grant['problem']})" if grant["problem"] else ""
    counts = [str(grant[key]) for key in ("running", "queued", "connections")]
    return [name, *counts, age, grant["workspace"] + note]


def _waiting(name: str, call: dict[str, Any]) -> str:
    """Return what a call waits for, and how many come first."""
    ahead = "" if call["ahead"] is None else f" ({call['ahead']} ahead)"
    return f"a call of {name} waits for {call['waits_for']}{ahead}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align the columns of a table: the first and the last to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([first.ljust(widths[0]), *map(str.rjust, counts, widths[1:-1]), last])
        for first, *counts, last in rows
    ]
