"""Holds the place of one call from a prompt to the end of its answer.

The CLI's requests to the API pass through here (sandbox/proxy.py). Without a place they wait for one. The place is
given back when the answer has ended: no request is under way, no command runs in the container, and a moment has
passed. So a session that waits for a person, or was interrupted, holds none.

A command counts if it began after the newest request began. An older one is in the background: the CLI has gone on
without its result. One that seems to begin just after a request may be older, as it takes a moment until the server
hears of it. It counts for some seconds, unless the CLI itself reports the end of its answers.

The requests are known exactly, except in a tunnel to an endpoint of AWS, which is opaque. There, a few bytes count as
nothing (the TLS handshake, a sign of life), more bytes as a request, and silence as the end of the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from bridge.policy import usage_limits
from bridge.policy.http_head import Answer
from bridge.policy.usage_limits import Told
from bridge.server.activity import Activity

QUIET_S = 2.0
"""Seconds without a request or a command after which an answer has ended."""

SILENT_S = 10.0
"""The same for a tunnel: seconds without a byte. The API sends a sign of life more often in an answer."""

START_S = 10.0
"""Seconds that a call that got its place before its start has for its first request."""

UNSURE_S = 2.0
"""Seconds after the start of a request in which a command may begin to be heard of that is older than it."""

UNSURE_MOST_S = 10.0
"""Seconds for which such a command counts."""

STDIN_S = 3.0
"""Seconds that the CLI itself waits for the first bytes of a pipe on stdin. Then it goes on without them."""

STDIN_MOST_S = 30.0
"""Seconds after which a call gives its place back although its stdin still brings something."""

FREE = 4096
"""Bytes in either direction of a tunnel that are no request yet. A prompt with tools has ten times as many."""

FREE_AT_START = 32 * 1024
"""The same while the CLI starts: it asks for its settings then, and waits for the answers."""

LOOK_EVERY_S = 0.5
"""How often a request that waits checks whether the CLI has given it up, seconds."""

PLACE = "a place: as many calls work as limits.running and limits.per_grant allow"


class Hold(enum.Enum):
    """How long a call holds its place."""

    CALL = "call"
    """From its start to its end."""
    STDIN = "stdin"
    """As CALL, but not while it still waits for the end of a pipe on its stdin: what fills the pipe may need the
    place."""
    ANSWER = "answer"
    """From a prompt to the end of its answer."""


class RefusedTurnError(ConnectionError):
    """The call gets no place now. `status` is what the CLI is answered; the text is a sentence."""

    def __init__(self, sentence: str, status: bytes = b"503 Service Unavailable") -> None:
        super().__init__(sentence)
        self.status = status


class HeldTurnError(RefusedTurnError):
    """New work is held, for longer than a session should wait without a word. The CLI is answered as by the API, with
    these header fields and this body, so it says what it says without a bridge."""

    def __init__(self, sentence: str, fields: list[tuple[bytes, bytes]], body: bytes) -> None:
        super().__init__(sentence, b"429 Too Many Requests")
        self.fields = fields
        self.body = body


class Desk(Protocol):
    """Where a call asks for its place: the server."""

    @property
    def wait_limit(self) -> float:
        """Seconds until a request that waits for a place fails."""

    def ask(self) -> bool:
        """Ask for a place. Returns whether the call has it now; otherwise `Gate.open` or `Gate.turn_away` is called
        later. Raises RefusedTurnError, also HeldTurnError."""

    def take(self) -> None:
        """Take a place without waiting, because the call works already."""

    def give_back(self) -> bool:
        """Give the place back, or leave the queue. Returns False if the call has to keep its place."""

    def hear_limit(self, told: Told) -> None:
        """The API has told this call of a limit."""


class Gate:
    """The gate of one call. `may_pass` is whether the call has a place."""

    def __init__(self, activity: Activity) -> None:
        self.may_pass = False
        self.hold = Hold.CALL
        self.rests = 0
        """How often the place was given back."""
        self.is_told_of_ends = False
        """Whether `answer_ended` is called at the end of each answer, and `interrupt` where there may be no end."""
        self._activity = activity
        self._desk: Desk | None = None
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] | None = None
        """Resolved when the call gets its place. None if no request waits."""
        self._waiting = 0
        self._requests = 0
        self._begun = 0
        self._asked_at = float("-inf")
        """When the newest request began."""
        self._commands: dict[object, tuple[int, float]] = {}
        """For each command, how many requests had begun before it, and until when it counts."""
        self._unsure: set[object] = set()
        """Commands that may be older than the newest request."""
        self._started_at = self._ended_at = self._stirred_at = self._loop.time()
        self._silent_since = 0.0
        self._stdin_ended = False
        self._has_answered = False
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def attach(self, desk: Desk, hold: Hold) -> None:
        """Say where to ask for a place, and for how long to hold it."""
        self._desk, self.hold = desk, hold

    def close(self) -> None:
        """The call ends. Its place stays its own until its processes are gone: the server gives it back."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()

    # From the server

    def open(self) -> None:
        """The call has its place now."""
        self.may_pass = True
        self._activity.wait_for_turn("")
        self._activity.hold_place(True)
        self._ended_at = self._loop.time()
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(None)
        self._settle()

    def turn_away(self, error: HeldTurnError) -> None:
        """The requests that wait get no place: new work is held."""
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(error)

    def start(self) -> None:
        """The CLI is being started."""
        self._started_at = self._loop.time()
        self._settle()

    # From the call

    def stir(self, is_end: bool) -> None:
        """Stdin has brought something, or its end."""
        self._stirred_at = self._loop.time()
        self._stdin_ended = self._stdin_ended or is_end

    def answer(self) -> None:
        """The CLI has written to stdout, so it does not wait for its stdin any more."""
        self._has_answered = True

    def begin_command(self, command: object) -> None:
        """A command of the CLI begins in the container."""
        now = self._loop.time()
        if now - self._asked_at <= UNSURE_S:
            self._unsure.add(command)
        counts = self.is_told_of_ends or command not in self._unsure
        self._commands[command] = self._begun, float("inf") if counts else now + UNSURE_MOST_S
        self._settle()

    def end_command(self, command: object) -> None:
        """A command is over."""
        self._unsure.discard(command)
        if self._commands.pop(command, None) is not None:
            self._end()

    def answer_ended(self) -> None:
        """The CLI itself reports the end of an answer, or that it waits for a person. Commands that still run are in
        the background."""
        self._begun += 1
        self._silent_since = 0.0
        self._started_at = self._ended_at = float("-inf")
        self._settle()

    def interrupt(self) -> None:
        """The person may have interrupted the answer, and then its end is not reported."""
        until = self._loop.time() + UNSURE_MOST_S
        for command in self._unsure:
            before, most = self._commands[command]
            self._commands[command] = before, min(most, until)
        self._settle()

    # From the proxy

    def hear_answer(self, answer: Answer) -> None:
        """The head of an answer of the API has arrived."""
        if told := usage_limits.of_answer(answer.status, answer.fields, time.time()):
            self.hear_limit(told)

    def hear_limit(self, told: Told) -> None:
        """The API, or the CLI itself, has told of a limit."""
        if self._desk is not None:
            self._desk.hear_limit(told)

    @contextlib.asynccontextmanager
    async def request(self, is_given_up: Callable[[], bool]) -> AsyncIterator[None]:
        """Wait until the call has a place. The block is the request. Raises RefusedTurnError, or another
        ConnectionError if the CLI has given the request up meanwhile."""
        self._activity.come_up()
        await self._admit(is_given_up)
        self._requests += 1
        self._begin()
        try:
            yield
        finally:
            self._requests -= 1
            self._end()

    def tunnel(self, is_given_up: Callable[[], bool]) -> Tunnel:
        """Return what watches the bytes of one tunnel to the API or to an endpoint of AWS."""
        return Tunnel(self, is_given_up)

    async def pass_on(self, is_given_up: Callable[[], bool], is_new: bool) -> None:
        """Wait until the call has a place for a request in a tunnel. Raises the same as `request`. A request that is
        held takes a place: nobody but the API can answer it there."""
        try:
            await self._admit(is_given_up)
        except HeldTurnError:
            self._take()
        if is_new:
            self._begin()
        self.hear()

    def hear(self) -> None:
        """Bytes of an answer have arrived through a tunnel. Take the place back if it was given back too early."""
        self._take()
        self._silent_since = self._loop.time()
        if self._timer is None:
            self._settle()

    def _take(self) -> None:
        """Take a place without waiting, if the call has none."""
        if not self.may_pass and self._desk is not None and not self._is_closed:
            self._desk.take()
            self.open()

    @property
    def free(self) -> int:
        """How many bytes of a tunnel are no request yet."""
        return FREE_AT_START if self._activity.is_starting else FREE

    async def _admit(self, is_given_up: Callable[[], bool]) -> None:
        if self.may_pass or self._desk is None:
            self._cancel_timer()
            return
        if self._is_closed:  # a place that is asked for now would never be given back
            raise ConnectionAbortedError
        if self._opened is None:
            if self._desk.ask():
                self.open()
                self._cancel_timer()
                return
            self._opened = self._loop.create_future()
            self._activity.wait_for_turn(PLACE)
        opened, limit = self._opened, self._desk.wait_limit
        deadline = self._loop.time() + limit
        self._waiting += 1
        try:
            while not opened.done():
                await asyncio.wait({opened}, timeout=LOOK_EVERY_S)
                if is_given_up():
                    raise ConnectionAbortedError
                if not opened.done() and self._loop.time() > deadline:
                    raise RefusedTurnError(f"no place came free within {limit:g} s; try again")
            opened.result()
        finally:
            self._waiting -= 1
            if not self._waiting and self._opened is opened:
                self._opened = None
                if not (opened.done() and opened.exception() is None) and not self._is_closed:
                    self._activity.wait_for_turn("")
                    self._desk.give_back()
        self._cancel_timer()

    # The end of an answer

    def _begin(self) -> None:
        self._begun += 1
        self._asked_at = self._loop.time()

    def _end(self) -> None:
        self._ended_at = self._loop.time()
        self._settle()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def _is_needed(self) -> bool:
        """Whether the place is needed now."""
        if self.hold is Hold.CALL or self._requests:
            return True
        return self.hold is Hold.STDIN and (self._stdin_ended or self._has_answered)

    def _settle(self) -> None:
        """Give the place back if it is not needed, or look again later."""
        self._cancel_timer()
        if self._is_closed or self._desk is None or not self.may_pass or self._is_needed:
            return
        due = max([self._due(), *(until for before, until in self._commands.values() if before >= self._begun)])
        if due == float("inf"):  # a command runs
            return
        if due > self._loop.time():
            self._timer = self._loop.call_at(due, self._settle)
        elif self._desk.give_back():
            self.may_pass = False
            self.rests += 1
            self._activity.come_up()
            self._activity.hold_place(False)
        else:
            self._ended_at = self._loop.time()
            self._timer = self._loop.call_later(QUIET_S, self._settle)

    def _due(self) -> float:
        """Return when the place is not needed any more, if nothing happens until then."""
        quiet = max(self._ended_at + QUIET_S, self._silent_since + SILENT_S if self._silent_since else 0.0)
        if self._begun:
            return quiet
        if self.hold is Hold.STDIN:
            stirred = min(self._stirred_at + STDIN_S, self._started_at + STDIN_MOST_S)
            return max(quiet, stirred, self._started_at + STDIN_S)
        return max(quiet, self._started_at + START_S)


