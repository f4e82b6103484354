"""Bounds the disk space that the conversations of each grant take. It is measured now and then, off the loop."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Container, Iterable
from pathlib import Path

from bridge.server.host.config import MIB
from bridge.server.host.grants import Grant, StateError
from bridge.server.host.trees import Walk

EVERY_S = 10.0
"""Between two measurements of a grant whose calls run, or have ended since."""

MAX_FILES = 100_000
"""Looked at; a directory with more of them is over any limit."""

SMALLEST = 4096
"""Bytes that a file or directory takes at least."""

OVER = 1 << 62
"""Bytes; more than any limit: what cannot be counted is not taken for nothing."""

OWN_LACK = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Errors that tell of this server, and nothing of the directory."""


class DiskUsage:
    """What is known of each grant's directory.

    `directory` finds the directory of a grant (OSError, StateError), `limit` the MiB that it may take. `exceeded` is
    called with a grant's name when it takes twice as much.
    """

    def __init__(
        self, directory: Callable[[Grant], Path], limit: Callable[[], int], exceeded: Callable[[str], None]
    ) -> None:
        self._directory = directory
        self._limit = limit
        self._exceeded = exceeded
        self._taken: dict[str, int] = {}
        self._places: dict[str, Path] = {}
        self._used: set[str] = set()
        """Grants of which a call has ended since the last look."""
        self._measured: dict[str, float] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def problem(self, grant: str) -> str:
        """Why no call of this grant may begin, or nothing."""
        found, most = self._taken.get(grant, 0), self._limit()
        if found <= most * MIB:
            return ""
        named = f"the conversations of grant {grant}"
        where = "on the host, `claude-bridge-server status` names their directory"
        if found == OVER:
            return f"{named} cannot be counted on the host's disk; {where}: remove what cannot be read, or is too much"
        return (
            f"{named} take more of the host's disk than limits.disk allows ({most} MiB); "
            f"{where}: remove some, or raise limits.disk"
        )

    def note(self, grant: str) -> str:
        """The same for the operator."""
        if not self.problem(grant):
            return ""
        where, most = self._places.get(grant), self._limit()
        if self._taken[grant] == OVER:
            return f"files in {where} cannot be counted (unreadable, moved about, or over {MAX_FILES}); remove some"
        return f"more than limits.disk ({most} MiB) in {where}; remove some"

    def used(self, grant: str) -> None:
        """A call of the grant has ended."""
        self._used.add(grant)

    def settle(self, grants: Iterable[Grant], running: Container[str]) -> None:
        """Measure again where calls run or have run, and where too much was found; called now and then."""
        for grant in grants:
            if grant.name in running or grant.name in self._used or self.problem(grant.name):
                self._look_at(grant)

    def _look_at(self, grant: Grant) -> None:
        loop, name = asyncio.get_running_loop(), grant.name
        if name in self._tasks or loop.time() < self._measured.get(name, -EVERY_S) + EVERY_S:
            return
        self._measured[name] = loop.time()
        self._used.discard(name)
        task = self._tasks[name] = loop.create_task(self._measure(grant))
        task.add_done_callback(lambda _: self._tasks.pop(name, None))

    async def _measure(self, grant: Grant) -> None:
        try:
            directory = self._directory(grant)
        except (OSError, StateError):
            return  # ignored because the call itself reports it
        self._places[grant.name] = directory
        try:
            self._taken[grant.name] = await asyncio.to_thread(taken, directory)
        except OSError:
            return  # ignored because what was found before holds until the next look
        if self._taken[grant.name] > 2 * self._limit() * MIB:
            self._exceeded(grant.name)


def taken(directory: Path) -> int:
    """Bytes of the disk that a directory takes, or OVER; OSError when this server lacks what it needs to look."""
    count = _Sum()
    try:
        return count.total if count.run(directory) else OVER
    except _OverError:
        return OVER
    except OSError as error:
        if error.errno in OWN_LACK:
            raise
        return OVER


class _OverError(Exception):
    """More than is looked at."""


class _Sum(Walk):
    """Adds up what entries take."""

    total = seen = 0

    def begin(self) -> None:
        self.total = self.seen = 0

    def entry(self, fd: int, name: str, found: os.stat_result) -> None:
        self.seen += 1
        self.total += max(found.st_blocks * 512, SMALLEST)
        if self.seen > MAX_FILES:
            raise _OverError

    def trouble(self, error: OSError) -> None:
        raise error
