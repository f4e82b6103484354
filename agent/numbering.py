"""Which users of the host the users of this container are. They have the same numbers, unless the engine has a user
namespace: a rootless engine, or one with userns-remap.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NOBODY = 65534
"""The kernel shows this number for each user of the host that a namespace does not have."""


@dataclass(frozen=True)
class Numbering:
    """The rows of /proc/self/uid_map or gid_map: first number here, first number on the host, count."""

    rows: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, table: str) -> Numbering:
        """Parse the text of such a file."""
        return cls(
            tuple((int(here), int(host), int(count)) for here, host, count in map(str.split, table.splitlines()))
        )

    def on_host(self, number: int) -> int | None:
        """Return the host's number for one of this container's, or None for one that the host does not know."""
        return next((number - here + host for here, host, count in self.rows if here <= number < here + count), None)

    def has(self, number: int) -> bool:
        """Say whether a file's owner, as it is seen here, is a user that this container can have."""
        return self.on_host(number) is not None and (self.is_hosts or number != NOBODY)

    @property
    def is_hosts(self) -> bool:
        """Whether root here is root on the host."""
        return self.on_host(0) == 0

    @property
    def is_rootless(self) -> bool:
        """Whether root here is the person that runs the engine. That person's number stands alone in its row."""
        return not self.is_hosts and any(here == 0 and count == 1 for here, _, count in self.rows)


def of_users() -> Numbering:
    """Return the numbering of users."""
    return Numbering.of(Path("/proc/self/uid_map").read_text())


def of_groups() -> Numbering:
    """Return the numbering of groups."""
    return Numbering.of(Path("/proc/self/gid_map").read_text())
