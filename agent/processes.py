"""Reads the processes of the container from /proc."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass

TERM_BIT = 1 << (signal.SIGTERM - 1)


@dataclass(frozen=True)
class Process:
    """One living process. `started` distinguishes it from a later one with the same pid."""

    pid: int
    parent: int
    session: int
    started: int
    state: str
    comm: str
    ignored: int
    caught: int
    has_terminal: bool = False

    @property
    def key(self) -> tuple[int, int]:
        """Return a key that no other process has, not even a later one with the same pid."""
        return self.pid, self.started

    def ignores(self, signum: int) -> bool:
        """Say whether the signal would be discarded."""
        return bool(self.ignored >> (signum - 1) & 1)

    @property
    def is_shell_at_prompt(self) -> bool:
        """Say whether it looks like an interactive shell that waits for input."""
        return self.has_terminal and self.session == self.pid and bool(self.ignored & TERM_BIT)

    @property
    def catches_term(self) -> bool:
        """Say whether it has a handler for TERM."""
        return bool(self.caught & TERM_BIT)


def living(proc: str = "/proc") -> dict[int, Process]:
    """Return every process that is no zombie, by pid."""
    found = {}
    for name in os.listdir(proc):  # noqa: PTH208 - only names are needed, and this runs at the end of each process
        if name.isdigit():
            process = _read(f"{proc}/{name}", int(name))
            if process is not None and process.state not in "ZX":
                found[process.pid] = process
    return found


def below(root: int, processes: dict[int, Process]) -> set[int]:
    """Return the pids of all descendants of `root`."""
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process.pid)
    found: set[int] = set()
    waiting = [root]
    while waiting:
        for pid in children.get(waiting.pop(), ()):
            if pid not in found:
                found.add(pid)
                waiting.append(pid)
    return found


def _read(directory: str, pid: int) -> Process | None:
    try:
        with open(f"{directory}/stat", "rb") as file:  # noqa: PTH123 - Path costs more time than the reading
            stat = file.read()
        with open(f"{directory}/status", "rb") as file:  # noqa: PTH123
            status = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None  # it ended between listing and reading
    # the name is in brackets and may itself hold brackets and blanks, so look for the last one
    opening, closing = stat.index(b"("), stat.rindex(b")")
    fields = stat[closing + 2 :].split()
    return Process(
        pid=pid,
        parent=int(fields[1]),
        session=int(fields[3]),
        started=int(fields[19]),
        state=fields[0].decode(),
        comm=stat[opening + 1 : closing].decode(errors="replace"),
        ignored=_mask(status, b"\nSigIgn:"),
        caught=_mask(status, b"\nSigCgt:"),
        has_terminal=int(fields[5]) == int(fields[2]),  # the foreground group of its terminal is its own group
    )


def _mask(status: bytes, label: bytes) -> int:
    _, found, rest = status.partition(label)
    return int(rest.split(None, 1)[0], 16) if found else 0


def own_container(mounts: str | None = None) -> str:
    """Return what `docker exec` takes for this container.

    Docker mounts files of its own, whose paths hold the container's id (`mounts` is /proc/self/mountinfo). The hostname
    may be another name. It is the answer where no such mount exists.
    """
    if mounts is None:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - Path costs more than the reading
            mounts = file.read()
    found = re.search(r"/containers/([0-9a-f]{12})[0-9a-f]{52}/host", mounts)
    return found[1] if found else os.uname().nodename
