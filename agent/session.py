"""Keeps the agent's tmux session and restarts its command by policy.

Every end is noticed by an event and not by polling: a pidfd on the command, another one on the tmux server, and a tmux
hook that signals this process when a session closes (`look_now`).
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from agent.children import gone
from agent.paths import WORKSPACE
from agent.restarts import Again, CommandPolicy, Done, Ended, GiveUp, ShellPolicy
from agent.shutdown import ProcessShutdown, one_terminal
from agent.tmux import HOOKS, TmuxError
from agent.waiting import first_of, new_future, set_once
from healthcheck.facts import SESSION

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent.events import Events
    from agent.run_state import RunState
    from agent.tmux import Pane, Tmux

LOGIN_SHELL = ("/bin/bash", "-l")
PLAIN_SHELL = ("/bin/bash", "--noprofile", "--norc")

KEEP_CLIPBOARD = (
    ["set-option", "-s", "set-clipboard", "external"],
    ["set-option", "-g", "-w", "allow-passthrough", "off"],
)
"""Programs' output cannot set the clipboard of attached people.

This holds for OSC 52 and for all sequences wrapped for the outer terminal, since tmux cannot tell which of them set the
clipboard: notifications are lost too. What a person copies in tmux does reach the clipboard. These options are set
after the user's own configuration was read.
"""

HUNG_UP = 129
"""The exit code of a command whose session or server was killed: it gets HUP."""
REAP_RETRY_S = 0.01
"""tmux learns of the end of a process a moment later than the supervisor."""
OPEN_RETRY_S = (0.25, 0.5, 1.0, 2.0, 4.0)


class Session:
    """Opens the pane, waits for the end of its process, and opens it again by policy."""

    def __init__(
        self, tmux: Tmux, run_state: RunState, events: Events, save: Callable[[Pane], Awaitable[None]]
    ) -> None:
        self._clock = asyncio.get_running_loop().time
        self._tmux = tmux
        self._run_state = run_state
        self._events = events
        self._save = save
        self._nudged: asyncio.Future[None] = new_future()
        self._pane = ""
        self._shell = ShellPolicy()
        self._command = CommandPolicy(run_state.settings.restart, run_state.settings.on_exit)
        self.changed: Callable[[], None] = lambda: None
        self.opened = asyncio.Event()

    def look_now(self) -> None:
        """Check the session now, because one was closed."""
        set_once(self._nudged, None)

    async def keep(self, hurry: asyncio.Future[None]) -> GiveUp:
        """Keep the agent running until the policy gives up."""
        while True:
            await self._open()
            began = self._clock()
            ended = await self._end()
            decision = self._decide(ended, self._clock() - began)
            if isinstance(decision, GiveUp):
                await self._save_scrollback()
                return decision
            await self._prepare_again(ended, decision, hurry)

    # -- opening ------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        tries = 0
        while True:
            try:
                await self._try_to_open()
            except (TmuxError, OSError) as error:
                self._set_state(self._run_state.state, f"cannot be started: {error}")
                self._events.warning("session", self._run_state.problem)
            else:
                return
            await asyncio.sleep(OPEN_RETRY_S[min(tries, len(OPEN_RETRY_S) - 1)])
            tries += 1

    async def _try_to_open(self) -> None:
        if self._tmux.is_up:
            panes = {pane.pane: pane for pane in await self._tmux.panes()}
            sessions = {pane.session for pane in panes.values()}
        else:
            self._tmux.start_server()
            panes, sessions = {}, set()
        target = f"={SESSION}:"
        if self._pane in panes:
            target = self._pane
            opening = ["respawn-pane", "-k", "-t", target, "-c", WORKSPACE, "--", *self._argv()]
        elif SESSION in sessions:
            opening = ["new-window", "-t", target, "-c", WORKSPACE, "--", *self._argv()]
        else:
            opening = ["new-session", "-d", "-s", SESSION, "-c", WORKSPACE, "--", *self._argv()]
        state = "finished" if self._run_state.state == "finished" else "running"
        answer = await self._tmux.send_first(
            ["set-option", "-s", "exit-unattached", "off"],
            *(["set-hook", "-g", hook, f'run-shell -b "kill -USR1 {os.getpid()}"'] for hook in HOOKS),
            *(KEEP_CLIPBOARD if self._run_state.settings.clipboard == "off" else ()),
            ["set-option", "-g", "@agent_name", self._run_state.settings.name],
            ["set-option", "-g", "@agent_state", state],
            opening,
            ["set-option", "-p", "-t", target, "remain-on-exit", "on"],
            ["set-option", "-t", f"={SESSION}:", "destroy-unattached", "off"],
            ["display-message", "-p", "-t", target, "#{pane_id} #{pane_pid}"],
        )
        self._pane, pid = answer.split()
        self._run_state.pid = int(pid)
        self._set_state(state)
        self.opened.set()

    def _argv(self) -> tuple[str, ...]:
        command = self._run_state.settings.command
        if command and self._run_state.state != "finished":
            return ("/bin/bash", "-c", command)
        return PLAIN_SHELL if self._shell.profile_is_broken else LOGIN_SHELL

    # -- waiting ------------------------------------------------------------------------------------------

    async def _end(self) -> Ended:
        process = gone(self._run_state.pid)
        while True:
            server = self._tmux.ended
            assert server is not None
            self._nudged = new_future()
            await first_of(process, server, self._nudged)
            if server.done():
                return Ended(HUNG_UP, f"the tmux server ended with {server.result()}")
            try:
                panes = {pane.pane: pane for pane in await self._tmux.panes()}
                await self._rename_back(panes)
            except TmuxError as error:
                self._set_state(self._run_state.state, f"tmux: {error}")
                await first_of(server, timeout_s=1.0)
                continue
            pane = panes.get(self._pane)
            if pane is None:
                return Ended(HUNG_UP, "its session or window was killed")
            if pane.exit_code is not None:
                return Ended(pane.exit_code, f"{self._what()} ended with {pane.exit_code}")
            if pane.pid != self._run_state.pid:  # a person respawned the pane by hand
                self._run_state.pid = pane.pid
                process = gone(pane.pid)
            elif process.done():
                self._tmux.remind_of_children()
                await asyncio.sleep(REAP_RETRY_S)

    async def _rename_back(self, panes: dict[str, Pane]) -> None:
        pane = panes.get(self._pane)
        if pane is not None and SESSION not in {p.session for p in panes.values()}:
            await self._tmux.send(["rename-session", "-t", pane.session_id, SESSION])
            self._events.info("session", f"session {pane.session} is called {SESSION} again: others look for it")

    # -- and again ----------------------------------------------------------------------------------------

    def _what(self) -> str:
        return "the command" if self._runs_command() else "the shell"

    def _runs_command(self) -> bool:
        return bool(self._run_state.settings.command) and self._run_state.state != "finished"

    def _decide(self, ended: Ended, ran_s: float) -> Again | Done | GiveUp:
        self._run_state.ended(ended.code, ended.cause)
        if self._runs_command():
            decision = self._command.after(ended, ran_s)
            log = self._events.info if ended.code == 0 else self._events.warning
        else:
            decision = self._shell.after(ended, ran_s)
            log = self._events.info if ended.code != HUNG_UP else self._events.warning
        if isinstance(decision, Again):
            log("session", f"{ended.cause}; starting again in {decision.delay_s:g} s")
        elif isinstance(decision, Done):
            log("session", f"{ended.cause}: finished, a shell takes its place")
        else:
            self._events.error("session", f"{ended.cause}; giving up: {decision.why}")
        return decision

    async def _prepare_again(self, ended: Ended, decision: Again | Done, hurry: asyncio.Future[None]) -> None:
        if not self._tmux.is_up:
            self._pane = ""
        if isinstance(decision, Done):
            self._set_state("finished")
            return
        self._run_state.restarts += 1
        if self._runs_command():
            self._set_state("restarting", f"{ended.cause}; starting again")
            await self._save_scrollback()
            # left-over processes would compete with the next run for ports and files
            leftovers = ProcessShutdown(one_terminal(self._run_state.pid), hurry)
            await leftovers.run(self._run_state.settings.stop_grace_s)
        if decision.delay_s:
            await asyncio.sleep(decision.delay_s)

    async def _save_scrollback(self) -> None:
        if not self._tmux.is_up:
            return
        try:
            for pane in await self._tmux.panes():
                if pane.pane == self._pane:
                    await self._save(pane)
        except (TmuxError, OSError) as error:
            self._events.warning("session", f"scrollback could not be kept: {error}")

    def _set_state(self, state: str, problem: str = "") -> None:
        if (state, problem) != (self._run_state.state, self._run_state.problem):
            self._run_state.state, self._run_state.problem = state, problem
            self.changed()
