"""Holds new work until a time: of all grants, or of one. Then it starts again one by one.

Pure, except for the clock. The queue (bridge/server/queue.py) asks here before it gives a turn.

A hold has a cause, for example the account's usage limit, or a budget. A new hold of the same grant and cause takes the
place of the earlier one. Work starts when no hold is left that concerns it.

After a hold, the first call goes alone for a moment: if the limit is still reached, its answer says so, and the others
have not started in vain. The rest follows with a gap between two starts, until nobody waits. So there is no burst, and
the queue's order decides who is first.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection

ALONE_S = 3.0
"""Seconds for which the first call goes alone after a hold. The CLI starts, asks, and hears of a limit in them."""

GAP_S = 0.5
"""Seconds between two starts after that. A CLI takes a core for about a second when it starts."""


@dataclasses.dataclass(frozen=True)
class Held:
    """Why new work waits, and until when."""

    cause: str
    """What holds it, as one word for programs."""
    until: float
    """Seconds since the epoch."""
    why: str
    """The reason for people: a part of a sentence, without a full stop and without the time."""


@dataclasses.dataclass
class _Restart:
    """The starts after a hold."""

    next_at: float = 0.0
    """When the next one may start, seconds since the epoch."""
    has_begun: bool = False
    is_last: bool = False
    """Whether nobody waits any more. Then it is over at `next_at`."""


class Holds:
    """All holds. `None` in place of a grant's name stands for all grants."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """`clock` returns seconds since the epoch."""
        self._clock = clock
        self._held: dict[str | None, dict[str, Held]] = {}
        self._restarts: dict[str | None, _Restart] = {}

    def hold(self, grant: str | None, cause: str, until: float, why: str) -> None:
        """Hold new work of one grant, or of all, until `until` (seconds since the epoch). A time that is past ends
        the hold of this cause."""
        if until <= self._clock():
            self.release(grant, cause)
            return
        self._held.setdefault(grant, {})[cause] = Held(cause, until, why)
        self._restarts[grant] = _Restart()

    def release(self, grant: str | None, cause: str | None = None) -> bool:
        """End the holds of one grant, or those of all grants, before their time. Returns whether there was one."""
        ended = [held for held in self._now(grant).values() if cause in (None, held.cause)]
        for held in ended:
            del self._held[grant][held.cause]
        self._now(grant)
        return bool(ended)

    def of(self, grant: str | None) -> Held | None:
        """Return what holds a grant's new work the longest; `None`: what holds everybody's."""
        found = [held for key in {None, grant} for held in self._now(key).values()]
        return max(found, key=lambda held: (held.until, held.cause), default=None)

    def may_start(self, grant: str) -> bool:
        """Return whether a call of the grant may start now."""
        return self._free_at(grant) <= self._clock()

    def start(self, grant: str) -> None:
        """Count a start: the next one after a hold keeps its distance."""
        for key in (None, grant):
            self._now(key)
            if restart := self._restarts.get(key):
                restart.next_at = max(restart.next_at, self._clock() + (GAP_S if restart.has_begun else ALONE_S))
                restart.has_begun = True

    def wake_at(self, waiting: Collection[str]) -> float | None:
        """Return when the first of these grants may start, if that is later than now. `waiting` are all grants that
        wait. Where nobody waits any more after a hold, starts need no distance any longer."""
        for key, restart in self._restarts.items():
            restart.is_last = not (waiting if key is None else key in waiting)
        times = [self._free_at(grant) for grant in waiting]
        return min(times) if times and min(times) > self._clock() else None

    def _free_at(self, grant: str) -> float:
        """Return when the grant's next call may start."""
        held = [held.until for key in (None, grant) for held in self._now(key).values()]
        return max([0.0, *held, *(self._restarts[key].next_at for key in (None, grant) if key in self._restarts)])

    def _now(self, key: str | None) -> dict[str, Held]:
        """Return the holds that have not ended. Those that have are forgotten, and so is a restart that is over."""
        now = self._clock()
        left = {cause: held for cause, held in self._held.pop(key, {}).items() if held.until > now}
        if left:
            self._held[key] = left
        elif (restart := self._restarts.get(key)) and restart.is_last and restart.next_at <= now:
            del self._restarts[key]
        return left
