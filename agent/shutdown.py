"""The stop ladder: every process gets a signal that it does not ignore, then time to end, and only then KILL.

The order of the signals matters: without each of these rules, a file was once left half-written.
- A process with a handler for TERM cleans up by itself. It is signalled at once, and only once.
- The processes that it starts meanwhile are part of its clean-up and get no signal. When all signalled processes have
  ended and others are left, those are signalled next.
- An interactive shell ignores TERM, so it gets HUP. It passes HUP on to its jobs, and the kernel and tmux send HUP to
  everything in its terminal. So it is signalled after all of those have ended. The same holds for a shell that would
  die of TERM while its child is still saving something.
- A tmux server is signalled after the processes in it, because its end sends HUP to all panes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.children import gone
from agent.processes import Process, below, living
from agent.waiting import first_of

if TYPE_CHECKING:
    from collections.abc import Callable

    Scope = Callable[[dict[int, Process]], set[int]]
    """Chooses the pids that a shutdown has to end."""

LOOK_AGAIN_S = 0.25
"""Ends are noticed at once. This only limits how long a new process stays unnoticed."""
HANG_UP_S = 0.3
"""Between HUP and KILL at the end of the grace."""
MOST_ASKINGS = 4
"""bash loses a HUP that comes between its child's end and its prompt (seen with 5.2), so it is signalled again."""
KILL_ROUNDS = 40
KILL_ROUND_S = 0.05

ASKING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@dataclass
class ShutdownReport:
    """How many processes were signalled, and the names of those that were killed or that we may not signal."""

    asked: int = 0
    killed: list[str] = field(default_factory=list)
    not_permitted: list[str] = field(default_factory=list)


def asking_signal(process: Process) -> int:
    """Return the mildest signal that the process does not ignore."""
    return next((s for s in ASKING if not process.ignores(s)), signal.SIGTERM)


def is_held_back(process: Process, group: dict[int, Process]) -> bool:
    """Say whether a signal to `process` now would end another process of `group` during its clean-up."""
    if process.comm == "tmux: server":
        return bool(below(process.pid, group))
    if process.catches_term:
        return False
    dependents = below(process.pid, group)
    if process.session == process.pid:  # its end sends HUP to everything in its terminal
        dependents |= {p.pid for p in group.values() if p.session == process.pid and p.pid != process.pid}
    if process.ignores(signal.SIGTERM):
        return bool(dependents)
    return any(group[pid].catches_term for pid in dependents)


class ProcessShutdown:
    """Ends all processes that `scope` chooses. `hurry` skips the wait when it is done."""

    def __init__(self, scope: Scope, hurry: asyncio.Future[None]) -> None:
        self._clock = asyncio.get_running_loop().time
        self._scope = scope
        self._hurry = hurry
        self._group: set[tuple[int, int]] = set()
        self._asked: dict[tuple[int, int], tuple[int, float]] = {}
        self._not_permitted: dict[tuple[int, int], str] = {}
        self._watched: dict[tuple[int, int], asyncio.Future[None]] = {}
        self.result = ShutdownReport()

    async def run(self, grace_s: float) -> ShutdownReport:
        """Send the signals, wait until all have ended or the grace is over, then escalate."""
        deadline = self._clock() + grace_s
        while (left := self._left()) and not self._hurry.done():
            patience = deadline - self._clock()
            if patience <= 0:
                break
            self._ask(left)
            await self._next_end(left, min(LOOK_AGAIN_S, patience), self._hurry)
        if left:
            await self._escalate()
        self.result.asked = len(self._asked)
        self.result.not_permitted = list(self._not_permitted.values())
        return self.result

    def _left(self) -> dict[int, Process]:
        everybody = living()
        chosen = self._scope(everybody)
        return {pid: p for pid, p in everybody.items() if pid in chosen and p.key not in self._not_permitted}

    def _ask(self, left: dict[int, Process]) -> None:
        group = {pid: p for pid, p in left.items() if p.key in self._group}
        if not group:
            group = left
            self._group = {p.key for p in left.values()}
        for process in group.values():
            times, due = self._asked.get(process.key, (0, 0.0))
            if times and not (process.is_shell_at_prompt and times < MOST_ASKINGS and self._clock() >= due):
                continue
            if not is_held_back(process, group):
                self._asked[process.key] = (times + 1, self._clock() + LOOK_AGAIN_S)
                self._send(process, asking_signal(process))
                if process.state == "T":  # a stopped process does not act on the signal
                    self._send(process, signal.SIGCONT)

    async def _escalate(self) -> None:
        for process in self._left().values():
            self._send(process, signal.SIGHUP)
            self._send(process, signal.SIGCONT)
        deadline = self._clock() + HANG_UP_S
        while (left := self._left()) and self._clock() < deadline:
            await self._next_end(left, deadline - self._clock())
        killed: dict[tuple[int, int], str] = {}
        for _ in range(KILL_ROUNDS):  # several rounds, because processes may still fork
            left = self._left()
            if not left:
                break
            for process in left.values():
                if self._send(process, signal.SIGKILL):
                    killed[process.key] = f"{process.comm} ({process.pid})"
            await self._next_end(left, KILL_ROUND_S)
        self.result.killed = list(killed.values())

    async def _next_end(self, left: dict[int, Process], patience_s: float, *others: asyncio.Future[None]) -> None:
        for process in left.values():
            if process.key not in self._watched:
                with contextlib.suppress(OSError):  # ignored because the wait ends after LOOK_AGAIN_S anyway
                    self._watched[process.key] = gone(process.pid)
        ends = [self._watched[p.key] for p in left.values() if p.key in self._watched]
        await first_of(*(end for end in ends if not end.done()), *others, timeout_s=patience_s)

    def _send(self, process: Process, signum: int) -> bool:
        try:
            os.kill(process.pid, signum)
        except ProcessLookupError:
            return False
        except PermissionError:  # it belongs to another user, from `docker exec -u`
            self._not_permitted[process.key] = f"{process.comm} ({process.pid})"
            return False
        return True


def whole_container(*spared: int) -> Scope:
    """Choose all processes of the container except init, this one and those spared.

    A process that the engine is just starting (`docker exec`, the health probe) does not belong to the container yet.
    With `--pid=host` the list would hold the host's processes, so only the descendants of this one are chosen.
    """
    init, own = os.getppid(), os.getpid()

    def scope(processes: dict[int, Process]) -> set[int]:
        if is_own_namespace(init, processes):
            passing = {pid for pid, p in processes.items() if is_passing_through(p, spared)}
            return set(processes) - {1, init, own, *spared} - passing
        return below(own, processes) - set(spared)

    return scope


def one_terminal(session: int) -> Scope:
    """Choose the processes that were started in one pane, by the kernel's session id."""
    return lambda processes: {p.pid for p in processes.values() if p.session == session}


def is_passing_through(process: Process, servers: tuple[int, ...]) -> bool:
    """Say whether it will soon become another program: a process of the engine, or a helper that tmux has forked."""
    return process.comm.startswith("runc:") or (process.comm == "tmux: server" and process.parent in servers)


def is_own_namespace(init: int, processes: dict[int, Process]) -> bool:
    """Say whether pid 1 is this container's tini, or Docker's own init with our tini below it."""
    if init == 1:
        return True
    tini, first = processes.get(init), processes.get(1)
    return bool(tini and first and tini.parent == 1 and tini.comm == "tini" and first.comm == "docker-init")
