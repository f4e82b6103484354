"""Which rows of a test's table run with which version of the CLI, confinement and image.

A table times two versions, or times two images, starts hundreds of real CLIs that do the same. So each row runs with
the newest version, in a namespace, with the image `prod`. With the others, each test runs as well, but only in every
fifth row of its table; each of them in other rows. `--complete` runs everything, as GitHub does every week and before
it publishes images.

A mark `every_row` is for tests whose rows differ with the version, and for rows that cost nothing because they look at
what a fixture has done. A test that is chosen by its whole name always runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import pytest

from tests.support.bridge_cli import NEWEST

USUAL = {
    "attacked_host": NEWEST,
    "confined_host": NEWEST,
    "image": "prod",
    "real_host": NEWEST,
    "sleepy": NEWEST,
    "tight_host": NEWEST,
    "version": NEWEST,
}
"""The parameters that are no rows of a table, each with the value that runs in all rows."""

EVERY = 5
Key = tuple[Any, ...]


def sample(items: Iterable[pytest.Item]) -> set[pytest.Item]:
    """Return the tests that run when not all do.

    A test with several of these parameters runs with all usual values, or with all others: so it meets each value.
    """
    chosen = set()
    for group in _by_function(items).values():
        rows = _numbered(row for row, _, _ in group)
        others = _numbered(other for _, other, _ in group if all(_differ(other)))
        for row, other, item in group:
            is_in_turn = other in others and rows[row] % EVERY == others[other] % min(EVERY, len(rows))
            if is_in_turn or not any(_differ(other)) or _is_whole(item, group):
                chosen.add(item)
    return chosen


def _by_function(items: Iterable[pytest.Item]) -> dict[Key, list[tuple[Key, Key, pytest.Item]]]:
    """Return the tests of each function: its row, its values of USUAL, and the test."""
    found: dict[Key, list[tuple[Key, Key, pytest.Item]]] = defaultdict(list)
    for item in items:
        call: Any = getattr(item, "callspec", None)
        values = dict(call.params) if call else {}
        other = tuple((name, values[name]) for name in sorted(USUAL.keys() & values.keys()))
        row = tuple((name, id(values[name])) for name in sorted(values.keys() - USUAL.keys()))
        found[item.path, getattr(item, "originalname", item.name)].append((row, other, item))
    return found


def _numbered(keys: Iterable[Key]) -> dict[Key, int]:
    """Number keys in the order of their first appearance."""
    return {key: number for number, key in enumerate(dict.fromkeys(keys))}


def _differ(other: Key) -> list[bool]:
    """Say of each value of USUAL whether it is another one."""
    return [value != USUAL[name] for name, value in other]


def _is_whole(item: pytest.Item, group: list[tuple[Key, Key, pytest.Item]]) -> bool:
    """Say whether a test runs in any case: it is marked, or its function knows no usual values."""
    return item.get_closest_marker("every_row") is not None or all(any(_differ(other)) for _, other, _ in group)
