"""Places: who has one, who shares one, and that nobody waits for somebody who waits for him."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.server.host.config import Limits
from bridge.server.queue import QueueFullError
from bridge.server.turns import NestedLimitError, Turns


def test_nested_call_shares_the_place_and_takes_no_other() -> None:
    turns: Turns[str] = Turns(Limits(running=1, nested=2))
    assert not turns.ask("g", "outer")
    assert turns.next() == "outer"
    turns.nest("inner", "outer")
    turns.nest("innermost", "inner")
    assert turns.ask("g", "inner")
    assert turns.ask("g", "innermost")
    turns.nest("third", "inner")
    with pytest.raises(NestedLimitError):
        turns.ask("g", "third")
    assert turns.queue.running.total() == 1
    turns.over("g", "inner")
    assert turns.ask("g", "third"), "the call that it comes from is over, but the one above that is not"


def test_place_is_free_when_its_last_holder_has_given_it_back() -> None:
    turns: Turns[str] = Turns(Limits(running=1))
    turns.ask("g", "outer")
    turns.ask("h", "other")
    assert turns.next() == "outer"
    turns.nest("inner", "outer")
    turns.ask("g", "inner")
    turns.give_back("outer")
    assert turns.next() is None
    assert turns.ask("g", "outer"), "its own place"
    turns.over("g", "outer")
    assert turns.next() is None
    turns.over("g", "inner")
    assert turns.next() == "other"


def test_call_below_an_idle_one_waits_and_shares_as_soon_as_it_can() -> None:
    turns: Turns[str] = Turns(Limits(running=1))
    turns.ask("h", "other")
    assert turns.next() == "other"
    turns.nest("inner", "idle")
    assert not turns.ask("g", "inner")
    assert not turns.ask("g", "idle")
    turns.queue.leave("g", "inner")
    turns.queue.add("g", "inner")
    turns.over("h", "other")
    assert [turns.next(), turns.next(), turns.next()] == ["idle", "inner", None]


def test_place_that_is_taken_counts_above_the_limit_until_it_is_given_back() -> None:
    turns: Turns[str] = Turns(Limits(running=1))
    for item in "ab":
        turns.ask(item, item)
    turns.next()
    turns.take("c", "c")
    turns.over("a", "a")
    assert turns.next() is None
    turns.give_back("c")
    assert turns.next() == "b"


# No ring


@dataclasses.dataclass(eq=False)
class Program:
    """A call: whether it gives its place back between its requests, and the commands that it runs one by one. Each
    command is a pipeline of calls: each but the first waits for the end of the one before it."""

    is_session: bool
    commands: list[list[Program]]


def programs() -> st.SearchStrategy[Program]:
    leaf = st.builds(Program, st.booleans(), st.just([]))
    return st.recursive(
        leaf,
        lambda below: st.builds(Program, st.booleans(), st.lists(st.lists(below, min_size=1, max_size=3), max_size=2)),
        max_leaves=12,
    )


class World:
    """Calls as coroutines. Each `yield` is a moment in which the call can do nothing yet."""

    def __init__(self, limits: Limits) -> None:
        self.turns: Turns[int] = Turns(limits, "ab")
        self.numbers = itertools.count()
        self.refused = 0
        self.most = 0
        self.running: list[Iterator[None]] = []
        self.moves = 0

    def run(self, pipelines: list[tuple[str, list[Program]]]) -> None:
        for grant, pipeline in pipelines:
            self.pipe(grant, pipeline, None)
        while self.running:
            before = self.moves
            for each in list(self.running):
                if next(each, self) is self:
                    self.running.remove(each)
                    self.moves += 1
            while self.turns.next() is not None:
                self.moves += 1
            self.most = max(self.most, self.turns.queue.running.total())
            assert self.moves > before, "nobody can do anything any more: a ring"

    def pipe(self, grant: str, pipeline: list[Program], above: int | None) -> list[set[str]]:
        """Start the calls of a pipeline. Each set has something in it once its call is over."""
        ends: list[set[str]] = []
        for program in pipeline:
            before, end = ends[-1] if ends else {"no pipe"}, set[str]()
            ends.append(end)
            self.running.append(self.call(grant, program, above, before, end))
        return ends

    def call(self, grant: str, program: Program, above: int | None, stdin: set[str], end: set[str]) -> Iterator[None]:
        me = next(self.numbers)
        if above is not None:
            self.turns.nest(me, above)
        try:
            yield from self.get(grant, me)  # it starts with a place, and gives it back while its stdin is open
            if not stdin:
                self.turns.give_back(me)
                self.moves += 1
            while not stdin:
                yield
            for command in [*program.commands, []]:
                yield from self.get(grant, me)
                ends = self.pipe(grant, command, me)
                self.moves += 1
                while not all(ends):
                    yield
                if program.is_session:
                    self.turns.give_back(me)
                    self.moves += 1
                    yield
        except (NestedLimitError, QueueFullError):
            self.refused += 1
        finally:
            self.turns.over(grant, me)
            end.add("over")

    def get(self, grant: str, me: int) -> Iterator[None]:
        if not self.turns.has_place(me) and not self.turns.ask(grant, me):
            while not self.turns.has_place(me):
                yield


PIPELINES = st.lists(
    st.tuples(st.sampled_from("ab"), st.lists(programs(), min_size=1, max_size=3)), min_size=1, max_size=4
)


@settings(max_examples=300, deadline=None)
@given(PIPELINES, st.integers(1, 3), st.integers(1, 3), st.integers(1, 4))
def test_no_call_waits_for_one_that_waits_for_it(
    pipelines: list[tuple[str, list[Program]]], running: int, per_grant: int, nested: int
) -> None:
    world = World(Limits(running=running, per_grant=per_grant, nested=nested))
    world.run(pipelines)
    assert world.most <= running
    assert not world.turns.queue.running
    assert not world.turns.queue.waiting
