"""Shares the event loop between grants: in each turn, every grant with work gets one slice of time.

A connection with ten thousand frames, or a grant with a hundred such connections, gets the same few milliseconds of
a turn as one with a single frame. The rest waits for the next turn, and its connection is not read meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable
from typing import Protocol

SLICE_S = 0.0005
"""Seconds of one grant in a turn: about 100 small frames."""

TURN_S = 0.002
"""Seconds of all grants in a turn, if more than four have work."""

SMALLEST_SLICE_S = 0.0001

REST_S = 0.003
"""Seconds between two slices of one grant outside of the turns. A grant that sends little is answered without delay."""

LARGE = 64 * 1024
"""Bytes of an unfinished frame beyond which its connection needs a place. Calls and full data frames are so large."""

PLACES = 8
"""Connections of one grant that may read large frames at the same time. With 128 connections, a grant holds at most
32 MiB of unfinished frames."""


class Worker(Hashable, Protocol):
    """Has work for the event loop."""

    def work(self, until: float) -> bool:
        """Work until `until` (a value of `time.monotonic`). Returns whether there is more to do now."""


class Reader(Hashable, Protocol):
    """A connection that may have to wait for a place."""

    def look(self) -> None:
        """Check again whether to read."""


class GrantSchedule:
    """The work of one grant, and the places of its connections."""

    def __init__(self) -> None:
        self.connections = 0
        self.is_behind = False
        """Whether its last slice was too short for its work."""
        self._rested_at = 0.0
        self.workers: dict[Worker, None] = {}
        """In the order in which they work."""
        self._large: set[Reader] = set()
        self._waiting: dict[Reader, None] = {}

    def work(self, until: float) -> None:
        """Let the workers work one after the other until `until` (a value of `time.monotonic`)."""
        while self.workers and time.monotonic() < until:
            worker = next(iter(self.workers))
            del self.workers[worker]
            if worker.work(until):
                self.workers[worker] = None
        self.is_behind = bool(self.workers)

    def work_at_once(self, worker: Worker) -> bool:
        """Let a worker work at once if its grant has done little lately. Returns whether it did."""
        now = time.monotonic()
        if self.workers or now < self._rested_at:
            return False
        self._rested_at = now + REST_S
        if worker.work(now + SLICE_S):
            self.workers[worker] = None
        return True

    def has_place(self, reader: Reader, size: int) -> bool:
        """Return whether a connection may read on, if its unfinished frame has `size` bytes. If not, `look` is
        called later."""
        if size <= LARGE:
            self.leave(reader)
            return True
        if reader in self._large or len(self._large) < PLACES:
            self._large.add(reader)
            return True
        self._waiting[reader] = None
        return False

    def leave(self, reader: Reader) -> None:
        """Give a connection's place to the next one."""
        self._waiting.pop(reader, None)
        if reader in self._large:
            self._large.discard(reader)
            while self._waiting and len(self._large) < PLACES:
                following = next(iter(self._waiting))
                del self._waiting[following]
                following.look()


class Scheduler:
    """The schedules of all grants."""

    def __init__(self) -> None:
        self._schedules: dict[str, GrantSchedule] = {}
        self._asked = False

    def __getitem__(self, grant: str) -> GrantSchedule:
        return self._schedules.setdefault(grant, GrantSchedule())

    def add(self, grant: str, worker: Worker) -> None:
        """Let a worker work in the next turn of the loop."""
        self[grant].workers[worker] = None
        self._ask()

    def add_first(self, grant: str, worker: Worker) -> None:
        """Let a worker work at once if its grant has done little lately, otherwise in the next turn."""
        schedule = self[grant]
        if not schedule.work_at_once(worker):
            schedule.workers[worker] = None
        if schedule.workers:
            self._ask()

    def _ask(self) -> None:
        if not self._asked:
            self._asked = True
            asyncio.get_running_loop().call_soon(self._turn)

    def drop(self, grant: str, worker: Worker) -> None:
        """Forget a worker."""
        self[grant].workers.pop(worker, None)

    def _turn(self) -> None:
        self._asked = False
        busy = [schedule for schedule in self._schedules.values() if schedule.workers]
        busy.sort(key=lambda schedule: schedule.is_behind)
        each = max(SMALLEST_SLICE_S, min(SLICE_S, TURN_S / max(1, len(busy))))
        for schedule in busy:
            schedule.work(time.monotonic() + each)
        if any(schedule.workers for schedule in busy):
            self._ask()