class Tunnel:
    """Watches the bytes of one tunnel. A request is what the CLI sends after an answer or a silence."""

    def __init__(self, gate: Gate, is_given_up: Callable[[], bool]) -> None:
        self._gate = gate
        self._is_given_up = is_given_up
        self._loop = asyncio.get_running_loop()
        self._sent = self._heard = 0
        """Bytes of the present request and of its answer."""
        self._is_sending = True
        self._rests = gate.rests
        self._at = self._loop.time()

    async def send(self, size: int) -> None:
        """Wait until bytes from the CLI may be passed on. Raises the same as `Gate.request`."""
        self._count(is_sending=True)
        was_free = self._sent <= self._gate.free
        self._sent += size
        if self._sent > self._gate.free:
            await self._gate.pass_on(self._is_given_up, is_new=was_free)
            self._at = self._loop.time()

    def hear(self, size: int) -> None:
        """Bytes of the API have arrived."""
        self._count(is_sending=False)
        self._heard += size
        if self._heard > self._gate.free or (self._sent > self._gate.free and self._gate.may_pass):
            self._gate.hear()

    def _count(self, is_sending: bool) -> None:
        now = self._loop.time()
        follows = is_sending and not self._is_sending
        if follows or now - self._at > SILENT_S or self._rests != self._gate.rests:
            self._sent = self._heard = 0
        self._is_sending, self._rests, self._at = is_sending, self._gate.rests, now
