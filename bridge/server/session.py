"""The running CLI of one call, with its streams, its signals and its tool calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

from bridge.policy import Scope
from bridge.policy.control_messages import ControlFilter
from bridge.policy.terms import printable
from bridge.protocol.frames import WINDOW, Frame
from bridge.server.activity import Activity
from bridge.server.channel import Channel
from bridge.server.dialogue import Dialogue, ProgramDialogue, SessionEvent
from bridge.server.gate import Gate
from bridge.server.host.config import MIB
from bridge.server.host.grants import Grant
from bridge.server.host.log import ServerLog
from bridge.server.launch import Launch, LaunchRequest
from bridge.server.output import Output
from bridge.server.policy_pool import PolicyPool
from bridge.server.sandbox import processes
from bridge.server.sandbox.stuck_pipes import Watch
from bridge.server.scheduler import Scheduler
from bridge.server.stdin import Control, Stdin

NAMESPACE_FAILED = "the host could not start Claude Code: its namespace failed; see `claude-bridge-server doctor`"


@dataclasses.dataclass(frozen=True)
class CallContext:
    """What a call needs of the server."""

    grant: Grant
    terms: Scope
    """The grant's policy settings. Whether tools run in the container is decided for each call."""
    pool: PolicyPool
    scheduler: Scheduler
    log: ServerLog
    note: Callable[..., None]
    """Writes to the audit log."""
    launch: Launch
    keeps: Callable[[Grant, str], bool]
    """Whether a grant's conversation can be resumed."""


class Owner(Protocol):
    """The call, as its session sees it."""

    def note(self, event: str, **facts: str | int | list[str]) -> None:
        """Write to the audit log."""

    def reject(self, error: Exception) -> None:
        """End the call because the policy refuses its stdin, or because its stdin could not be checked."""

    def fail(self, kind: str, sentence: str) -> None:
        """End the call with an error of the bridge."""

    @property
    def activity(self) -> Activity:
        """What the call is doing."""

    @property
    def gate(self) -> Gate:
        """What holds the call's place."""

    def on_progress(self) -> None:
        """Output was delivered or has ended, or the process has ended."""

    def on_output(self) -> None:
        """The CLI has written to stdout."""


