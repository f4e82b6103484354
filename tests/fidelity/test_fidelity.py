"""Claude Code over the bridge is Claude Code on the host, except for what the table of differences names."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from typing import Any

from tests.fidelity import record
from tests.fidelity.conftest import Pair
from tests.fidelity.differences import expected, shown
from tests.fidelity.facts import Facts, facts
from tests.fidelity.projects import Project
from tests.fidelity.sides import Side


def test_project(pair: Pair, project: Project, record_property: Callable[[str, object], None]) -> None:
    version = pair.version
    known = None if pair.is_always_plain(project) else record.find(version, project.name)
    right, seen = _run(pair.bridged(project), project, shown)
    if known and record.is_same(known, right):
        left, seen = right, seen | record.seen(known)
    else:
        left, more = _run(pair.plain(project), project, expected)
        seen |= more
    wrong = [line for call, *both in zip(project.calls, left, right, strict=True) for line in _wrong(call.argv, *both)]
    assert not wrong, "\n".join(wrong[:200])
    for what in seen:
        record_property("seen", what)
    record_property("facts", [len(each) for each in left])
    record_property("plain", left is not right)
    record_property("row", [version, project.name, record.row(left, seen)])


def _run(
    side: Side, project: Project, read: Callable[[tuple[str, ...], Facts], tuple[Facts, set[str]]]
) -> tuple[list[Facts], set[str]]:
    """Return the facts of all calls of a project on one side, and the rows of the table of differences."""
    done = [read(call.argv, facts(side.run(call))) for call in project.calls]
    return [found for found, _ in done], {row for _, rows in done for row in rows}


def _wrong(words: tuple[str, ...], left: Facts, right: Facts) -> list[str]:
    return [
        line
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name)
        for line in [f"claude {' '.join(words)}: {name}", *_difference(left.get(name), right.get(name))]
    ]


def _difference(plain: Any, bridged: Any) -> list[str]:
    both = difflib.unified_diff(_shown(plain), _shown(bridged), "plain", "bridge", lineterm="", n=1)
    return [line[:300] for line in both]


def _shown(value: Any) -> list[str]:
    if isinstance(value, list):
        return [entry if isinstance(entry, str) else json.dumps(entry, ensure_ascii=False) for entry in value]
    return json.dumps(value, indent=1, ensure_ascii=False).splitlines()
