"""One call, from the client's request to its exit.

    JUDGED --refused, client gone--> OVER
      |
    WAITING --cancelled, time limit, client gone--> OVER
      |
    RUNNING --the CLI has ended and its output is delivered, or it was not started--> OVER
      |
    ENDING (cancelled, or the client has gone): the CLI is being ended, and nobody listens --> OVER

A call counts as running until its last process is gone, so the limits hold whatever clients do.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import os
import signal
import time
from collections.abc import Callable

from bridge.policy import PolicyError
from bridge.policy.argv import Plan
from bridge.policy.control_messages import ControlFilter
from bridge.policy.terms import Scope, printable
from bridge.protocol.frames import WINDOW, Event, Fields, Frame
from bridge.server.channel import Channel
from bridge.server.host.audit import outline
from bridge.server.host.grants import Grant
from bridge.server.host.log import ServerLog, place_of
from bridge.server.launch import Launch, LaunchRequest, failure_of
from bridge.server.output import Output
from bridge.server.policy_pool import PolicyPool, is_small
from bridge.server.policy_worker import directory_of, plan_of, unpack
from bridge.server.sandbox.process import KILL_AFTER_S, CliProcess
from bridge.server.sandbox.stuck_pipes import Watch
from bridge.server.scheduler import Scheduler
from bridge.server.signals import SignalRelay
from bridge.server.stdin import Control, Stdin
from bridge.server.tool_calls import ToolCalls

LONG = 200
"""Bytes of an argument from which on the audit log tells nothing but its length."""

CODES = {"policy": 126, "no-cli": 127}
"""Exit codes of the client by kind of error; any other is 125."""


class CallState(enum.Enum):
    """Where a call stands; `status` shows the value."""

    JUDGED = "judged"
    WAITING = "waiting"
    RUNNING = "running"
    ENDING = "ending"
    OVER = "over"


FOLLOWING = {
    CallState.JUDGED: {CallState.WAITING, CallState.OVER},
    CallState.WAITING: {CallState.RUNNING, CallState.OVER},
    CallState.RUNNING: {CallState.ENDING, CallState.OVER},
    CallState.ENDING: {CallState.OVER},
    CallState.OVER: set[CallState](),
}


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
    on_over: Callable[[Call], None]
    """Called once, when the call is over and its processes are gone."""


class Call:
    """The handler of a channel that a client has opened."""

    def __init__(self, channel: Channel, fields: Fields, context: CallContext) -> None:
        self.state = CallState.JUDGED
        self.grant = context.grant.name
        self.has_run = False
        """Whether it had its turn."""
        self.code: int | None = None
        """How the CLI has ended: its exit code, or minus a signal."""
        self._channel = channel
        self._fields = fields
        self._context = context
        self._born = time.monotonic()
        words = [os.fsdecode(word) if len(word) < LONG else "?" * len(word) for word in fields.all("arg")]
        self._outline = outline(words)
        self._terms = dataclasses.replace(context.terms, hands=fields.get("hands") == b"1")
        self._plan = Plan()
        self._packed = b""
        """The plan as the policy worker returned it, until the call starts."""
        self._position = -1
        self._wait_timer: asyncio.TimerHandle | None = None
        self._process: CliProcess | None = None
        self._tools: ToolCalls | None = None
        self._stdin: Stdin | None = None
        self._output: Output | None = None
        self._stuck_pipes = Watch()
        self._signals = SignalRelay(self._on_signal, self._resize)
        self._has_credit = False

    def _become(self, state: CallState) -> bool:
        """Change the state; false, and no change, where the new one may not follow."""
        if state not in FOLLOWING[self.state]:
            return False
        self.state = state
        return True

    @property
    def age(self) -> float:
        """Seconds since the client asked."""
        return time.monotonic() - self._born

    @property
    def size(self) -> int:
        """Bytes that it holds while it waits."""
        return len(self._packed) + sum(len(value) for _, value in self._fields.pairs)

    def note(self, event: str, **facts: str | int | float | list[str] | None) -> None:
        """Write to the audit log."""
        self._context.note(event, **self._channel.client, **facts)

    def facts(self) -> dict[str, object]:
        """What the operator is shown."""
        return {"state": self.state.value, "age_s": round(self.age, 1), **self._channel.client}

    # Judged

    @property
    def is_small(self) -> bool:
        """Whether it is judged on the loop."""
        return is_small(self._fields)

    def judge(self) -> bool:
        """Judge at once; whether the call may go on. If not, it is over."""
        try:
            self._plan = plan_of(self._fields, self._terms)
        except Exception as error:
            self.reject(error)
        return self.state is CallState.JUDGED

    async def judge_elsewhere(self) -> bool:
        """The same in the grant's policy worker, while the loop goes on."""
        try:
            self._packed = await self._context.pool.call(self.grant, self._fields, self._terms)
        except Exception as error:
            self.reject(error)
        return self.state is CallState.JUDGED

    def reject(self, error: Exception) -> None:
        """End the call: the policy refuses it or its stdin, or it could not be judged."""
        if isinstance(error, PolicyError):
            judged = {"argv": self._outline} if self.state is CallState.JUDGED else {}
            self.note("refused", **judged, why=error.kind)
            self.fail("policy", str(error))
            return
        self._context.log.fault("a call could not be judged", error)
        self.note("failed", why=place_of(error))
        self.fail(
            "policy", "the bridge could not read this request, so it is refused; please report what you asked for"
        )

    # Waiting

    def wait(self, limit: int) -> None:
        """Wait for a turn, for so many seconds at most."""
        if self._become(CallState.WAITING):
            in_plan = ("arg", "file")
            self._fields = Fields(pair for pair in self._fields.pairs if pair[0] not in in_plan)
            self.note("asked", argv=self._outline)
            self._wait_timer = asyncio.get_running_loop().call_later(limit, self._give_up, limit)

    def report_position(self, position: int) -> None:
        """Report how many calls come first, when that has changed."""
        if position != self._position:
            self._position = position
            self._channel.send_state(state="queued", ahead=position)

    def _give_up(self, limit: int) -> None:
        self.fail("timeout", f"no call ended within {limit} s, so this one was never started; try again")

    # Running

    def start(self) -> None:
        """Start the CLI: it is this call's turn."""
        self.has_run = self._become(CallState.RUNNING)
        if self._wait_timer:
            self._wait_timer.cancel()
        try:
            if self._packed:
                self._plan, self._packed = unpack(self._packed, self._terms), b""
            request = LaunchRequest(self._context.grant, self._terms, self._plan, self._fields)
            process, self._tools = self._context.launch(request, self._channel, self)
        except Exception as error:  # any error ends this call alone
            kind, sentence = failure_of(error, self._context.grant)
            self.note("failed", why=str(error))
            self.fail(kind, sentence)
            return
        self.note("started", argv=outline(self._plan.argv), child=process.pid)
        self._process = process
        self._stdin = Stdin(self._channel, process.stdin, self, self._control())
        self._output = Output(self._channel, process.stdout, process.stderr, self._finish, self._stdin.go_on)
        self._channel.send_started(self._plan.project.notes, request.is_interactive)
        self._channel.grant(Frame.STDIN, WINDOW)
        self.kick()

    def _control(self) -> Control | None:
        """What judges stdin, where it is a channel of control messages."""
        if not self._plan.controls:
            return None
        judged = ControlFilter(self._terms, self._plan.told, self._plan.servers)
        return Control(judged, self._terms, self.grant, self._context.pool, self._context.scheduler)

    def look_at_pipes(self) -> None:
        """Let the CLI go where it waits at a pipe of the workspace's, or end the call."""
        if self._process is not None and self._stuck_pipes.look(self._process.pid):
            self.fail("stuck", "Claude Code reads a pipe in the workspace that nobody writes to; remove the pipe")

    def on_not_started(self, why: bytes) -> None:
        """The launcher in the sandbox did not start the CLI: a directory is not there, or was exchanged just now."""
        if why == b"nowhere":
            where = printable(directory_of(self._fields), 80)
            self.fail("start", f"the host could not start Claude Code: the directory {where} is not there on the host")
            return
        self.note("failed", why="a directory was exchanged during the start")
        what = self._context.grant.changed or f"a directory of grant {self.grant} was exchanged"
        self.fail("changed", f"on the host, {what}")

    def on_stopped(self) -> None:
        """The CLI has stopped itself (Ctrl-Z). It goes on with the client's CONT."""
        self._channel.send_state(state="stopped")

    # From the client

    def on(self, event: Event) -> None:
        """Take a frame of the channel."""
        if event.kind == Frame.STDIN:
            if self._stdin is not None and self.state is CallState.RUNNING:
                self._stdin.take(event.payload)
        elif event.kind == Frame.CREDIT:
            self._has_credit = True
        elif event.kind == Frame.SIGNAL:
            self._signals.add_signal(event.payload[0])
        elif event.kind == Frame.RESIZE:
            self._signals.add_size(*event.rows_and_columns)
        elif event.kind == Frame.CANCEL:
            self._close_tools()  # so that the client hears of its commands first
            self._end(Frame.EXIT, signal=int(signal.SIGTERM))
            self.cancel()

    def settle(self) -> None:
        """Act on the credit, the signals and the size of this turn of the loop."""
        if self._has_credit:
            self._has_credit = False
            self.kick()
        self._signals.flush()

    def kick(self) -> None:
        """Look again at the output: credit has come, or the connection takes data again."""
        if self._output is not None:
            self._output.kick()
        self._finish()

    def _on_signal(self, number: int) -> None:
        if self.state is CallState.WAITING:
            self._end(Frame.EXIT, signal=number)
            self.cancel()
        elif self._process is not None:
            self._process.signal(number)

    def _resize(self, rows: int, columns: int) -> None:
        if self._process is not None:
            self._process.resize(rows, columns)

    @property
    def owes_answers(self) -> bool:
        """Whether no further control request is to be judged now."""
        return self.state is not CallState.RUNNING or (self._output is not None and self._output.owes_answers)

    def answer(self, data: bytes) -> None:
        """Answer refused control requests in the CLI's place."""
        if self._output is not None:
            self._output.answer(data)

    # The end

    def cancel(self, grace: float = KILL_AFTER_S) -> None:
        """End the call: nobody waits for it. The CLI has `grace` seconds between TERM and KILL."""
        if self.state is CallState.ENDING:
            return
        if self._process is None or self.code is not None:
            self._over()
        elif self._become(CallState.ENDING):
            self._close()
            self._process.terminate(grace)

    def fail(self, kind: str, sentence: str) -> None:
        """End the call with an error of the bridge's."""
        self._end(Frame.ERROR, kind=kind, text=printable(sentence), code=CODES.get(kind, 125))
        self.cancel()

    def on_exit(self, code: int) -> None:
        """The CLI's process has ended, and all that it started."""
        assert self._process is not None
        assert self._output is not None
        if self.state is CallState.RUNNING and self._process.never_ran:
            why = self._output.read_bubblewrap()
            self.code = code
            self.note("failed", why=why)
            self.fail(
                "start",
                "the host could not start Claude Code: its namespace failed; see `claude-bridge-server doctor`",
            )
            return
        self.code = code
        self._close_tools()
        self._finish()

    def _finish(self) -> None:
        """End the call if the process and its output have ended."""
        if self.code is None or self._output is None:
            return
        if self.state is CallState.RUNNING and self._channel.is_open:
            self._output.flush()
            if self._output.is_open:
                return
            self._end(Frame.EXIT, **({"signal": -self.code} if self.code < 0 else {"code": self.code}))
        self._over()

    def _end(self, kind: int, /, **fields: str | int | None) -> None:
        """Tell the client how the call has ended. The send can call `kick` before it returns."""
        self._channel.end(kind, **fields)

    def _over(self) -> None:
        if self._become(CallState.OVER):
            if self._wait_timer:
                self._wait_timer.cancel()
            self._signals.close()
            self._close()
            self._channel.release()
            self._context.on_over(self)

    def _close(self) -> None:
        """Take and deliver nothing more; end the commands in the container, and the network."""
        if self._output is not None:
            self._output.close()
        if self._stdin is not None:
            self._stdin.close()
        self._close_tools()

    def _close_tools(self) -> None:
        if self._tools is not None:
            tools, self._tools = self._tools, None
            tools.close()