class CliSession:
    """A CLI that starts with the session. `code` is None while it runs, then its exit code, or minus a signal."""

    def __init__(self, channel: Channel, request: LaunchRequest, context: CallContext, owner: Owner) -> None:
        """Start the CLI. Raises any Exception if it cannot be started."""
        self._channel = channel
        self._request = request
        self._owner = owner
        self._is_closed = False
        self._stuck_pipes = Watch()
        self._keeps = context.keeps
        self._dialogue: Dialogue | None = None
        if request.is_interactive:
            self._dialogue = Dialogue(owner.activity, owner.gate.answer_ended, owner.gate.interrupt)
        self._program: ProgramDialogue | None = None
        if request.plan.controls:
            self._program = ProgramDialogue(owner.activity, owner.gate.answer_ended, owner.gate.hear_limit)
            owner.gate.is_told_of_ends = True
        self.code: int | None = None
        self._process, self._tools = context.launch(request, channel, self)
        self._stdin = Stdin(channel, self._process.stdin, self, _control(request, context))
        stdout, stderr = self._process.stdout, self._process.stderr
        self._output = Output(channel, stdout, stderr, owner.on_progress, self._stdin.go_on, self._on_output)

    @property
    def pid(self) -> int:
        """The pid of the first process."""
        return self._process.pid

    def greet(self) -> None:
        """Report to the client that the CLI has started, and grant credit for stdin."""
        plan = self._request.plan
        self._channel.send_started(plan.notes, plan.project.limits, self._request.is_interactive)
        self._channel.grant(Frame.STDIN, WINDOW)

    # From the client

    def take(self, data: bytes) -> None:
        """Handle bytes of stdin. Empty data is its end."""
        if not self._is_closed:
            if self._dialogue is not None:
                self._dialogue.type(data)
            self._stdin.take(data)

    def signal(self, number: int) -> None:
        """Send a signal to the CLI."""
        self._use()
        self._process.signal(number)

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of the CLI's terminal."""
        self._use()
        self._process.resize(rows, columns)

    def _use(self) -> None:
        if self._dialogue is not None:
            self._dialogue.use()

    def kick(self) -> None:
        """Check the output again: credit has arrived, or the connection accepts data again."""
        self._output.kick()

    # For stdin

    @property
    def owes_answers(self) -> bool:
        """Whether no further control request may be handled now."""
        return self._is_closed or self._output.owes_answers

    def answer(self, data: bytes) -> None:
        """Send answers to refused control requests, in the CLI's place."""
        self._output.answer(data)

    def reject(self, error: Exception) -> None:
        """End the call because its stdin is refused."""
        self._owner.reject(error)

    def note(self, event: str, **facts: str | int | list[str]) -> None:
        """Write to the audit log."""
        self._owner.note(event, **facts)

    def on_message(self, kind: str, answers: str) -> None:
        """A message of the program's is passed on."""
        if self._program is not None:
            self._program.say(kind, answers)

    # Sleep

    def may_sleep(self, after: float) -> bool:
        """Return whether the session was not used for `after` seconds, and its end would lose nothing."""
        if self._dialogue is None or self.code is not None or not self._dialogue.may_sleep(after):
            return False
        return not self._tools.runs_commands(len(self._request.plan.servers))

    def may_be_asked(self, after: float) -> bool:
        """Return whether to ask the client for its agreement, which then counts as asked."""
        return self._dialogue is not None and self._dialogue.may_be_asked(after)

    def again(self) -> str:
        """Return how the session goes on after sleep."""
        assert self._dialogue is not None
        return self._dialogue.again(lambda session: self._keeps(self._request.grant, session))

    # From the CLI

    def _on_output(self, data: bytes) -> None:
        self._owner.on_output()
        if self._program is not None:
            self._program.hear(data)

    def on_not_started(self, why: bytes) -> None:
        """The launcher in the sandbox did not start the CLI: a directory is missing, or was replaced just now."""
        if why == b"nowhere":
            where = printable(self._request.cwd, 80)
            text = f"the host could not start Claude Code: the directory {where} is not there on the host"
            self._owner.fail("start", text)
            return
        self._owner.note("failed", why="a directory was exchanged during the start")
        grant = self._request.grant
        what = grant.changed or f"a directory of grant {grant.name} was exchanged"
        self._owner.fail("changed", f"on the host, {what}")

    def on_stopped(self) -> None:
        """The CLI has stopped itself (Ctrl-Z). The client's CONT continues it."""
        self._channel.send_state(state="stopped")

    def on_event(self, event: SessionEvent) -> None:
        """A hook of the bridge's own has told what the session does."""
        if self._dialogue is not None:
            self._dialogue.hear(event)
            self._owner.gate.is_told_of_ends = self._dialogue.tells

    def on_command(self) -> None:
        """A command of Claude's is about to run."""
        if self._dialogue is not None:
            self._dialogue.begin_command()

    def on_exit(self, code: int) -> None:
        """The process and everything that it started have ended."""
        never_ran = self._process.never_ran and not self._is_closed
        why = self._output.read_bubblewrap() if never_ran else ""
        self.code = code
        self._tools.end()
        if never_ran:
            self._owner.note("failed", why=why)
            self._owner.fail("start", NAMESPACE_FAILED)
        self._owner.on_progress()

    def look_at_processes(self, memory: int) -> None:
        """Free the CLI if it waits at a named pipe in the workspace. End the call if that does not help, or if its
        processes take more than `memory` MiB."""
        if processes.memory(self.pid) > memory * MIB:
            self._process.kill()  # at once, because it may grow by a GiB a second
            self._owner.note("failed", why="memory")
            self._owner.fail(
                "memory",
                f"Claude Code took more memory than the host allows a call ({memory} MiB), so the host ended it",
            )
            return
        if self._stuck_pipes.look(self.pid):
            self._owner.fail(
                "stuck", "Claude Code reads a pipe in the workspace that nobody writes to; remove the pipe"
            )

    # The end

    def is_delivered(self) -> bool:
        """Send the rest of the output that may be sent now. Returns whether nothing is left."""
        self._output.flush()
        return not self._output.is_open

    def close(self) -> None:
        """Stop reading and delivering. End the commands in the container, and the network."""
        self._is_closed = True
        self._output.close()
        self._stdin.close()
        self._tools.close()

    def close_tools(self) -> None:
        """End the commands in the container, and the network."""
        self._tools.close()

    def terminate(self, grace: float) -> None:
        """End the process with TERM, and with KILL after `grace` seconds."""
        self._process.terminate(grace)


def _control(request: LaunchRequest, context: CallContext) -> Control | None:
    """Return what checks stdin, if stdin is a channel of control messages."""
    plan, terms = request.plan, request.terms
    if not plan.controls:
        return None
    judged = ControlFilter(terms, plan.prompt_addition, plan.servers)
    return Control(judged, terms, context.grant.name, context.pool, context.scheduler)
