"""The life of the container from start to stop, in time order: bring up, live, leave.

One loop, one thread; what may block is done elsewhere (`keeper`, `watch`). Health is answered from the first to the
last moment and says `stopping` before anything is done about stopping.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from agent import scrollback, users, volumes
from agent.command import CannotRunError, Command
from agent.farewell import Farewell, Parting, whole_container
from agent.future import Future
from agent.keeper import Keeper
from agent.life import RUNNING, STOPPED, STOPPING, Life
from agent.loop import Loop, Task
from agent.session import Session
from agent.tmux import Tmux, TmuxError
from agent.watch import Watch
from healthcheck.askers import Askers
from healthcheck.report import Reporter, read_manifest
from healthcheck.server import Server
from healthcheck.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from agent.events import Events
    from agent.settings import Settings
    from agent.tmux import Pane

T = TypeVar("T")

UNAVAILABLE = 69
SOFTWARE = 70
VOLUME_IN_USE = 75
KILLED = 137

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
AS_STOP_IN_SESSION = (signal.SIGHUP, signal.SIGQUIT)
"""Without a command nobody else wants them, and their default action would skip the ladder."""
FOR_THE_COMMAND = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)

SERVER_END_S = 1.0
SECOND_SCROLLBACK_S = 1.0
"""A stop that takes longer keeps the scrollback early too, in case Docker's own limit is shorter than ours."""


@dataclass(frozen=True)
class Ending:
    """Why the container ends; `code` None means that the stop ladder decides it."""

    code: int | None
    why: str


