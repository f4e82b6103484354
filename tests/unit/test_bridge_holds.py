"""Holds: work waits until a time, nothing is lost, and then it starts one by one, in the queue's order."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.server.holds import ALONE_S, GAP_S, Held, Holds
from bridge.server.host.config import Limits
from bridge.server.queue import FairQueue
from bridge.server.turns import Turns


class Clock:
    """The time of a test, seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """A queue with holds, which checks each start. Each item is its grant's name and a number."""

    def __init__(self, limits: Limits) -> None:
        self.clock = Clock()
        self.holds = Holds(self.clock)
        self.queue: FairQueue[tuple[str, int]] = FairQueue(limits, holds=self.holds)
        self.numbers = itertools.count()
        self.waits_since: dict[tuple[str, int], int] = {}
        self.turns: dict[str, int] = {}
        self.starts: list[tuple[float, str]] = []
        self.running: list[tuple[str, int]] = []
        self.over: list[tuple[str, int]] = []
        self.after_hold: list[float] | None = None
        """The times of the starts since the end of a hold of all, until nobody waits."""

    def add(self, grant: str) -> None:
        item = grant, next(self.numbers)
        self.queue.add(grant, item)
        self.waits_since[item] = next(self.numbers)
        self.dispatch()

    def end_one(self) -> None:
        if self.running:
            item = self.running.pop(0)
            self.queue.done(item[0])
            self.over.append(item)
        self.dispatch()

    def hold(self, grant: str | None, seconds: float) -> None:
        self.holds.hold(grant, "limit", self.clock.now + seconds, "the limit is reached")
        if grant is None and seconds > 0:
            self.after_hold = []
        self.dispatch()

    def pass_time(self, seconds: float) -> None:
        """Let time pass. The queue is asked when the holds say so, as the server does it."""
        end = self.clock.now + seconds
        while (due := self.holds.wake_at(self.queue.waiting)) is not None and due <= end:
            self.clock.now = due
            self.dispatch()
        self.clock.now = end
        self.dispatch()

    def dispatch(self) -> None:
        while True:
            others = [name for name in self.queue.waiting if self.may_run(name)]
            turn = self.queue.next()
            if turn is None:
                break
            self.check(turn[0], others)
            del self.waits_since[turn[1]]
            self.running.append(turn[1])
            self.starts.append((self.clock.now, turn[0]))
            self.turns[turn[0]] = next(self.numbers)
        self.holds.wake_at(self.queue.waiting)
        if not self.waits_since and self.holds.of(None) is None:
            self.after_hold = None

    def may_run(self, grant: str) -> bool:
        return self.holds.may_start(grant) and self.queue.running[grant] < self.queue.limits.per_grant

    def check(self, grant: str, others: list[str]) -> None:
        assert self.holds.of(grant) is None, f"{grant} starts although {self.holds.of(grant)}"
        for other in set(others) - {grant}:
            came = min(since for item, since in self.waits_since.items() if item[0] == other)
            assert max(came, self.turns.get(other, 0)) > self.turns.get(grant, -1), f"{grant} was twice before {other}"
        if self.after_hold is not None:
            distance = GAP_S if len(self.after_hold) > 1 else ALONE_S
            assert not self.after_hold or self.clock.now - self.after_hold[-1] >= distance - 1e-6, "a burst"
            self.after_hold.append(self.clock.now)


def test_work_of_all_waits_and_then_starts_one_by_one_in_fair_order() -> None:
    desk = Desk(Limits(running=40, per_grant=4))
    desk.holds.hold(None, "limit", 1100, "the limit is reached")
    names = [f"g{number:02}" for number in range(20)]
    for name in [*names, *reversed(names)]:
        desk.add(name)
    desk.pass_time(99.9)
    assert not desk.starts
    desk.pass_time(100)
    times = [at for at, _ in desk.starts]
    assert times[0] == 1100
    assert times[1] - times[0] == ALONE_S
    assert {round(after - before, 6) for before, after in itertools.pairwise(times[1:])} == {GAP_S}
    assert [grant for _, grant in desk.starts[:20]] == names
    assert sorted(grant for _, grant in desk.starts[20:]) == names, "a grant was twice before another"


