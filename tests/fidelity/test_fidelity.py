"""Claude Code over the bridge is Claude Code on the host, except for what the table of differences names."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from typing import Any

from tests.fidelity.conftest import Pair
from tests.fidelity.differences import compare
from tests.fidelity.facts import facts
from tests.fidelity.projects import Project
from tests.support.fake_messages_api import FakeMessagesApi


def test_project(
    pair: Pair, project: Project, plain_api: FakeMessagesApi, record_property: Callable[[str, object], None]
) -> None:
    plain, bridged = pair.sides(project, plain_api)
    wrong: list[str] = []
    for call in project.calls:
        left, right, seen = compare(call.argv, facts(plain.run(call)), facts(bridged.run(call)))
        for row in seen:
            record_property("seen", row)
        record_property("facts", len(left))
        wrong += [
            line
            for name in sorted(left.keys() | right.keys())
            if left.get(name) != right.get(name)
            for line in [f"claude {' '.join(call.argv)}: {name}", *_difference(left.get(name), right.get(name))]
        ]
    assert not wrong, "\n".join(wrong[:200])


def _difference(plain: Any, bridged: Any) -> list[str]:
    both = difflib.unified_diff(_shown(plain), _shown(bridged), "plain", "bridge", lineterm="", n=1)
    return [line[:300] for line in both]


def _shown(value: Any) -> list[str]:
    if isinstance(value, list):
        return [entry if isinstance(entry, str) else json.dumps(entry, ensure_ascii=False) for entry in value]
    return json.dumps(value, indent=1, ensure_ascii=False).splitlines()
