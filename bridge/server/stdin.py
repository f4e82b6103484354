"""The stdin of one call: from the client to the CLI.

Stdin is passed on unchanged. If it is a channel of control messages, it is passed on line by line, as the policy
allows. Credit is granted again only after the CLI has read the bytes, so the bytes held here are bounded. Short
lines are checked on the event loop, within the grant's slice of time. A long line is written to a file, checked by
the grant's policy worker, and passed on from a file. Until then the lines after it wait.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import IO, Protocol

from bridge.policy import PolicyError, Scope
from bridge.policy.control_messages import MAX_LINE, ControlFilter
from bridge.protocol.frames import Frame
from bridge.server.channel import Channel
from bridge.server.policy_pool import SMALL, PolicyPool
from bridge.server.sandbox.pipes import InputPump
from bridge.server.scheduler import Scheduler

CHUNK = 256 * 1024
"""Bytes of a long message that are passed on at once."""


PROMPT = b'{"type":"user",'
"""How a long message with a prompt begins. Other long messages are not looked at."""


class Owner(Protocol):
    """The call, as its stdin sees it."""

    @property
    def owes_answers(self) -> bool:
        """Whether nothing more may be checked until waiting answers were sent."""

    def answer(self, data: bytes) -> None:
        """Send answers to refused control requests, in the CLI's place."""

    def reject(self, error: Exception) -> None:
        """End the call because the policy refuses its stdin, or because its stdin could not be checked."""

    def note(self, event: str, **facts: str) -> None:
        """Write to the audit log."""

    def on_message(self, kind: str, answers: str) -> None:
        """A message is passed on: its type, and the id of the request that it answers, or nothing."""


@dataclasses.dataclass(frozen=True)
class Control:
    """What is needed to check a channel of control messages."""

    filter: ControlFilter
    terms: Scope
    grant: str
    pool: PolicyPool
    scheduler: Scheduler


class Stdin:
    """The stdin of one call. `control` is None if stdin is passed on unchanged."""

    def __init__(self, channel: Channel, fd: int | None, owner: Owner, control: Control | None) -> None:
        self._channel = channel
        self._owner = owner
        self._control = control
        self._pump = InputPump(fd, self._drained)
        self._arrived = bytearray()
        self._searched = 0
        self._ended = False
        self._line: IO[bytes] | None = None
        """The start of a long line."""
        self._long: asyncio.Task[None] | None = None
        """The task that checks a long line and passes it on."""
        self._owed = 0
        self._room = asyncio.Event()

    def take(self, data: bytes) -> None:
        """Handle bytes from the client. Empty data is the end."""
        self._owed += len(data)
        if self._control is not None:
            self._arrived += data or b"\n" * bool(self._arrived or self._line)
            self._ended = self._ended or not data
            self.go_on()
            return
        self._pump.write(data)
        if not data:
            self._pump.end()

    def close(self) -> None:
        """Stop reading and writing."""
        if self._control is not None:
            self._control.scheduler.drop(self._control.grant, self)
        self._pump.close()
        self._arrived.clear()
        if self._long is not None:
            self._long.cancel()
        if self._line is not None:
            self._line.close()
            self._line = None

    def go_on(self) -> None:
        """Check lines again in the next turn of the loop: bytes have arrived, or an answer was sent."""
        if self._control is not None:
            self._control.scheduler.add(self._control.grant, self)

    # Work in turns of the loop

    def work(self, until: float) -> bool:
        """Check lines until `until` (a value of `time.monotonic`). Returns whether there are more."""
        try:
            while self._long is None and not self._owner.owes_answers:
                if not self._next():
                    break
                if time.monotonic() >= until:
                    return True
        except Exception as error:
            self._reject(error)
        self._repay()
        return False

    def _next(self) -> bool:
        """Check the next line. Returns whether there was one."""
        assert self._control is not None
        end = self._arrived.find(b"\n", self._searched)
        if end < 0:
            self._searched = len(self._arrived)
            if len(self._arrived) > SMALL:
                self._set_aside(self._searched)
            if self._ended:
                self._pump.end()
            return False
        self._searched = 0
        if self._line is not None or end > SMALL:
            self._set_aside(end)
            del self._arrived[:1]
            self._long = asyncio.get_running_loop().create_task(self._judge_long())
            return False
        line = bytes(self._arrived[:end])
        del self._arrived[: end + 1]
        passed, answered = self._control.filter.judge(line)
        self._answer(answered)
        if passed:
            self._owner.on_message(self._control.filter.kind, self._control.filter.answers)
            self._pump.write(passed)
        return True

    def _set_aside(self, size: int) -> None:
        """Move the start of a long line into its file. Raises PolicyError if the line is longer than MAX_LINE."""
        assert self._control is not None
        if self._line is None:
            self._line = self._control.pool.file()
        if self._line.tell() + size > MAX_LINE:
            raise PolicyError(f"a message on stdin is longer than {MAX_LINE} bytes")
        self._line.write(self._arrived[:size])
        self._line.flush()
        del self._arrived[:size]
        self._searched = 0

    def _answer(self, answered: bytes) -> None:
        """Send the answers to refused requests, and write the refusals to the audit log."""
        assert self._control is not None
        refusals = self._control.filter.refusals
        for what, why in refusals:
            self._owner.note("refused", control=what, why=why)
        refusals.clear()
        self._owner.answer(answered)

    def _reject(self, error: Exception) -> None:
        """End the call, after the answer to the request that was refused."""
        if isinstance(error, PolicyError):
            self._owner.answer(error.answer)
        self._owner.reject(error)

    # A long line

    async def _judge_long(self) -> None:
        line, self._line, control = self._line, None, self._control
        assert line is not None
        assert control is not None
        try:
            with line, control.pool.file() as product:
                answered = await control.pool.line(control.grant, control.filter, control.terms, line, product)
                self._answer(answered)
                product.seek(0)
                if product.read(len(PROMPT)) == PROMPT:
                    self._owner.on_message("user", "")
                product.seek(0)
                while chunk := product.read(CHUNK):
                    self._room.clear()
                    self._pump.write(chunk)
                    await self._room.wait()
        except Exception as error:
            self._reject(error)
        finally:
            self._long = None
        self.go_on()

    def _drained(self) -> None:
        """The CLI has read everything."""
        self._room.set()
        self._repay()

    def _repay(self) -> None:
        waits = self._long is not None or self._pump.pending or len(self._arrived) > SMALL
        if self._owed and not waits and not self._owner.owes_answers:
            owed, self._owed = self._owed, 0
            self._channel.grant(Frame.STDIN, owed)