def test_hold_of_one_grant_does_not_concern_another() -> None:
    desk = Desk(Limits())
    desk.holds.hold("a", "budget", 1010, "its budget is used up")
    desk.add("a")
    desk.add("b")
    assert [grant for _, grant in desk.starts] == ["b"]
    assert desk.holds.wake_at(["a"]) == 1010
    desk.pass_time(10)
    assert desk.starts[-1] == (1010, "a")


def test_newer_hold_of_the_same_cause_replaces_the_earlier_one_and_the_longest_of_all_counts() -> None:
    holds = Holds(clock := Clock())
    holds.hold(None, "limit", 2000, "limit")
    holds.hold(None, "limit", 1010, "limit")
    holds.hold("a", "budget", 1020, "budget")
    assert holds.of(None) == holds.of("b") == Held("limit", 1010, "limit")
    assert holds.of("a") == Held("budget", 1020, "budget")
    clock.now = 1015
    assert holds.of("b") is None
    assert not holds.may_start("a")
    assert holds.release("a")
    assert not holds.release("a"), "nothing is held any more"
    assert holds.may_start("a")


def test_limit_that_is_told_again_by_the_first_call_keeps_the_others_waiting() -> None:
    desk = Desk(Limits(running=8))
    desk.holds.hold(None, "limit", 1010, "limit")
    for name in "abc":
        desk.add(name)
    desk.pass_time(11)
    assert len(desk.starts) == 1
    desk.holds.hold(None, "limit", 1030, "limit")
    desk.pass_time(18)
    assert len(desk.starts) == 1
    desk.pass_time(10)
    assert len(desk.starts) == 3


def test_starts_need_no_distance_once_nobody_has_waited() -> None:
    desk = Desk(Limits(running=8, per_grant=8))
    desk.holds.hold(None, "limit", 1010, "limit")
    desk.add("a")
    desk.pass_time(20)
    for _ in range(3):
        desk.add("a")
    assert [at for at, _ in desk.starts] == [1010, 1020, 1020, 1020]


def test_nested_call_that_shares_a_place_is_part_of_the_work_that_runs() -> None:
    holds = Holds(Clock())
    turns: Turns[str] = Turns(Limits(), holds=holds)
    turns.ask("g", "outer")
    assert turns.next() == "outer"
    holds.hold(None, "limit", 1010, "limit")
    turns.nest("inner", "outer")
    assert turns.ask("g", "inner")
    assert not turns.ask("g", "new")
    assert turns.next() is None


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from("abc")),
        st.tuples(st.just("end"), st.none()),
        st.tuples(st.just("pass"), st.sampled_from([0.1, 0.5, 1.0, 3.0, 10.0])),
        st.tuples(st.just("hold all"), st.sampled_from([-1.0, 0.7, 2.0, 8.0])),
        st.tuples(st.just("hold a"), st.sampled_from([0.7, 2.0, 8.0])),
        st.tuples(st.just("release all"), st.none()),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.integers(1, 3), st.integers(1, 3))
def test_nothing_is_lost_nobody_overtakes_and_no_burst_follows(
    steps: list[tuple[str, str | float | None]], running: int, per_grant: int
) -> None:
    desk = Desk(Limits(running=running, per_grant=per_grant, queued=100))
    for step, value in steps:
        if step == "add":
            desk.add(str(value))
        elif step == "end":
            desk.end_one()
        elif step == "pass":
            desk.pass_time(float(value or 0))
        elif step == "release all":
            desk.holds.release(None)
            desk.dispatch()
        else:
            desk.hold(None if step == "hold all" else "a", float(value or 0))
    added = sum(step == "add" for step, _ in steps)
    for _ in range(added + 1):
        desk.pass_time(20)
        desk.end_one()
    assert not desk.waits_since
    assert len(set(desk.over)) == len(desk.over) == added
