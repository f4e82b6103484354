"""What is kept on /agent: state, events, scrollback. All writing is done by one helper thread, in order."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from agent import scrollback, state
from agent.tmux import TmuxError
from agent.volumes import AGENT
from healthcheck.worker import Worker

if TYPE_CHECKING:
    from agent.events import Events
    from agent.future import Future
    from agent.life import Life
    from agent.loop import Loop
    from agent.tmux import Pane, Tmux

RETRY_S = 5.0
LAST_WORDS_S = 2.0
MOST_WAITING = 1000
"""Lines waiting for a disk that hangs; more are lost to the file but not to `docker logs`."""


class Keeper:
    """The supervisor's hand on /agent."""

    def __init__(self, loop: Loop, life: Life, events: Events) -> None:
        self._loop = loop
        self._life = life
        self._events = events
        self._worker = Worker(loop)
        self._file = state.StateFile(Path(AGENT, "state.json"), self._tell)
        self._log = state.LogFile(Path(AGENT, "log", "agent.log"), self._tell)
        self._dirty = False
        self._busy: Future[None] | None = None
        self._waiting = 0
        self._trouble = ""
        self._lock: int | None = None

    async def open(self) -> bool:
        """Take the volume and tell how the last life ended; false when another agent lives on it."""
        try:
            self._lock = await self._worker.call(partial(state.lock, Path(AGENT, "run", "lock"), self._tell))
        except OSError:
            return True  # ignored because the volumes check tells what is wrong with /agent
        if self._lock is None:
            return False
        last = await self._worker.call(self._file.read)
        self._life.cut_off = state.times_cut_off(last)
        sentence = state.how_it_ended(last)
        if sentence:
            self._life.cut_off += 1
            self._life.notes.append(sentence)
            self._events.warning("state", sentence)
        self._events.keep = self._keep_line
        return True

    def save(self) -> None:
        """Write the state soon; changes while one write is under way make one more."""
        if self._lock is None:
            return
        self._dirty = True
        if self._busy is None:
            self._write()

    async def last_words(self) -> None:
        """Write the state and wait for it, within reason."""
        self.save()
        deadline = self._loop.now() + LAST_WORDS_S
        while self._busy is not None and self._loop.now() < deadline:
            await self._loop.first_of(self._busy, timeout_s=deadline - self._loop.now())

    async def save_scrollback(self, tmux: Tmux, pane: Pane, stamp: str | None = None) -> None:
        """Keep what stands in a pane."""
        await scrollback.save(tmux, Path(AGENT, "scrollback"), pane, self._tell, stamp)

    async def save_all_scrollback(self, tmux: Tmux, stamp: str) -> None:
        """Keep what stands in every pane; a failure is told, as the rest of the stop matters more."""
        try:
            for pane in await tmux.panes():
                await self.save_scrollback(tmux, pane, stamp)
        except (TmuxError, OSError) as error:
            self._events.warning("state", f"scrollback could not be kept: {error}")

    def _tell(self, line: str) -> None:
        """Say a line, from whatever thread."""
        self._loop.call_from_thread(lambda: self._events.warning("state", line))

    def _write(self) -> None:
        self._dirty = False
        self._busy = self._worker.call(partial(self._file.write, self._life.facts()))
        self._busy.on_done(self._written)

    def _written(self) -> None:
        written, self._busy = self._busy, None
        assert written is not None
        try:
            written.result()
            self._trouble = ""
        except OSError as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                self._events.warning("state", f"state.json could not be written ({error.strerror}); trying again")
            if self._life.phase != "stopped":
                self._loop.call_later(RETRY_S, self.save)
            return
        if self._dirty:
            self._write()

    def _keep_line(self, line: str) -> None:
        if self._waiting >= MOST_WAITING:
            return
        self._waiting += 1
        self._worker.call(partial(self._log.append, line)).on_done(self._line_kept)

    def _line_kept(self) -> None:
        self._waiting -= 1  # a failure is ignored because `docker logs` has the line, and health tells of the disk
