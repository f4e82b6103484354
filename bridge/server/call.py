"""One call, from the client's request to its exit.

    JUDGED --refused, client gone--> OVER
      |
    WAITING --cancelled, time limit, client gone--> OVER
      |
    RUNNING --the CLI has ended and its output is delivered, or it was not started--> OVER
      |  \
      |   DOZING (nobody uses the session): the CLI is being ended, its output is delivered --> ASLEEP --> OVER
      |
    ENDING (cancelled, or the client is gone): the CLI is being ended, its output is dropped --> OVER

A call counts as running until its last process is gone, so clients cannot get around the limits.

An idle session sleeps: its CLI is ended, and the call only stands for the client, which waits for a key. To go on, the
client makes a new call, with the word that it was given here (`again`), and ends this one.
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
from bridge.policy.terms import CliError, printable
from bridge.protocol.frames import Event, Fields, Frame
from bridge.server.activity import Activity
from bridge.server.channel import Channel
from bridge.server.host.audit import outline
from bridge.server.host.log import place_of
from bridge.server.launch import LaunchRequest, failure_of
from bridge.server.policy_pool import is_small
from bridge.server.policy_worker import plan_of, unpack
from bridge.server.sandbox.process import KILL_AFTER_S
from bridge.server.session import CallContext, CliSession
from bridge.server.signals import SignalRelay

DOZE_S = 10.0
"""Seconds from TERM to KILL for the CLI of a session that is to sleep. Hooks for the end of a session run in them."""

LONG = 200
"""Arguments of at least so many bytes are logged by their length only."""

CODES = {"cli": 1, "policy": 126, "no-cli": 127}
"""The client's exit code by kind of error. All others are 125."""


class CallState(enum.Enum):
    """The state of a call. `status` shows the value."""

    JUDGED = "judged"
    WAITING = "waiting"
    RUNNING = "running"
    DOZING = "dozing"
    ASLEEP = "asleep"
    ENDING = "ending"
    OVER = "over"


FOLLOWING = {
    CallState.JUDGED: {CallState.WAITING, CallState.OVER},
    CallState.WAITING: {CallState.RUNNING, CallState.OVER},
    CallState.RUNNING: {CallState.DOZING, CallState.ENDING, CallState.OVER},
    CallState.DOZING: {CallState.ASLEEP, CallState.ENDING, CallState.OVER},
    CallState.ASLEEP: {CallState.OVER},
    CallState.ENDING: {CallState.OVER},
    CallState.OVER: set[CallState](),
}


