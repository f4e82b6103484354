"""Limits the disk space of each grant's conversations. It is measured from time to time, in a thread."""

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
"""Seconds between two measurements of a grant with running calls, or with calls that have ended since."""

MAX_FILES = 100_000
"""Files that are counted. A directory with more is over any limit."""

SMALLEST = 4096
"""Smallest size that is counted for a file or directory, bytes."""

OVER = 1 << 62
"""Bytes, more than any limit. Used if a directory cannot be counted."""

OWN_LACK = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Errors that are caused by this server's own limits, not by the directory."""


class DiskUsage:
    """The measured disk usage of each grant's directory.

    `directory` returns the directory of a grant (OSError, StateError). `limit` returns the MiB that it may use.
    `exceeded` is called with a grant's name if it uses twice as much.
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
        """Grants whose calls have ended since the last measurement."""
        self._measured: dict[str, float] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def problem(self, grant: str) -> str:
        """Return why no call of this grant may begin; empty if calls may."""
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
        """Return the same for the operator."""
        if not self.problem(grant):
            return ""
        where, most = self._places.get(grant), self._limit()
        if self._taken[grant] == OVER:
            return f"files in {where} cannot be counted (unreadable, moved about, or over {MAX_FILES}); remove some"
        return f"more than limits.disk ({most} MiB) in {where}; remove some"

    def used(self, grant: str) -> None:
        """Report that a call of the grant has ended."""
        self._used.add(grant)

    def settle(self, grants: Iterable[Grant], running: Container[str]) -> None:
        """Measure again if calls run or have run, or if too much was found. Called regularly."""
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
            return  # ignored because the last result stays valid until the next measurement
        if self._taken[grant.name] > 2 * self._limit() * MIB:
            self._exceeded(grant.name)


def taken(directory: Path) -> int:
    """Return the bytes on disk that a directory uses, or OVER. Raises OSError if this server has too few resources
    to measure."""
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
    """There are more files than are counted."""


class _Sum(Walk):
    """Adds up the disk usage of the entries."""

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
