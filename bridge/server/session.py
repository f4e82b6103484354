"""The running CLI of one call, with its streams, its signals and its tool calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

from bridge.policy import Scope
from bridge.policy.control_messages import ControlFilter
from bridge.policy.terms import printable
from bridge.protocol.frames import WINDOW, Frame
from bridge.server.channel import Channel
from bridge.server.host.grants import Grant
from bridge.server.host.log import ServerLog
from bridge.server.launch import Launch, LaunchRequest
from bridge.server.output import Output
from bridge.server.policy_pool import PolicyPool
from bridge.server.sandbox.stuck_pipes import Watch
from bridge.server.scheduler import Scheduler
from bridge.server.stdin import Control, Stdin

NAMESPACE_FAILED = "the host could not start Claude Code: its namespace failed; see `claude-bridge-server doctor`"


@dataclasses.dataclass(frozen=True)
class CallContext:
    """What a call knows of the server."""

    grant: Grant
    terms: Scope
    """Of the grant; whether tools run in the container is each call's own."""
    pool: PolicyPool
    scheduler: Scheduler
    log: ServerLog
    note: Callable[..., None]
    """Writes to the audit log."""
    launch: Launch


class Owner(Protocol):
    """The call, as its session needs it."""

    def note(self, event: str, **facts: str | int | list[str]) -> None:
        """Write to the audit log."""

    def reject(self, error: Exception) -> None:
        """End the call: the policy refuses its stdin, or it could not be judged."""

    def fail(self, kind: str, sentence: str) -> None:
        """End the call with an error of the bridge's."""

    def on_progress(self) -> None:
        """Output was delivered or has ended, or the process has."""


class CliSession:
    """A CLI that is started with the session. `code` is None while it runs, then its exit code, or minus a signal."""

    def __init__(self, channel: Channel, request: LaunchRequest, context: CallContext, owner: Owner) -> None:
        """Start it; any Exception when it cannot be started."""
        self._channel = channel
        self._request = request
        self._owner = owner
        self._is_closed = False
        self._stuck_pipes = Watch()
        self.code: int | None = None
        self._process, self._tools = context.launch(request, channel, self)
        self._stdin = Stdin(channel, self._process.stdin, self, _control(request, context))
        stdout, stderr = self._process.stdout, self._process.stderr
        self._output = Output(channel, stdout, stderr, owner.on_progress, self._stdin.go_on)

    @property
    def pid(self) -> int:
        """The first process."""
        return self._process.pid

    def greet(self) -> None:
        """Tell the client that the CLI has started, and let it send."""
        self._channel.send_started(self._request.plan.project.notes, self._request.is_interactive)
        self._channel.grant(Frame.STDIN, WINDOW)

    # From the client

    def take(self, data: bytes) -> None:
        """Take bytes of stdin; no bytes are the end."""
        if not self._is_closed:
            self._stdin.take(data)

    def signal(self, number: int) -> None:
        """Send a signal to the CLI."""
        self._process.signal(number)

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of the CLI's terminal."""
        self._process.resize(rows, columns)

    def kick(self) -> None:
        """Look again at the output: credit has come, or the connection takes data again."""
        self._output.kick()

    # For stdin

    @property
    def owes_answers(self) -> bool:
        """Whether no further control request is to be judged now."""
        return self._is_closed or self._output.owes_answers

    def answer(self, data: bytes) -> None:
        """Answer refused control requests in the CLI's place."""
        self._output.answer(data)

    def reject(self, error: Exception) -> None:
        """End the call: its stdin is refused."""
        self._owner.reject(error)

    def note(self, event: str, **facts: str | int | list[str]) -> None:
        """Write to the audit log."""
        self._owner.note(event, **facts)

    # From the CLI

    def on_not_started(self, why: bytes) -> None:
        """The launcher in the sandbox did not start the CLI: a directory is not there, or was exchanged just now."""
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
        """The CLI has stopped itself (Ctrl-Z). It goes on with the client's CONT."""
        self._channel.send_state(state="stopped")

    def on_exit(self, code: int) -> None:
        """The process has ended, and all that it started."""
        never_ran = self._process.never_ran and not self._is_closed
        why = self._output.read_bubblewrap() if never_ran else ""
        self.code = code
        self._tools.close()
        if never_ran:
            self._owner.note("failed", why=why)
            self._owner.fail("start", NAMESPACE_FAILED)
        self._owner.on_progress()

    def look_at_pipes(self) -> None:
        """Let the CLI go where it waits at a pipe of the workspace's, or end the call."""
        if self._stuck_pipes.look(self.pid):
            self._owner.fail(
                "stuck", "Claude Code reads a pipe in the workspace that nobody writes to; remove the pipe"
            )

    # The end

    def is_delivered(self) -> bool:
        """Send the rest that may go now; whether nothing is left."""
        self._output.flush()
        return not self._output.is_open

    def close(self) -> None:
        """Take and deliver nothing more; end the commands in the container, and the network."""
        self._is_closed = True
        self._output.close()
        self._stdin.close()
        self._tools.close()

    def close_tools(self) -> None:
        """End the commands in the container, and the network."""
        self._tools.close()

    def terminate(self, grace: float) -> None:
        """End the process: TERM, and KILL after `grace` seconds."""
        self._process.terminate(grace)


def _control(request: LaunchRequest, context: CallContext) -> Control | None:
    """What judges stdin, where it is a channel of control messages."""
    plan, terms = request.plan, request.terms
    if not plan.controls:
        return None
    judged = ControlFilter(terms, plan.told, plan.servers)
    return Control(judged, terms, context.grant.name, context.pool, context.scheduler)