class Supervisor:
    """One container's life."""

    def __init__(self, settings: Settings, argv: list[str], events: Events) -> None:
        self._loop = Loop()
        self._life = Life(settings, argv)
        self._events = events
        self._manifest = read_manifest()
        self._tmux = Tmux(self._loop)
        self._keeper = Keeper(self._loop, self._life, events)
        self._watch = Watch(self._loop, self._life, events, self._tmux, self._manifest)
        self._command = Command(self._loop, argv)
        self._session = Session(self._loop, self._tmux, self._life, events, self._save_pane)
        self._stop: Future[str] = Future()
        self._hurry: Future[None] = Future()
        self._limbs: list[Task[Any]] = []
        self._loop.on_pause = lambda s: events.info("supervisor", f"resumed after a pause of {s:.0f} s")
        self._listen_to_signals()

    def run(self) -> int:
        """Live; return the container's exit code."""
        return self._loop.run(self._live())

    async def _live(self) -> int:
        ending = self._answer_health() or await self._until_the_end()
        return await self._leave(ending)

    # -- bring up -----------------------------------------------------------------------------------------

    def _listen_to_signals(self) -> None:
        for signum in STOP_SIGNALS:
            self._loop.on_signal(signum, partial(self._asked_to_stop, signum))
        if self._life.is_command:
            for signum in FOR_THE_COMMAND:
                self._loop.on_signal(signum, partial(self._command.pass_on, signum))
        else:
            for signum in AS_STOP_IN_SESSION:
                self._loop.on_signal(signum, partial(self._asked_to_stop, signum))
            self._loop.on_signal(signal.SIGUSR1, self._session.nudge)
            for signum in (signal.SIGUSR2, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
                self._loop.on_signal(signum, lambda: None)  # their default action would end or stop us
        # the launcher started us with these blocked, so that none was lost before there were handlers
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _asked_to_stop(self, signum: int) -> None:
        if self._stop.done:
            self._events.info("supervisor", "asked again: the rest is not waited for")
            self._hurry.set(None)
        else:
            self._stop.set(signal.Signals(signum).name)

    def _answer_health(self) -> Ending | None:
        settings = self._life.settings
        reporter = Reporter(self._watch.seen, self._manifest)
        askers = Askers((settings.name, os.uname().nodename), settings.health_allowed_hosts)
        try:
            Server(self._loop, reporter.pages(), askers.may_see).listen(settings.health_host, settings.health_port)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            reason = "is taken, perhaps by another agent; set HEALTH_PORT" if taken else f"failed: {error.strerror}"
            words = f"health cannot answer: {settings.health_host} port {settings.health_port} {reason}"
            if self._life.is_command:
                self._events.warning("entrypoint", words)
                return None
            self._events.error("entrypoint", words)
            return Ending(UNAVAILABLE, words)
        return None

    async def _settle(self) -> Ending | None:
        """Make what is needed on /agent; an Ending when this container cannot be."""
        home = os.environ.get("HOME") or volumes.AGENT + "/home"
        maker = Worker(self._loop)
        for line in await maker.call(partial(volumes.prepare, home)):
            self._note(line)
        told: list[str | None] = []
        told.append(await maker.call(partial(users.introduce, home, told.append)))
        for remark in told:
            self._note(remark)
        self._life.user = await maker.call(users.own_name)
        if self._life.is_command:
            return None
        if not await self._keeper.open():
            words = "/agent is in use by another running agent; give each agent a volume of its own"
            self._events.error("entrypoint", words)
            return Ending(VOLUME_IN_USE, words)
        self._keeper.save()
        return None

    def _note(self, line: str | None) -> None:
        if line:
            self._life.notes.append(line)
            self._events.warning("entrypoint", line)

    # -- live ---------------------------------------------------------------------------------------------

    async def _until_the_end(self) -> Ending:
        self._events.info("supervisor", self._introduction())
        self._watch.start()
        life = self._start(self._run_command() if self._life.is_command else self._run_session())
        await self._loop.first_of(life, self._stop, self._watch.lasting)
        if self._stop.done:
            return Ending(None, f"asked by {self._stop.result()}")
        if life.done:
            return life.result()
        return Ending(SOFTWARE, self._watch.lasting.result())

    async def _run_session(self) -> Ending:
        cannot = await self._settle()
        if cannot:
            return cannot
        self._session.changed = self._session_changed
        self._watch.on_missing_session = self._session.nudge
        self._start(self._become_running())
        given_up = await self._session.keep(self._hurry)
        return Ending(given_up.code, given_up.why)

    async def _run_command(self) -> Ending:
        cannot = await self._settle()
        if cannot:
            return cannot
        try:
            self._command.start()
        except CannotRunError as error:
            self._events.error("entrypoint", str(error))
            return Ending(error.code, str(error))
        self._life.pid, self._life.state = self._command.pid, "command"
        self._start(self._become_running())
        code = await self._command.ended
        self._life.ended(code, "the command ended")
        return Ending(code, f"the command ended with {code}")

    async def _become_running(self) -> None:
        if not self._life.is_command:
            await self._session.opened
        await self._watch.first_looks()
        if self._life.phase == "starting":
            self._life.phase = RUNNING
            self._watch.judge()
            self._events.info("supervisor", f"running after {self._life.uptime_s():.2f} s")
            self._keeper.save()

    def _session_changed(self) -> None:
        self._keeper.save()
        self._watch.judge()
        self._watch.seen.tmux.look_again()

    def _introduction(self) -> str:
        life, image = self._life, self._manifest
        return (
            f"agent {life.settings.name} runs {life.what_runs} as {os.getuid()}:{os.getgid()} "
            f"(magents {image.get('version', 'unknown')}, {image.get('variant', 'unknown variant')}); "
            f"attach with `docker exec -it {os.uname().nodename} tmux attach`"
        )

    def _start(self, coroutine: Coroutine[Any, Any, T]) -> Task[T]:
        task = self._loop.start(coroutine)
        self._limbs.append(task)
        return task

    async def _save_pane(self, pane: Pane) -> None:
        if not self._watch.agent_volume_hangs():
            await self._keeper.save_scrollback(self._tmux, pane)

    # -- leave --------------------------------------------------------------------------------------------

    async def _leave(self, ending: Ending) -> int:
        """Numbered as the contract's ladder."""
        # 1. health says so before anything else
        began = self._loop.now()
        self._life.phase = STOPPING
        self._life.stop = {"why": ending.why}
        self._events.info("supervisor", f"stopping: {ending.why}")
        for limb in self._limbs:
            limb.cancel()
        self._watch.stop()
        self._keeper.save()
        # 2. everybody is asked, waited for, killed
        stamp = scrollback.now_stamp()
        await self._make_tmux_ready()
        early = self._loop.start(self._keep_scrollback(stamp, after_s=SECOND_SCROLLBACK_S))
        parting = await self._part_from_all(self._life.settings.stop_grace_s)
        early.cancel()
        # 3. what stood in the panes is kept, then the server may go, and whoever waited for it
        await self._keep_scrollback(stamp)
        await self._tmux.end(SERVER_END_S)
        rest = await self._part_from_all(SERVER_END_S)
        # 4. the last state is on the disk before we are gone
        parting.killed += rest.killed
        if self._command.pid and not self._command.ended.done:  # its end was seen, its code is about to be
            await self._loop.first_of(self._command.ended, timeout_s=SERVER_END_S)
        code = self._exit_code(ending, parting)
        took = self._loop.now() - began
        self._life.phase = STOPPED
        self._life.stop |= {"code": code, "took_s": round(took, 2), "killed": parting.killed}
        self._tell_parting(parting, code, took)
        await self._keeper.last_words()
        return code

    async def _make_tmux_ready(self) -> None:
        if not self._tmux.is_up:
            return
        os.kill(self._tmux.pid, signal.SIGCONT)  # it may have been stopped
        with contextlib.suppress(TmuxError):  # ignored because scrollback is the most that is lost
            await self._tmux.tell(
                ["set-option", "-g", "@agent_state", STOPPING],
                ["set-option", "-g", "remain-on-exit", "on"],  # dead panes stay until they are kept
            )

    async def _keep_scrollback(self, stamp: str, after_s: float = 0.0) -> None:
        if after_s:
            await self._loop.sleep(after_s)
        if self._tmux.is_up and not self._watch.agent_volume_hangs():
            await self._keeper.save_all_scrollback(self._tmux, stamp)

    async def _part_from_all(self, grace_s: float) -> Parting:
        spared = (self._tmux.pid,) if self._tmux.is_up else ()
        return await Farewell(self._loop, whole_container(*spared), self._hurry).part(grace_s)

    def _exit_code(self, ending: Ending, parting: Parting) -> int:
        if ending.code is not None:
            return ending.code
        if parting.killed:
            return KILLED
        return self._command.ended.result() if self._life.is_command and self._command.ended.done else 0

    def _tell_parting(self, parting: Parting, code: int, took_s: float) -> None:
        if parting.killed:
            self._events.warning("supervisor", f"killed, as they did not leave: {', '.join(parting.killed)}")
        if parting.untouchable:
            names = ", ".join(parting.untouchable)
            self._events.warning("supervisor", f"another user's, so they could not be asked: {names}")
        self._events.info("supervisor", f"stopped after {took_s:.2f} s with {code}")
