"""The agent's place: session `agent`, its pane, and what runs there for as long as it should.

Every end is noticed by an event, never by polling: the command's by a descriptor on its process, the server's
likewise, the session's by a hook in tmux that signals us (`nudge`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from agent.children import gone
from agent.farewell import Farewell, one_terminal
from agent.future import Future
from agent.restarts import Again, CommandPolicy, Done, Ended, GiveUp, ShellPolicy
from agent.tmux import HOOKS, SESSION, TmuxError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent.events import Events
    from agent.life import Life
    from agent.loop import Loop
    from agent.tmux import Pane, Tmux

WORKSPACE = "/workspace"
LOGIN_SHELL = ("/bin/bash", "-l")
PLAIN_SHELL = ("/bin/bash", "--noprofile", "--norc")

KEEP_CLIPBOARD = (
    ["set-option", "-s", "set-clipboard", "external"],
    ["set-option", "-g", "-w", "allow-passthrough", "off"],
)
"""What a program prints does not reach the clipboard of who is attached: neither OSC 52 nor what is wrapped for the
terminal outside. What a person copies in tmux does. Said after the user's own configuration was read."""

HUNG_UP = 129
"""What a command has died of when its session or server was killed: HUP."""
REAP_RETRY_S = 0.01
"""tmux learns of a death a moment after us."""
OPEN_RETRY_S = (0.25, 0.5, 1.0, 2.0, 4.0)


