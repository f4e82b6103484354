"""Shares the event loop between grants: each turn gives every grant that has work one slice of time.

A connection with ten thousand frames, or a grant with a hundred such connections, gets the same few milliseconds of a
turn as one with a single frame. What is left waits for the next turn, and meanwhile its connection is not read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable
from typing import Protocol

SLICE_S = 0.0005
"""Of one grant in a turn: about 100 small frames."""

TURN_S = 0.002
"""Of all grants in a turn, when more than four of them have work."""

SMALLEST_SLICE_S = 0.0001

REST_S = 0.003
"""Between two slices of one grant outside of the turns. A grant that sends little is answered without delay."""

LARGE = 64 * 1024
"""Bytes of an unfinished frame beyond which its connection needs a place. Calls and full data frames have so many."""

PLACES = 8
"""Connections of one grant that may read large frames at once. With 128 connections, a grant holds 16 MiB of
unfinished frames at most."""


class Worker(Hashable, Protocol):
    """Something that has work for the loop."""

    def work(self, until: float) -> bool:
        """Work until a moment of `time.monotonic`; whether there is more to do at once."""


class Reader(Hashable, Protocol):
    """A connection that may have to wait for a place."""

    def look(self) -> None:
        """Look again whether to read."""


class GrantSchedule:
    """The work of one grant, and its connections' places."""

    def __init__(self) -> None:
        self.connections = 0
        self.is_behind = False
        """Whether its last slice did not suffice."""
        self._rested_at = 0.0
        self.workers: dict[Worker, None] = {}
        """In the order of their work."""
        self._large: set[Reader] = set()
        self._waiting: dict[Reader, None] = {}

    def work(self, until: float) -> None:
        """Let the workers work one after the other, until a moment of `time.monotonic`."""
        while self.workers and time.monotonic() < until:
            worker = next(iter(self.workers))
            del self.workers[worker]
            if worker.work(until):
                self.workers[worker] = None
        self.is_behind = bool(self.workers)

    def work_at_once(self, worker: Worker) -> bool:
        """Let a worker of a grant that has done little lately go first; whether it did."""
        now = time.monotonic()
        if self.workers or now < self._rested_at:
            return False
        self._rested_at = now + REST_S
        if worker.work(now + SLICE_S):
            self.workers[worker] = None
        return True

    def has_place(self, reader: Reader, size: int) -> bool:
        """Whether a connection may read on with an unfinished frame of that size; `look` is called when it may."""
        if size <= LARGE:
            self.leave(reader)
            return True
        if reader in self._large or len(self._large) < PLACES:
            self._large.add(reader)
            return True
        self._waiting[reader] = None
        return False

    def leave(self, reader: Reader) -> None:
        """Give a connection's place to the next."""
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
        """Let it work at once when its grant has done little lately, otherwise in the next turn."""
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
        """Forget a worker that has gone."""
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
