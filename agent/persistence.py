"""Writes state, log and scrollback on /agent in a background thread, in order."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from agent import scrollback, state_file
from agent.paths import AGENT
from agent.tmux import TmuxError
from agent.waiting import first_of
from healthcheck.facts import STOPPED
from healthcheck.worker import Worker

if TYPE_CHECKING:
    from agent.events import Events
    from agent.run_state import RunState
    from agent.tmux import Pane, Tmux

RETRY_S = 5.0
LAST_WRITE_S = 2.0
MOST_WAITING = 1000
"""Lines that may wait for a disk that hangs. More are lost to the file, but not to `docker logs`."""


class StateWriter:
    """Keeps the state of this run in state.json, the log in /agent/log, and the panes in /agent/scrollback."""

    def __init__(self, run_state: RunState, events: Events) -> None:
        self._run_state = run_state
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._worker = Worker()
        self._file = state_file.StateFile(Path(AGENT, "state.json"), self._report)
        self._log = state_file.LogFile(Path(AGENT, "log", "agent.log"), self._report)
        self._is_dirty = False
        self._busy: asyncio.Future[None] | None = None
        self._waiting = 0
        self._problem = ""
        self._lock: int | None = None

    async def open(self) -> bool:
        """Lock the volume and report how the last run ended. Returns false when another agent uses the volume."""
        try:
            lock = partial(state_file.lock, Path(AGENT, "run", "lock"), self._report)
            self._lock = await self._worker.call(lock)
        except OSError:
            return True  # ignored because the volumes check says what is wrong with /agent
        if self._lock is None:
            return False
        last = await self._worker.call(self._file.read)
        self._run_state.cut_off = state_file.times_cut_off(last)
        sentence = state_file.how_it_ended(last)
        if sentence:
            self._run_state.cut_off += 1
            self._run_state.notes.append(sentence)
            self._events.warning("state", sentence)
        self._events.keep = self._keep_line
        return True

    def save(self) -> None:
        """Write the state soon. Changes during a write cause one more write."""
        if self._lock is None:
            return
        self._is_dirty = True
        if self._busy is None:
            self._write()

    async def finish(self) -> None:
        """Write the state and wait for the end of the write, at most LAST_WRITE_S."""
        self.save()
        deadline = self._loop.time() + LAST_WRITE_S
        while self._busy is not None and self._loop.time() < deadline:
            await first_of(self._busy, timeout_s=deadline - self._loop.time())

    async def save_scrollback(self, tmux: Tmux, pane: Pane, stamp: str | None = None) -> None:
        """Save the text of a pane. Raises TmuxError, OSError."""
        await scrollback.save(tmux, Path(AGENT, "scrollback"), pane, self._report, stamp)

    async def save_all_scrollback(self, tmux: Tmux, stamp: str) -> None:
        """Save the text of every pane. A failure is only logged, because the rest of the stop is more important."""
        try:
            for pane in await tmux.panes():
                await self.save_scrollback(tmux, pane, stamp)
        except (TmuxError, OSError) as error:
            self._events.warning("state", f"scrollback could not be kept: {error}")

    def _report(self, line: str) -> None:
        """Log a line. May be called in any thread."""
        self._loop.call_soon_threadsafe(self._events.warning, "state", line)

    def _write(self) -> None:
        self._is_dirty = False
        self._busy = self._worker.call(partial(self._file.write, self._run_state.to_save()))
        self._busy.add_done_callback(self._written)

    def _written(self, written: asyncio.Future[None]) -> None:
        self._busy = None
        error = written.exception()
        if error is None:
            self._problem = ""
            if self._is_dirty:
                self._write()
        elif isinstance(error, OSError):
            if str(error) != self._problem:
                self._problem = str(error)
                self._events.warning("state", f"state.json could not be written ({error.strerror}); trying again")
            if self._run_state.phase != STOPPED:
                self._loop.call_later(RETRY_S, self.save)
        else:
            raise error

    def _keep_line(self, line: str) -> None:
        if self._waiting >= MOST_WAITING:
            return
        self._waiting += 1
        self._worker.call(partial(self._log.append, line)).add_done_callback(self._line_kept)

    def _line_kept(self, kept: asyncio.Future[None]) -> None:
        self._waiting -= 1
        kept.exception()  # ignored because `docker logs` has the line, and health reports the disk's problem
