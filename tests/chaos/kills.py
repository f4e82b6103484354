"""KILL of `invoke` at random moments of `agents.up --count` and `agents.down`: the next call finishes the work."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

from pipeline.agents import compose
from tests.support.fleets import Fleet
from tests.support.waiting import let_pass

SHARE_OF_DOWN = 0.4
"""Of the kills, those of `agents.down`."""


def kill_at_random(fleet: Fleet, chance: random.Random, count: int) -> Iterator[str]:
    """Kill so many commands, each at a moment between its start and its usual end. Yields one line for each.

    Raises AssertionError where the next call does not finish what the killed one began.
    """
    usual = {"up": _seconds(fleet, fleet.up), "down": _seconds(fleet, fleet.down)}
    for number in range(count):
        what = "down" if chance.random() < SHARE_OF_DOWN else "up"
        if what == "down":
            fleet.good(*fleet.up)
        after_s = chance.uniform(0, usual[what])
        process = fleet.begin(*(fleet.up if what == "up" else fleet.down))
        let_pass(after_s)
        ended = process.poll() is not None
        process.kill()
        process.communicate()
        half_there = fleet.known() if what == "up" else set()
        if what == "up" and chance.random() < 0.5:
            fleet.good(*fleet.up)
            _check_all_healthy(fleet)
        fleet.run(*fleet.down)  # it may say that there is no such agent, where the killed call had made nothing
        left = [*fleet.left(), *fleet.known()]
        assert not left, f"kill {number} of {what} after {after_s:.2f} s: left {left}"
        found = len(half_there)
        yield f"{what} killed after {after_s:.2f} s{' (it had ended)' if ended else ''}; {found} agents were there"


def _seconds(fleet: Fleet, words: list[str]) -> float:
    begun = time.monotonic()
    fleet.good(*words)
    return time.monotonic() - begun


def _check_all_healthy(fleet: Fleet) -> None:
    found = {each.labels["io.magents.agent"]: compose.health(each) for each in fleet.containers()}
    assert found == dict.fromkeys(fleet.names, "healthy"), found
    assert fleet.grants() == sorted(fleet.names)
