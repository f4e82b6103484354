"""Decides which call runs next. It limits how many run and wait, and lets the grants take turns.

Pure: it starts nothing itself. The waiting grant that was served least recently goes next. So no grant gets a
second turn before another one that waits and may run.

Turns have no time limit, because an answer may take hours. Two grants could hold all turns. So the last turn is
reserved for a grant that has none running, if such a grant exists and the limits are large enough.

Work can be held until a time, of all grants or of one (bridge/server/holds.py). It keeps its order meanwhile.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Collection
from typing import Generic, TypeVar

from bridge.server.holds import Holds
from bridge.server.host.config import Limits

Item = TypeVar("Item")


class QueueFullError(Exception):
    """The grant has reached its limit of waiting calls."""


class FairQueue(Generic[Item]):
    """Waiting items by grant, and the number of running ones."""

    def __init__(self, limits: Limits, grants: Collection[str] = (), holds: Holds | None = None) -> None:
        """`grants` are the names of all grants that could come. `holds` says whose work may start."""
        self.limits = limits
        self._holds = holds or Holds()
        self._grants = grants
        self.running: collections.Counter[str] = collections.Counter()
        self.waiting: dict[str, collections.deque[Item]] = {}
        self._turns: dict[str, int] = {}
        self._numbers = itertools.count(1)

    def add(self, grant: str, item: Item) -> None:
        """Add an item to the queue. Raises QueueFullError. `next` returns what runs, which may be this item."""
        mine = self.waiting.setdefault(grant, collections.deque())
        if len(mine) >= self.limits.queued and not (self._may_run(grant) and self._holds.may_start(grant)):
            raise QueueFullError(f"{len(mine)} calls wait already")
        mine.append(item)

    def next(self) -> tuple[str, Item] | None:
        """Remove the next item from the queue and count it as running. Returns None if none may run."""
        ready = [grant for grant in self.waiting if self._may_run(grant) and self._holds.may_start(grant)]
        if not ready:
            return None
        grant = min(ready, key=lambda name: self._turns.get(name, 0))
        item = self.waiting[grant].popleft()
        if not self.waiting[grant]:
            del self.waiting[grant]
        self.take(grant)
        self._holds.start(grant)
        return grant, item

    def take(self, grant: str) -> None:
        """Count an item as running without its turn. The number may exceed the limits; then nothing else of
        the grant may run. What exceeds `per_grant` takes no place from other grants."""
        self._turns[grant] = next(self._numbers)
        self.running[grant] += 1

    def leave(self, grant: str, item: Item) -> bool:
        """Remove an item from the queue. Returns whether it was waiting."""
        mine = self.waiting.get(grant)
        if mine is None or item not in mine:
            return False
        mine.remove(item)
        if not mine:
            del self.waiting[grant]
        return True

    def done(self, grant: str) -> None:
        """Count a running item as ended."""
        self.running[grant] -= 1
        if not self.running[grant]:
            del self.running[grant]

    def positions(self) -> dict[Item, int]:
        """Return how many turns come before each waiting item now. The caps of single grants are ignored."""
        turns = dict(self._turns)
        lines = {grant: list(items) for grant, items in self.waiting.items()}
        order: dict[Item, int] = {}
        clock = itertools.count(max(turns.values(), default=0) + 1)
        while lines:
            grant = min(lines, key=lambda name: turns.get(name, 0))
            order[lines[grant].pop(0)] = len(order)
            turns[grant] = next(clock)
            if not lines[grant]:
                del lines[grant]
        return order

    def _may_run(self, grant: str) -> bool:
        others = self.running[grant] and any(name not in self.running for name in self._grants)
        kept = 1 if others and self.limits.running >= 2 * self.limits.per_grant else 0
        taken = sum(min(count, self.limits.per_grant) for count in self.running.values())
        return taken < self.limits.running - kept and self.running[grant] < self.limits.per_grant
