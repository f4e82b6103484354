"""One call, from the client's request to its exit.

    JUDGED --refused, client gone--> OVER
      |
    WAITING (for a place, or for its start) --cancelled, time limit, client gone--> OVER
      |
    RUNNING --the CLI has ended and its output is delivered, or it was not started--> OVER
      |  \
      |   DOZING (nobody uses the session): the CLI is being ended, its output is delivered --> ASLEEP --> OVER
      |
    ENDING (cancelled, or the client is gone): the CLI is being ended, its output is dropped --> OVER

A call counts as running until its last process is gone, so clients cannot get around the limits. A running session
has a place only while it works: bridge/server/gate.py.

An idle session sleeps: its CLI is ended, and the call only stands for the client, which waits for a key. To go on, the
client makes a new call, with the word that it was given here (`again`), and ends this one.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import os
import secrets
import signal
import time
from collections.abc import Callable

from bridge.policy import PolicyError
from bridge.policy.argv import Plan
from bridge.policy.terms import CliError, printable
from bridge.protocol.frames import Event, Fields, Frame
from bridge.server.activity import Activity, Kind
from bridge.server.channel import Channel
from bridge.server.gate import PLACE, Gate, Hold
from bridge.server.holds import Held
from bridge.server.host.audit import outline
from bridge.server.host.log import place_of
from bridge.server.launch import WORD, LaunchRequest, failure_of
from bridge.server.policy_pool import is_small
from bridge.server.policy_worker import kind_of, plan_of, unpack
from bridge.server.sandbox.process import KILL_AFTER_S
from bridge.server.session import CallContext, CliSession
from bridge.server.signals import SignalRelay

DOZE_S = 10.0
"""Seconds from TERM to KILL for the CLI of a session that is to sleep. Hooks for the end of a session run in them."""

LONG = 200
"""Arguments of at least so many bytes are logged by their length only."""

CODES = {"cli": 1, "policy": 126, "no-cli": 127}
"""The client's exit code by kind of error. All others are 125."""

DRAWN_S = 0.3
"""Seconds without output after which a session has drawn its first screen."""

UP_WITHIN_S = 10.0
"""Seconds after which a session no longer counts as one that starts."""

START = "its start: as many sessions start at the same time as the host lets"


