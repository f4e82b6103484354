"""The queue: its limits, and fairness between grants."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.server.host.config import Limits
from bridge.server.queue import FairQueue, QueueFullError


def drain(queue: FairQueue[str]) -> list[str]:
    """Run everything that may run, one call at a time. Returns the order."""
    order = []
    while turn := queue.next():
        order.append(turn[1])
        queue.done(turn[0])
    return order


def test_grants_take_turns() -> None:
    queue: FairQueue[str] = FairQueue(Limits(running=1))
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        queue.add(item[0], item)
    assert drain(queue) == ["a1", "b1", "c1", "a2", "c2", "a3"]


def test_newcomer_goes_before_everyone_s_second_call() -> None:
    queue: FairQueue[str] = FairQueue(Limits(running=1))
    for item in ("a1", "a2", "a3"):
        queue.add("a", item)
    assert queue.next() == ("a", "a1")
    queue.add("b", "b1")
    queue.done("a")
    assert drain(queue) == ["b1", "a2", "a3"]


def test_caps_hold() -> None:
    queue: FairQueue[str] = FairQueue(Limits(running=3, per_grant=2))
    for item in ("a1", "a2", "a3", "b1", "b2"):
        queue.add(item[0], item)
    assert [queue.next(), queue.next(), queue.next(), queue.next()] == [("a", "a1"), ("b", "b1"), ("a", "a2"), None]
    queue.done("b")
    assert queue.next() == ("b", "b2")


def test_last_turn_is_kept_for_a_grant_that_has_none() -> None:
    queue: FairQueue[str] = FairQueue(Limits(running=4, per_grant=2), "abc")
    for item in ("a1", "a2", "b1", "b2", "c1"):
        queue.add(item[0], item)
        if item == "b2":
            assert [queue.next(), queue.next(), queue.next(), queue.next()][2:] == [("a", "a2"), None]
    assert queue.next() == ("c", "c1")


def test_last_turn_is_anybody_s_when_every_grant_has_one() -> None:
    queue: FairQueue[str] = FairQueue(Limits(running=4, per_grant=2), "ab")
    for item in ("a1", "a2", "b1", "b2"):
        queue.add(item[0], item)
    assert [queue.next() for _ in range(4)][-1] == ("b", "b2")


def test_what_a_grant_takes_beyond_its_limit_is_not_another_s() -> None:
    queue: FairQueue[str] = FairQueue(Limits(running=4, per_grant=2), "ab")
    for _ in range(5):
        queue.take("a")
    for item in ("a1", "b1", "b2", "b3"):
        queue.add(item[0], item)
    assert [queue.next(), queue.next(), queue.next()] == [("b", "b1"), ("b", "b2"), None]


def test_full_queue_of_one_grant_is_not_another_s() -> None:
    queue: FairQueue[str] = FairQueue(Limits(running=1, queued=2))
    queue.add("a", "a0")
    queue.next()
    queue.add("a", "a1")
    queue.add("a", "a2")
    with pytest.raises(QueueFullError):
        queue.add("a", "a3")
    queue.add("b", "b1")


def test_item_that_leaves_is_not_run() -> None:
    queue: FairQueue[str] = FairQueue(Limits(running=1))
    queue.add("a", "a1")
    queue.add("a", "a2")
    assert queue.leave("a", "a1")
    assert not queue.leave("a", "a1")
    assert drain(queue) == ["a2"]


def test_positions_foretell_the_order() -> None:
    queue: FairQueue[str] = FairQueue(Limits(running=1))
    for item in ("a1", "a2", "b1", "c1", "b2"):
        queue.add(item[0], item)
    positions = queue.positions()
    assert sorted(positions, key=lambda item: positions[item]) == drain(queue)


@given(st.lists(st.sampled_from(["a", "b", "c", "done"]), max_size=60))
def test_grants_take_turns_fairly(steps: list[str]) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue(Limits(running=1, queued=100))
    arrived: dict[tuple[str, int], int] = {}
    turns: list[tuple[int, str]] = []
    running: str | None = None
    for now, step in enumerate([*steps, *["done"] * 60]):
        if step == "done":
            if running:
                queue.done(running)
                running = None
        else:
            arrived[step, now] = now
            queue.add(step, (step, now))
        if running is None and (turn := queue.next()):
            running = turn[0]
            del arrived[turn[1]]
            last = {name: when for when, name in turns}
            for (name, _), came in arrived.items():
                since = max(came, last.get(name, 0))
                if name != running and running in last:
                    assert since >= last[running], f"{name} waits since {since}, {running} ran at {last[running]}"
            turns.append((now, running))
