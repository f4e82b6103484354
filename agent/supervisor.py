"""One run of the container from start to stop, in time order: bring up, run, leave.

One event loop, one thread; helper threads do what may block (`persistence`, the checks). Health is answered from the
first to the last moment. It says `stopping` before the stop begins.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from agent import certificates, git, paths, scrollback, users, volumes
from agent.command import CannotRunError, Command
from agent.monitor import Monitor
from agent.persistence import StateWriter
from agent.processes import own_container
from agent.run_state import RunState
from agent.session import Session
from agent.shutdown import ProcessShutdown, ShutdownReport, whole_container
from agent.tmux import Tmux, TmuxError
from agent.waiting import first_of, new_future, set_once
from healthcheck.access import Access
from healthcheck.facts import RUNNING, STARTING, STOPPED, STOPPING
from healthcheck.pages import Reporter, read_manifest
from healthcheck.server import Server
from healthcheck.worker import Worker

if TYPE_CHECKING:
    from agent.events import Events
    from agent.settings import Settings
    from agent.tmux import Pane

UNAVAILABLE = 69
SOFTWARE = 70
VOLUME_IN_USE = 75
KILLED = 137

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
AS_STOP_IN_SESSION = (signal.SIGHUP, signal.SIGQUIT)
"""Without a command no other program needs these signals, and their default action would skip the ladder."""
FOR_THE_COMMAND = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)

SERVER_END_S = 1.0
EARLY_SCROLLBACK_S = 1.0
"""A stop that takes longer than this also saves the scrollback early, in case Docker's own limit is shorter."""


@dataclass(frozen=True)
class Ending:
    """Why the container ends. With `code` None the stop ladder decides the exit code."""

    code: int | None
    why: str


