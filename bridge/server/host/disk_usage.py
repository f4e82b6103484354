"""How much of the host's disk the conversations of a grant take: measured now and then, off the loop, and bounded."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from bridge.server.host.config import MIB
from bridge.server.host.grants import Grant, StateError
from bridge.server.host.trees import Walk

if TYPE_CHECKING:
    from bridge.server.server import Service

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


class Disk:
    """What is known of each grant's directory."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._taken: dict[str, int] = {}
        self._places: dict[str, Path] = {}
        self._used: set[str] = set()
        """Grants of which a call has ended since the last look."""
        self._measured: dict[str, float] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def problem(self, grant: str) -> str:
        """Why no call of this grant may begin, or nothing."""
        found, most = self._taken.get(grant, 0), self._service.config.limits.disk
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
        where, most = self._places.get(grant), self._service.config.limits.disk
        if self._taken[grant] == OVER:
            return f"files in {where} cannot be counted (unreadable, moved about, or over {MAX_FILES}); remove some"
        return f"more than limits.disk ({most} MiB) in {where}; remove some"

    def used(self, grant: str) -> None:
        """A call of the grant has ended."""
        self._used.add(grant)

    def settle(self) -> None:
        """Measure again where calls run or have run, and where too much was found; called now and then."""
        for name, grant in self._service.grants.items():
            if self._service.queue.running[name] or name in self._used or self.problem(name):
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
            directory = self._service.state.private(grant)
        except (OSError, StateError):
            return  # ignored because the call itself tells of it
        self._places[grant.name] = directory
        try:
            self._taken[grant.name] = await asyncio.to_thread(taken, directory)
        except OSError:
            return  # ignored because what was found before holds until the next look
        if self._taken[grant.name] > 2 * self._service.config.limits.disk * MIB:
            for call in self._service.calls("running"):
                if call.peer.grant.name == grant.name:
                    call.fail("full", self.problem(grant.name))


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
