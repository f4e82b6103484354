"""Who runs next: caps on what runs, bounded waiting, and no grant twice before another that waits.

Pure: it starts nothing itself. The turn goes to the waiting grant whose last turn is longest ago; so when B
has waited since before A's turn, B's own last turn is older than that, and A cannot come again before B.

Turns have no limit in time: a session may last for days. So that two grants cannot hold all of them, the last one is
kept for a grant that has none running, as long as there is one and the limits leave room for that.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Collection
from typing import Generic, TypeVar

from bridge.server.host.config import Limits

Item = TypeVar("Item")


class QueueFullError(Exception):
    """The grant has as many calls waiting as it may."""


class FairQueue(Generic[Item]):
    """Items that wait, by grant, and how many run."""

    def __init__(self, limits: Limits, grants: Collection[str] = ()) -> None:
        """`grants` are all that could come."""
        self.limits = limits
        self._grants = grants
        self.running: collections.Counter[str] = collections.Counter()
        self.waiting: dict[str, collections.deque[Item]] = {}
        self._turns: dict[str, int] = {}
        self._numbers = itertools.count(1)

    def add(self, grant: str, item: Item) -> None:
        """Let an item wait; QueueFullError. `next` tells who runs, also when that is this one."""
        mine = self.waiting.setdefault(grant, collections.deque())
        if len(mine) >= self.limits.queued and not self._may_run(grant):
            raise QueueFullError(f"{len(mine)} calls wait already")
        mine.append(item)

    def next(self) -> tuple[str, Item] | None:
        """Take the item whose turn it is, and count it as running; None when nobody may run."""
        ready = [grant for grant in self.waiting if self._may_run(grant)]
        if not ready:
            return None
        grant = min(ready, key=lambda name: self._turns.get(name, 0))
        item = self.waiting[grant].popleft()
        if not self.waiting[grant]:
            del self.waiting[grant]
        self._turns[grant] = next(self._numbers)
        self.running[grant] += 1
        return grant, item

    def leave(self, grant: str, item: Item) -> bool:
        """Stop waiting; whether it did."""
        mine = self.waiting.get(grant)
        if mine is None or item not in mine:
            return False
        mine.remove(item)
        if not mine:
            del self.waiting[grant]
        return True

    def done(self, grant: str) -> None:
        """Make room: a running item has ended."""
        self.running[grant] -= 1
        if not self.running[grant]:
            del self.running[grant]

    def positions(self) -> dict[Item, int]:
        """How many turns come before each waiting item, as things stand; caps of single grants left aside."""
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
        return self.running.total() < self.limits.running - kept and self.running[grant] < self.limits.per_grant