class Supervisor:
    """One run of the container. It is made and run inside the event loop."""

    def __init__(self, settings: Settings, argv: list[str], events: Events) -> None:
        self._loop = asyncio.get_running_loop()
        self._run_state = RunState(settings, argv)
        self._events = events
        self._manifest = read_manifest()
        self._tmux = Tmux()
        self._state_writer = StateWriter(self._run_state, events)
        self._monitor = Monitor(self._run_state, events, self._tmux, self._manifest)
        self._command = Command(argv)
        self._session = Session(self._tmux, self._run_state, events, self._save_pane)
        self._stop: asyncio.Future[str] = new_future()
        self._hurry: asyncio.Future[None] = new_future()
        self._listen_to_signals()

    async def run(self) -> int:
        """Run the agent to its end. Returns the container's exit code."""
        ending = await self._answer_health() or await self._until_the_end()
        return await self._leave(ending)

    # -- bring up -----------------------------------------------------------------------------------------

    def _listen_to_signals(self) -> None:
        listen = self._loop.add_signal_handler
        for signum in STOP_SIGNALS:
            listen(signum, self._stop_requested, signum)
        if self._run_state.is_command:
            for signum in FOR_THE_COMMAND:
                listen(signum, self._command.pass_on, signum)
        else:
            for signum in AS_STOP_IN_SESSION:
                listen(signum, self._stop_requested, signum)
            listen(signal.SIGUSR1, self._session.look_now)
            for signum in (signal.SIGUSR2, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
                listen(signum, lambda: None)  # their default action would end or stop us
        # the image's entry point starts us with these blocked, so that no signal was lost before the handlers existed
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _stop_requested(self, signum: int) -> None:
        if self._stop.done():
            self._events.info("supervisor", "asked again: the rest is not waited for")
            set_once(self._hurry, None)
        else:
            self._stop.set_result(signal.Signals(signum).name)

    async def _answer_health(self) -> Ending | None:
        settings = self._run_state.settings
        reporter = Reporter(self._run_state.facts, self._monitor.checks, self._manifest)
        access = Access((settings.name, os.uname().nodename), settings.health_allowed_hosts)
        try:
            await Server(reporter.pages(), access.may_see).listen(settings.health_host, settings.health_port)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            reason = "is taken, perhaps by another agent; set HEALTH_PORT" if taken else f"failed: {error.strerror}"
            words = f"health cannot answer: {settings.health_host} port {settings.health_port} {reason}"
            if self._run_state.is_command:
                self._events.warning("entrypoint", words)
                return None
            self._events.error("entrypoint", words)
            return Ending(UNAVAILABLE, words)
        return None

    async def _prepare(self) -> Ending | None:
        """Make what is needed on /agent. Returns an Ending when this container cannot run."""
        home = os.environ.get("HOME") or paths.AGENT + "/home"
        worker = Worker()
        for line in await worker.call(partial(volumes.prepare, home)):
            self._note(line)
        lines: list[str] = []
        problem = await worker.call(partial(users.introduce, home, lines.append))
        self._note(*lines, problem)
        told = len(lines)
        self._run_state.user = await worker.call(users.own_name)
        await worker.call(partial(certificates.renew, lines.append))
        with contextlib.suppress(OSError):  # ignored because `prepare` has reported what is wrong with /agent
            await worker.call(partial(git.configure, os.environ, lines.append))
        self._note(*lines[told:])
        if self._run_state.is_command:
            return None
        if not await self._state_writer.open():
            words = "/agent is in use by another running agent; give each agent a volume of its own"
            self._events.error("entrypoint", words)
            return Ending(VOLUME_IN_USE, words)
        self._state_writer.save()
        return None

    def _note(self, *lines: str | None) -> None:
        for line in filter(None, lines):
            self._run_state.notes.append(line)
            self._events.warning("entrypoint", line)

    # -- run ----------------------------------------------------------------------------------------------

    async def _until_the_end(self) -> Ending:
        """Run until there is a reason to stop. An error in any task ends the supervisor with that error."""
        self._events.info("supervisor", self._introduction())
        run = self._run_command if self._run_state.is_command else self._run_session
        async with asyncio.TaskGroup() as group:
            agent = group.create_task(run())
            others = [*self._monitor.start(group), group.create_task(self._become_running())]
            await first_of(agent, self._stop, self._monitor.lasting_failure)
            if self._stop.done():
                ending = Ending(None, f"asked by {self._stop.result()}")
            elif agent.done():
                ending = await agent
            else:
                ending = Ending(SOFTWARE, self._monitor.lasting_failure.result())
            for task in (agent, *others):
                task.cancel()
        return ending

    async def _run_session(self) -> Ending:
        cannot = await self._prepare()
        if cannot:
            return cannot
        self._session.changed = self._session_changed
        self._monitor.on_missing_session = self._session.look_now
        given_up = await self._session.keep(self._hurry)
        return Ending(given_up.code, given_up.why)

    async def _run_command(self) -> Ending:
        cannot = await self._prepare()
        if cannot:
            return cannot
        try:
            self._command.start()
        except CannotRunError as error:
            self._events.error("entrypoint", str(error))
            return Ending(error.code, str(error))
        self._run_state.pid, self._run_state.state = self._command.pid, "command"
        await first_of(self._command.ended)
        code = self._command.ended.result()
        self._run_state.ended(code, "the command ended")
        return Ending(code, f"the command ended with {code}")

    async def _become_running(self) -> None:
        await (self._command.started if self._run_state.is_command else self._session.opened).wait()
        await self._monitor.first_results()
        if self._run_state.phase == STARTING:
            self._run_state.phase = RUNNING
            self._monitor.evaluate()
            self._events.info("supervisor", f"running after {self._run_state.uptime_s():.2f} s")
            self._state_writer.save()

    def _session_changed(self) -> None:
        self._state_writer.save()
        self._monitor.evaluate()
        self._monitor.look_at_sessions()

    def _introduction(self) -> str:
        run_state, image = self._run_state, self._manifest
        return (
            f"agent {run_state.settings.name} runs {run_state.what_runs} as {os.getuid()}:{os.getgid()} "
            f"(magents {image.get('version', 'unknown')}, {image.get('variant', 'unknown variant')}); "
            f"attach with `docker exec -it {own_container()} tmux attach`"
        )

    async def _save_pane(self, pane: Pane) -> None:
        if not self._monitor.agent_volume_hangs():
            await self._state_writer.save_scrollback(self._tmux, pane)

    # -- leave --------------------------------------------------------------------------------------------

    async def _leave(self, ending: Ending) -> int:
        """Leave. The numbers are those of the contract's ladder."""
        # 1. health says `stopping` first
        began = self._loop.time()
        self._run_state.phase = STOPPING
        self._run_state.stop = {"why": ending.why}
        self._events.info("supervisor", f"stopping: {ending.why}")
        self._state_writer.save()
        # 2. every process is signalled, waited for, killed
        stamp = scrollback.now_stamp()
        await self._make_tmux_ready()
        async with asyncio.TaskGroup() as group:
            early = group.create_task(self._save_scrollback(stamp, after_s=EARLY_SCROLLBACK_S))
            report = await self._end_all(self._run_state.settings.stop_grace_s)
            early.cancel()
        # 3. the panes' text is saved, then the tmux server ends, and then the processes that waited for it
        await self._save_scrollback(stamp)
        await self._tmux.end(SERVER_END_S)
        rest = await self._end_all(SERVER_END_S)
        # 4. the last state is on the disk before this process ends
        report.killed += rest.killed
        if self._command.pid:  # its end was seen; its exit code may come a moment later
            await first_of(self._command.ended, timeout_s=SERVER_END_S)
        code = self._exit_code(ending, report)
        took_s = self._loop.time() - began
        self._run_state.phase = STOPPED
        self._run_state.stop |= {"code": code, "took_s": round(took_s, 2), "killed": report.killed}
        self._log_shutdown(report, code, took_s)
        await self._state_writer.finish()
        return code

    async def _make_tmux_ready(self) -> None:
        if not self._tmux.is_up:
            return
        os.kill(self._tmux.pid, signal.SIGCONT)  # it may have been stopped
        with contextlib.suppress(TmuxError):  # ignored because only scrollback is lost
            await self._tmux.send(
                ["set-option", "-g", "@agent_state", STOPPING],
                ["set-option", "-g", "remain-on-exit", "on"],  # ended panes stay until they are saved
            )

    async def _save_scrollback(self, stamp: str, after_s: float = 0.0) -> None:
        if after_s:
            await asyncio.sleep(after_s)
        if self._tmux.is_up and not self._monitor.agent_volume_hangs():
            await self._state_writer.save_all_scrollback(self._tmux, stamp)

    async def _end_all(self, grace_s: float) -> ShutdownReport:
        spared = (self._tmux.pid,) if self._tmux.is_up else ()
        return await ProcessShutdown(whole_container(*spared), self._hurry).run(grace_s)

    def _exit_code(self, ending: Ending, report: ShutdownReport) -> int:
        if ending.code is not None:
            return ending.code
        if report.killed:
            return KILLED
        return self._command.ended.result() if self._command.has_ended else 0

    def _log_shutdown(self, report: ShutdownReport, code: int, took_s: float) -> None:
        if report.killed:
            self._events.warning("supervisor", f"killed, as they did not leave: {', '.join(report.killed)}")
        if report.not_permitted:
            names = ", ".join(report.not_permitted)
            self._events.warning("supervisor", f"another user's, so they could not be asked: {names}")
        self._events.info("supervisor", f"stopped after {took_s:.2f} s with {code}")
