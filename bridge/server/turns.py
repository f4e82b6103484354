"""Decides which call has a place, so that it may ask the API. Pure, as the queue below it is.

A call asks for a place, waits for its turn in the queue, and gives the place back. A call that comes from a command of
another call (a nested one) shares the place of the nearest call above it that has one. It never waits for that place:
beyond the limit it is refused at once. So nobody waits for somebody who waits for him:

- Who holds a place waits only for the API, for a command, or for nothing.
- What a command waits for in turn is a nested call: it shares the place, or it is refused.

A place is free again when the last of its holders has given it back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Generic, TypeVar

from bridge.server.holds import Holds
from bridge.server.host.config import Limits
from bridge.server.queue import FairQueue

Item = TypeVar("Item")


class NestedLimitError(Exception):
    """The place that a nested call would share has reached its limit of nested calls."""


@dataclasses.dataclass(eq=False)
class _Place(Generic[Item]):
    """A place, the item that the queue gave it to, and all items that share it."""

    grant: str
    owner: Item
    holders: set[Item]

    @property
    def nested(self) -> int:
        """The number of nested items that work under it."""
        return len(self.holders - {self.owner})


class Turns(Generic[Item]):
    """The places of all grants, and the queue for them."""

    def __init__(self, limits: Limits, grants: Collection[str] = (), holds: Holds | None = None) -> None:
        """`grants` are the names of all grants that could come. `holds` says whose work may start. A nested item that
        shares a place is part of the work that runs, so it is not held."""
        self.queue: FairQueue[Item] = FairQueue(limits, grants, holds)
        self._held: dict[Item, _Place[Item]] = {}
        self._owned: dict[Item, _Place[Item]] = {}
        """Places by owner, also while only nested items hold them."""
        self._above: dict[Item, Item] = {}
        """The item whose command each nested item is."""

    def nest(self, item: Item, above: Item) -> None:
        """Say that an item comes from a command of another one."""
        self._above[item] = above

    def has_place(self, item: Item) -> bool:
        """Return whether an item has a place, of its own or shared."""
        return item in self._held

    def ask(self, grant: str, item: Item) -> bool:
        """Ask for a place. Returns whether the item has it now; otherwise `next` returns the item later.

        Raises QueueFullError or NestedLimitError.
        """
        place = self._nearest(item)
        if place is None:
            self.queue.add(grant, item)
            return False
        if not self._has_room(place, item):
            raise NestedLimitError
        self._join(item, place)
        return True

    def next(self) -> Item | None:
        """Give the next place. Returns the item that has it now, or None if none may have one."""
        for item in self._nested_waiting():
            place = self._nearest(item)
            if place is not None and self._has_room(place, item):  # the call above it has got a place meanwhile
                self.queue.leave(place.grant, item)
                self._join(item, place)
                return item
        turn = self.queue.next()
        if turn is None:
            return None
        grant, item = turn
        self._own(grant, item)
        return item

    def take(self, grant: str, item: Item) -> None:
        """Give an item a place without its turn, because it works already."""
        self.queue.leave(grant, item)
        place = self._nearest(item)
        if place is not None and self._has_room(place, item):
            self._join(item, place)
        else:
            self.queue.take(grant)
            self._own(grant, item)

    def give_back(self, item: Item) -> None:
        """Give back an item's place. It is free once nobody holds it."""
        place = self._held.pop(item, None)
        if place is None:
            return
        place.holders.discard(item)
        if not place.holders:
            del self._owned[place.owner]
            self.queue.done(place.grant)

    def over(self, grant: str, item: Item) -> None:
        """Forget an item, which has ended. Items below it belong to the one above it from now on."""
        self.queue.leave(grant, item)
        self.give_back(item)
        above = self._above.pop(item, None)
        for below in [below for below, parent in self._above.items() if parent is item]:
            if above is None:
                del self._above[below]
            else:
                self._above[below] = above

    def _nested_waiting(self) -> list[Item]:
        if not self._above:
            return []
        return [item for items in self.queue.waiting.values() for item in items if item in self._above]

    def _nearest(self, item: Item) -> _Place[Item] | None:
        """Return the place that an item may share: its own that others hold, or that of the nearest item above."""
        at: Item | None = item
        while at is not None:
            place = self._held.get(at) or self._owned.get(at)
            if place is not None:
                return place
            at = self._above.get(at)
        return None

    def _has_room(self, place: _Place[Item], item: Item) -> bool:
        return item is place.owner or place.nested < self.queue.limits.nested

    def _own(self, grant: str, item: Item) -> None:
        self._held[item] = self._owned[item] = _Place(grant, item, {item})

    def _join(self, item: Item, place: _Place[Item]) -> None:
        place.holders.add(item)
        self._held[item] = place