class Session:
    """Opens the pane, waits for its end, opens it again as the policy says."""

    def __init__(
        self, loop: Loop, tmux: Tmux, life: Life, events: Events, save: Callable[[Pane], Awaitable[None]]
    ) -> None:
        self._loop = loop
        self._tmux = tmux
        self._life = life
        self._events = events
        self._save = save
        self._nudged: Future[None] = Future()
        self._pane = ""
        self._shell = ShellPolicy()
        self._command = CommandPolicy(life.settings.restart, life.settings.on_exit)
        self.changed: Callable[[], None] = lambda: None
        self.opened: Future[None] = Future()

    def nudge(self) -> None:
        """Look now: a session was closed."""
        self._nudged.set(None)

    async def keep(self, hurry: Future[None]) -> GiveUp:
        """Keep the agent running until the policy gives up."""
        while True:
            await self._open()
            began = self._loop.now()
            ended = await self._end()
            decision = self._decide(ended, self._loop.now() - began)
            if isinstance(decision, GiveUp):
                await self._keep_scrollback()
                return decision
            await self._prepare_again(decision, hurry)

    # -- opening ------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        tries = 0
        while True:
            try:
                await self._try_to_open()
            except (TmuxError, OSError) as error:
                self._be(self._life.state, f"cannot be started: {error}")
                self._events.warning("session", self._life.trouble)
            else:
                return
            await self._loop.sleep(OPEN_RETRY_S[min(tries, len(OPEN_RETRY_S) - 1)])
            tries += 1

    async def _try_to_open(self) -> None:
        if self._tmux.is_up:
            look = {pane.pane: pane for pane in await self._tmux.panes()}
            sessions = {pane.session for pane in look.values()}
        else:
            self._tmux.start_server()
            look, sessions = {}, set()
        target = f"={SESSION}:"
        if self._pane in look:
            target = self._pane
            opening = ["respawn-pane", "-k", "-t", target, "-c", WORKSPACE, "--", *self._argv()]
        elif SESSION in sessions:
            opening = ["new-window", "-t", target, "-c", WORKSPACE, "--", *self._argv()]
        else:
            opening = ["new-session", "-d", "-s", SESSION, "-c", WORKSPACE, "--", *self._argv()]
        state = "finished" if self._life.state == "finished" else "running"
        words = await self._tmux.first_words(
            ["set-option", "-s", "exit-unattached", "off"],
            *(["set-hook", "-g", hook, f'run-shell -b "kill -USR1 {os.getpid()}"'] for hook in HOOKS),
            *(KEEP_CLIPBOARD if self._life.settings.clipboard == "off" else ()),
            ["set-option", "-g", "@agent_name", self._life.settings.name],
            ["set-option", "-g", "@agent_state", state],
            opening,
            ["set-option", "-p", "-t", target, "remain-on-exit", "on"],
            ["set-option", "-t", f"={SESSION}:", "destroy-unattached", "off"],
            ["display-message", "-p", "-t", target, "#{pane_id} #{pane_pid}"],
        )
        self._pane, pid = words.split()
        self._life.pid = int(pid)
        self._be(state)
        self.opened.set(None)

    def _argv(self) -> tuple[str, ...]:
        command = self._life.settings.command
        if command and self._life.state != "finished":
            return ("/bin/bash", "-c", command)
        return PLAIN_SHELL if self._shell.profile_is_broken else LOGIN_SHELL

    # -- waiting ------------------------------------------------------------------------------------------

    async def _end(self) -> Ended:
        process = gone(self._loop, self._life.pid)
        while True:
            server = self._tmux.ended
            assert server is not None
            self._nudged = Future()
            await self._loop.first_of(process, server, self._nudged)
            if server.done:
                return Ended(HUNG_UP, f"the tmux server ended with {server.result()}")
            try:
                look = {pane.pane: pane for pane in await self._tmux.panes()}
                await self._rename_back(look)
            except TmuxError as error:
                self._be(self._life.state, f"tmux: {error}")
                await self._loop.first_of(server, timeout_s=1.0)
                continue
            pane = look.get(self._pane)
            if pane is None:
                return Ended(HUNG_UP, "its session or window was killed")
            if pane.exit_code is not None:
                return Ended(pane.exit_code, f"{self._what()} ended with {pane.exit_code}")
            if pane.pid != self._life.pid:  # somebody respawned the pane by hand
                self._life.pid = pane.pid
                process = gone(self._loop, pane.pid)
            elif process.done:
                self._tmux.remind_of_children()
                await self._loop.sleep(REAP_RETRY_S)

    async def _rename_back(self, look: dict[str, Pane]) -> None:
        pane = look.get(self._pane)
        if pane is not None and SESSION not in {p.session for p in look.values()}:
            await self._tmux.tell(["rename-session", "-t", pane.session_id, SESSION])
            self._events.info("session", f"session {pane.session} is called {SESSION} again: others look for it")

    # -- and again ----------------------------------------------------------------------------------------

    def _what(self) -> str:
        return "the command" if self._runs_command() else "the shell"

    def _runs_command(self) -> bool:
        return bool(self._life.settings.command) and self._life.state != "finished"

    def _decide(self, ended: Ended, lived_s: float) -> Again | Done | GiveUp:
        self._life.ended(ended.code, ended.cause)
        if self._runs_command():
            decision = self._command.after(ended, lived_s)
            tell = self._events.info if ended.code == 0 else self._events.warning
        else:
            decision = self._shell.after(ended, lived_s)
            tell = self._events.info if ended.code != HUNG_UP else self._events.warning
        if isinstance(decision, Again):
            tell("session", f"{ended.cause}; starting again in {decision.delay_s:g} s")
        elif isinstance(decision, Done):
            tell("session", f"{ended.cause}: finished, a shell takes its place")
        else:
            self._events.error("session", f"{ended.cause}; giving up: {decision.why}")
        return decision

    async def _prepare_again(self, decision: Again | Done, hurry: Future[None]) -> None:
        if not self._tmux.is_up:
            self._pane = ""
        if isinstance(decision, Done):
            self._be("finished")
            return
        self._life.restarts += 1
        if self._runs_command():
            self._be("restarting", f"{self._life.last_exit and self._life.last_exit['cause']}; starting again")
            await self._keep_scrollback()
            # what the last run left behind would fight with the next one for ports and files
            leftovers = Farewell(self._loop, one_terminal(self._life.pid), hurry)
            await leftovers.part(self._life.settings.stop_grace_s)
        if decision.delay_s:
            await self._loop.sleep(decision.delay_s)

    async def _keep_scrollback(self) -> None:
        if not self._tmux.is_up:
            return
        try:
            for pane in await self._tmux.panes():
                if pane.pane == self._pane:
                    await self._save(pane)
        except (TmuxError, OSError) as error:
            self._events.warning("session", f"scrollback could not be kept: {error}")

    def _be(self, state: str, trouble: str = "") -> None:
        if (state, trouble) != (self._life.state, self._life.trouble):
            self._life.state, self._life.trouble = state, trouble
            self.changed()