class CallState(enum.Enum):
    """The stage of a call in its life. What it is doing is `Call.activity`."""

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
        on_up: Callable[[Call], None],
        on_asleep: Callable[[Call], None],
    ) -> None:
        """`on_over` is called once, when the call is over and its processes are gone. `on_up` is called at most once,
        when its session has started. `on_asleep` is called when its processes are gone because it sleeps."""
        self.state = CallState.JUDGED
        self.activity = Activity()
        if fields.get("again"):
            self.activity.prompts = fields.number("prompts")
        self.gate = Gate(self.activity)
        self.word = secrets.token_hex(16)
        """What this call's commands are told, so that calls of theirs can share its place."""
        self.grant = context.grant.name
        self.has_run = False
        """Whether the call has left the queue to run."""
        self._channel = channel
        self._fields = fields
        self._context = context
        self._on_over = on_over
        self._on_up = on_up
        self._on_asleep = on_asleep
        self._up_timer: asyncio.TimerHandle | None = None
        self._drawn_timer: asyncio.TimerHandle | None = None
        self._born = time.monotonic()
        words = [os.fsdecode(word) if len(word) < LONG else "?" * len(word) for word in fields.all("arg")]
        self._outline = outline(words)
        self._terms = dataclasses.replace(context.terms, runs_commands=fields.get("hands") == b"1")
        self._plan = Plan()
        self._packed = b""
        """The plan as the policy worker returned it. Empty once the call starts."""
        self._weigh()
        self._position = -1
        self._held: Held | None = None
        """How many calls come first, and what holds new work, as the client was told."""
        self._wait_limit = 0
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

    @property
    def kind(self) -> Kind:
        """The kind of the call. Valid once it is judged."""
        return self.activity.kind

    @property
    def above(self) -> str:
        """What the client's environment says of the call that it comes from; empty if nothing."""
        start = WORD + b"="
        said = next((entry for entry in self._fields.all("env") if entry.startswith(start)), start)
        return said[len(start) :].decode("ascii", "replace")

    def hold(self, is_confined: bool) -> Hold:
        """Return how long this call holds its place. Without a namespace, nothing tells when it works."""
        if not is_confined:
            return Hold.CALL
        if self.kind is Kind.PRINT:
            return Hold.STDIN if self._fields.get("stdin") == b"pipe" else Hold.CALL
        return Hold.ANSWER

    # Policy

    @property
    def is_small(self) -> bool:
        """Whether the request is small enough to be checked on the event loop."""
        return is_small(self._fields)

    def judge(self) -> bool:
        """Check the request on the event loop. Returns whether the call may go on; if not, it is over."""
        try:
            self._plan = plan_of(self._fields, self._terms)
            self.activity.kind = kind_of(self._plan, self._fields, self._terms)
        except Exception as error:
            self.reject(error)
        return self.state is CallState.JUDGED

    async def judge_elsewhere(self) -> bool:
        """Check the request in the grant's policy worker, while the loop goes on. Returns the same as `judge`."""
        try:
            packed = await self._context.pool.call(self.grant, self._fields, self._terms)
            kind, _, self._packed = packed.partition(b"\n")
            self.activity.kind = Kind(kind.decode())
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

    def wait(self, limit: int, for_start: bool = False) -> None:
        """Wait for a turn, at most `limit` seconds. `for_start` says that it needs no place for its start."""
        if self._become(CallState.WAITING):
            self.activity.wait_for_turn(START if for_start else PLACE)
            in_plan = ("arg", "file", "memory", "omitted", "text")
            self._fields = Fields(pair for pair in self._fields.pairs if pair[0] not in in_plan)
            self._weigh()
            self.note("woke" if self._fields.get("again") else "asked", argv=self._outline)
            self._wait_limit = limit
            self._count_waiting()

    def _count_waiting(self) -> None:
        """Start to count the time that the call waits. While new work is held, it does not count."""
        if self._wait_timer:
            self._wait_timer.cancel()
        self._wait_timer = None
        if self._held is None:
            self._wait_timer = asyncio.get_running_loop().call_later(self._wait_limit, self._give_up, self._wait_limit)

    def report_position(self, position: int, held: Held | None = None) -> None:
        """Report to the client how many calls come first, and what holds new work, if one of them has changed."""
        if (position, held) == (self._position, self._held):
            return
        is_new = held != self._held
        self._position, self._held = position, held
        self.activity.ahead = position
        self.activity.hold(held.why if held else "", held.until if held else None)
        if is_new and self.state is CallState.WAITING:
            self._count_waiting()
        draws = self.state is CallState.RUNNING and self.kind is Kind.INTERACTIVE
        why: dict[str, str | int] = {"why": held.why, "until": int(held.until)} if held else {}
        self._channel.send_state(state="waiting" if draws else "queued", ahead=position, **why)

    def go_on(self) -> None:
        """The call has its place, or needs none any more. If it waited for its start, it starts."""
        if self._position >= 0 and self.state is CallState.RUNNING:
            self._channel.send_state(state="working")
        self._position, self._held, self.activity.ahead = -1, None, None
        if self.state is CallState.WAITING:
            self.start()

    def _give_up(self, limit: int) -> None:
        what = self.activity.waits_for
        self.fail("timeout", f"within {limit} s there was no turn for this call; it waited for {what}; try again")

    # Running

    def start(self) -> None:
        """Start the CLI. If that fails, the call ends with an error."""
        self.has_run = self._become(CallState.RUNNING)
        self.activity.wait_for_turn("")
        if self._wait_timer:
            self._wait_timer.cancel()
        try:
            self._unpack()
            grant = self._context.grant
            request = LaunchRequest(grant, self._terms, self._plan, self._fields, self.gate, self.word)
            session = CliSession(self._channel, request, self._context, self)
        except Exception as error:  # a failure ends this call only
            kind, sentence = failure_of(error, self._context.grant)
            self.note("failed", why=str(error))
            self.fail(kind, sentence)
            return
        self.note("started", argv=outline(self._plan.argv), child=session.pid, left_out=len(self._plan.notes))
        self._session = session
        self.gate.start()
        self._up_timer = asyncio.get_running_loop().call_later(UP_WITHIN_S, self._come_up)
        session.greet()
        self.kick()

    def _unpack(self) -> None:
        """Read the plan of a policy worker. Raises ValueError, also if it is of another kind than the worker said."""
        if self._packed:
            self._plan, self._packed = unpack(self._packed, self._terms), b""
        if kind_of(self._plan, self._fields, self._terms) is not self.kind:
            raise ValueError("a policy worker named another kind of call")

    def look_at_pipes(self) -> None:
        """Free the CLI if it waits at a named pipe in the workspace, or end the call."""
        if self._session is not None and self._session.code is None:
            self._session.look_at_pipes()

    # Sleep

    def rest(self, after: float) -> None:
        """Ask the client whether the session may sleep, if nobody has used it for `after` seconds. The client knows
        whether something still runs in the container, and stops reading the keyboard before it agrees. One that does
        not agree is asked again after a while."""
        if self.state is not CallState.RUNNING or self._session is None:
            return
        if self._session.may_sleep(after) and self._session.may_be_asked(after):
            self._sleeps_after = after
            self._channel.send_state(state="drowsy")

    def _doze(self) -> None:
        """The client agrees: end the CLI. It gets enough time to write its conversation."""
        after, self._sleeps_after = self._sleeps_after, 0.0
        if self.state is not CallState.RUNNING or self._session is None:
            return
        if not after or not self._session.may_sleep(after):
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
        self._end_of_start()
        self.gate.close()
        self._plan, self._fields = Plan(), Fields(())
        self._weigh()
        self.activity.sleep(True)
        self.note("slept", code=self._code, seconds=round(self.age, 3))
        self._on_asleep(self)
        self._channel.send_state(state="asleep", again=again, prompts=self.activity.prompts)

    # From the client

    def on(self, event: Event) -> None:
        """Handle a frame of the channel."""
        if event.kind == Frame.STDIN:
            if self._session is not None:
                self.gate.stir(is_end=not event.payload)
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
        elif self.state in (CallState.WAITING, CallState.DOZING, CallState.ASLEEP):
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
            self.activity.end()
            self.gate.close()
            self._session.close()
            self._session.terminate(grace)

    def fail(self, kind: str, sentence: str) -> None:
        """End the call with an error of the bridge."""
        # The send can call `kick`, and so end this call, before it returns.
        text = "\n".join(map(printable, sentence.split("\n")[:20])) if kind == "cli" else printable(sentence)
        self._channel.end(Frame.ERROR, kind=kind, text=text, code=CODES.get(kind, 125))
        self.cancel()

    def on_output(self) -> None:
        """The CLI has written to stdout. A session's first screen is there once it has written nothing for a moment."""
        self.gate.answer()
        if self._up_timer is None:
            return
        if self._drawn_timer is not None:
            self._drawn_timer.cancel()
        if self.kind is Kind.INTERACTIVE:
            self._drawn_timer = asyncio.get_running_loop().call_later(DRAWN_S, self._come_up)
        else:
            self._come_up()

    def _come_up(self) -> None:
        if self._end_of_start():
            self.activity.come_up()
            self._on_up(self)

    def _end_of_start(self) -> bool:
        """Stop both timers. Returns whether the session was still starting."""
        was_starting = self._up_timer is not None
        for timer in (self._up_timer, self._drawn_timer):
            if timer is not None:
                timer.cancel()
        self._up_timer = self._drawn_timer = None
        return was_starting

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
            self._end_of_start()
            self.gate.close()
            if self._session is not None:
                self._session.close()
            self._channel.release()
            self._on_over(self)