class Call:
    """The handler of a channel that a client opened: one call."""

    def __init__(
        self,
        channel: Channel,
        fields: Fields,
        context: CallContext,
        on_over: Callable[[Call], None],
        on_asleep: Callable[[Call], None],
    ) -> None:
        """`on_over` is called once, when the call is over and its processes are gone. `on_asleep` is called when its
        processes are gone because it sleeps."""
        self.activity = Activity()
        self.state = CallState.JUDGED
        self.grant = context.grant.name
        self.has_run = False
        """Whether the call has left the queue to run."""
        self._channel = channel
        self._fields = fields
        self._context = context
        self._on_over = on_over
        self._on_asleep = on_asleep
        self._born = time.monotonic()
        words = [os.fsdecode(word) if len(word) < LONG else "?" * len(word) for word in fields.all("arg")]
        self._outline = outline(words)
        self._terms = dataclasses.replace(context.terms, runs_commands=fields.get("hands") == b"1")
        self._plan = Plan()
        self._packed = b""
        """The plan as the policy worker returned it. Empty once the call starts."""
        self._weigh()
        self._position = -1
        self._wait_timer: asyncio.TimerHandle | None = None
        self._session: CliSession | None = None
        self.has_slept = False
        """Whether its processes are gone although the call is not over."""
        self._code: int | None = None
        """The exit code of the CLI of a session that sleeps."""
        self._sleeps_after = 0.0
        """Seconds, once the client was asked whether the session may sleep."""
        self._signals = SignalRelay(self._on_signal, self._resize)
        self._has_credit = False

    def _become(self, state: CallState) -> bool:
        """Change the state. Returns False, and changes nothing, if the new state may not follow the current one."""
        if state not in FOLLOWING[self.state]:
            return False
        self.state = state
        return True

    @property
    def age(self) -> float:
        """Seconds since the client's request."""
        return time.monotonic() - self._born

    @property
    def code(self) -> int | None:
        """The CLI's exit code, or minus a signal; None while there is none."""
        return self._code if self._session is None else self._session.code

    def _weigh(self) -> None:
        """Set `size`: bytes of memory that the call holds until it starts."""
        self.size = len(self._packed) + self._plan.size + sum(len(value) for _, value in self._fields.pairs)

    def note(self, event: str, **facts: str | int | float | list[str] | None) -> None:
        """Write to the audit log."""
        self._context.note(event, **self._channel.client, **facts)

    def facts(self) -> dict[str, object]:
        """Return facts about the call for `status`."""
        return {**self.activity.facts(), "age_s": round(self.age, 1), **self._channel.client}

    def end_answer(self) -> None:
        """The CLI itself reports the end of an answer, or that it waits for a person."""

    # Policy

    @property
    def is_small(self) -> bool:
        """Whether the request is small enough to be checked on the event loop."""
        return is_small(self._fields)

    def judge(self) -> bool:
        """Check the request on the event loop. Returns whether the call may go on; if not, it is over."""
        try:
            self._plan = plan_of(self._fields, self._terms)
        except Exception as error:
            self.reject(error)
        return self.state is CallState.JUDGED

    async def judge_elsewhere(self) -> bool:
        """Check the request in the grant's policy worker, while the loop goes on. Returns the same as `judge`."""
        try:
            self._packed = await self._context.pool.call(self.grant, self._fields, self._terms)
        except Exception as error:
            self.reject(error)
        return self.state is CallState.JUDGED

    def reject(self, error: Exception) -> None:
        """End the call because the policy refuses it or its stdin, or because it could not be checked."""
        if isinstance(error, PolicyError):
            judged = {"argv": self._outline} if self.state is CallState.JUDGED else {}
            self.note("refused", **judged, why=error.kind)
            self.fail("cli" if isinstance(error, CliError) else "policy", str(error))
            return
        self._context.log.fault("a call could not be judged", error)
        self.note("failed", why=place_of(error))
        self.fail(
            "policy", "the bridge could not read this request, so it is refused; please report what you asked for"
        )

    # Waiting

    def wait(self, limit: int) -> None:
        """Wait for a turn, at most `limit` seconds."""
        if self._become(CallState.WAITING):
            in_plan = ("arg", "file", "memory", "omitted", "text")
            self._fields = Fields(pair for pair in self._fields.pairs if pair[0] not in in_plan)
            self._weigh()
            self.note("woke" if self._fields.get("again") else "asked", argv=self._outline)
            self._wait_timer = asyncio.get_running_loop().call_later(limit, self._give_up, limit)

    def report_position(self, position: int) -> None:
        """Report to the client how many calls come first, if the number has changed."""
        if position != self._position:
            self._position = position
            self._channel.send_state(state="queued", ahead=position)

    def _give_up(self, limit: int) -> None:
        self.fail("timeout", f"no call ended within {limit} s, so this one was never started; try again")

    # Running

    def start(self) -> None:
        """Start the CLI. If that fails, the call ends with an error."""
        self.has_run = self._become(CallState.RUNNING)
        if self._wait_timer:
            self._wait_timer.cancel()
        try:
            if self._packed:
                self._plan, self._packed = unpack(self._packed, self._terms), b""
            request = LaunchRequest(self._context.grant, self._terms, self._plan, self._fields)
            session = CliSession(self._channel, request, self._context, self)
        except Exception as error:  # a failure ends this call only
            kind, sentence = failure_of(error, self._context.grant)
            self.note("failed", why=str(error))
            self.fail(kind, sentence)
            return
        self.note("started", argv=outline(self._plan.argv), child=session.pid, left_out=len(self._plan.notes))
        self._session = session
        self.activity.come_up()
        session.greet()
        self.kick()

    def look_at_pipes(self) -> None:
        """Free the CLI if it waits at a named pipe in the workspace, or end the call."""
        if self._session is not None and self._session.code is None:
            self._session.look_at_pipes()

    # Sleep

    def rest(self, after: float) -> None:
        """Ask the client whether the session may sleep, if nobody has used it for `after` seconds. The client knows
        whether something still runs in the container, and stops reading the keyboard before it agrees."""
        if self.state is CallState.RUNNING and self._session is not None and self._session.may_sleep(after):
            self._sleeps_after = after
            self._channel.send_state(state="drowsy")

    def _doze(self) -> None:
        """The client agrees: end the CLI. It gets enough time to write its conversation."""
        after, self._sleeps_after = self._sleeps_after, 0.0
        if self.state is not CallState.RUNNING or self._session is None or not after:
            return
        if not self._session.may_sleep(after):
            self._channel.send_state(state="awake")
        elif self._become(CallState.DOZING):
            self._session.terminate(DOZE_S)

    def _fall_asleep(self) -> None:
        """The CLI has ended and its output is delivered: keep only what a waiting client needs."""
        assert self._session is not None
        again, self._code, session = self._session.again(), self._session.code, self._session
        if not self._become(CallState.ASLEEP):
            return
        self._session, self.has_slept = None, True
        session.close()
        self._plan, self._fields = Plan(), Fields(())
        self._weigh()
        self.activity.sleep(True)
        self.note("slept", code=self._code, seconds=round(self.age, 3))
        self._on_asleep(self)
        self._channel.send_state(state="asleep", again=again)

    # From the client

    def on(self, event: Event) -> None:
        """Handle a frame of the channel."""
        if event.kind == Frame.STDIN:
            if self._session is not None:
                self._session.take(event.payload)
        elif event.kind == Frame.CREDIT:
            self._has_credit = True
        elif event.kind == Frame.SIGNAL:
            self._signals.add_signal(event.payload[0])
        elif event.kind == Frame.RESIZE:
            self._signals.add_size(*event.rows_and_columns)
        elif event.kind == Frame.CANCEL:
            if self._session is not None:
                self._session.close_tools()  # first, so that the client gets the cancels of its commands before EXIT
            self._channel.end(Frame.EXIT, signal=int(signal.SIGTERM))
            self.cancel()

    def settle(self) -> None:
        """Apply the credit, the signals and the size that arrived in this turn of the loop."""
        if self._has_credit:
            self._has_credit = False
            self.kick()
        self._signals.flush()

    def kick(self) -> None:
        """Check the output again: credit has arrived, or the connection accepts data again."""
        if self._session is not None:
            self._session.kick()
        self.on_progress()

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGTSTP:
            self._doze()
        elif self.state in (CallState.WAITING, CallState.ASLEEP):
            self._channel.end(Frame.EXIT, signal=number)
            self.cancel()
        elif self._session is not None:
            self._session.signal(number)

    def _resize(self, rows: int, columns: int) -> None:
        if self._session is not None:
            self._session.resize(rows, columns)

    # The end

    def cancel(self, grace: float = KILL_AFTER_S) -> None:
        """End the call without a result. The CLI gets `grace` seconds between TERM and KILL."""
        if self.state is CallState.ENDING:
            return
        if self._session is None or self.code is not None:
            self._over()
        elif self._become(CallState.ENDING):
            self._session.close()
            self._session.terminate(grace)

    def fail(self, kind: str, sentence: str) -> None:
        """End the call with an error of the bridge."""
        # The send can call `kick`, and so end this call, before it returns.
        text = "\n".join(map(printable, sentence.split("\n")[:20])) if kind == "cli" else printable(sentence)
        self._channel.end(Frame.ERROR, kind=kind, text=text, code=CODES.get(kind, 125))
        self.cancel()

    def on_progress(self) -> None:
        """End the call if the process has ended and its output is delivered."""
        if self._session is None or self._session.code is None:
            return
        code = self._session.code
        if self.state in (CallState.RUNNING, CallState.DOZING) and self._channel.is_open:
            if not self._session.is_delivered():
                return
            if self.state is CallState.DOZING:
                self._fall_asleep()
                return
            self._channel.end(Frame.EXIT, **({"signal": -code} if code < 0 else {"code": code}))
        self._over()

    def _over(self) -> None:
        if self._become(CallState.OVER):
            if self._wait_timer:
                self._wait_timer.cancel()
            self._signals.close()
            if self._session is not None:
                self._session.close()
            self._channel.release()
            self._on_over(self)
