"""The way of a call's stdin from the client to the CLI: held, judged where it is a channel of control, written.

Credit is paid back only when the child has taken what came, so that what is held here has a bound. Short lines are
judged on the loop, a slice of time at once. A long one is written to a file, judged by the grant's judge, and passed on
from a file again; meanwhile nothing that came behind it is looked at.
"""

from __future__ import annotations

import asyncio
import time
from typing import IO, TYPE_CHECKING

from bridge.policy import PolicyError
from bridge.policy.control_messages import MAX_LINE, ControlFilter
from bridge.server.policy_pool import SMALL
from bridge.server.sandbox.pipes import InputPump

if TYPE_CHECKING:
    from bridge.server.call import Call

CHUNK = 256 * 1024
"""Bytes of a long message that are passed on at once."""


class Stdin:
    """What one call gets from its client."""

    def __init__(self, call: Call, fd: int | None, judged: ControlFilter | None) -> None:
        """`judged` is the filter of a channel of control; without it stdin is passed on as it comes."""
        self._call = call
        self._filter = judged
        self._pump = InputPump(fd, self._drained)
        self._arrived = bytearray()
        self._searched = 0
        self._ended = False
        self._line: IO[bytes] | None = None
        """The beginning of a long line."""
        self._long: asyncio.Task[None] | None = None
        """A long line that is being judged and passed on."""
        self._owed = 0
        self._room = asyncio.Event()

    def take(self, data: bytes) -> None:
        """Some bytes from the client, or the end."""
        self._owed += len(data)
        if self._filter is not None:
            self._arrived += data or b"\n" * bool(self._arrived or self._line)
            self._ended = self._ended or not data
            self.go_on()
            return
        self._pump.write(data)
        if not data:
            self._pump.end()

    def close(self) -> None:
        """Take and write no more."""
        self._call.drop_work(self)
        self._pump.close()
        self._arrived.clear()
        if self._long is not None:
            self._long.cancel()
        if self._line is not None:
            self._line.close()
            self._line = None

    def go_on(self) -> None:
        """Look again: something has come, or an answer has gone."""
        self._call.let_work(self)

    # In turns of the loop

    def work(self, until: float) -> bool:
        """Judge lines until then; whether there are more."""
        try:
            while self._long is None and not self._call.owes_answers:
                if not self._next():
                    break
                if time.monotonic() >= until:
                    return True
        except PolicyError as refusal:
            self._call.refuse(refusal)
        except Exception as error:
            self._call.fault(error)
        self._repay()
        return False

    def _next(self) -> bool:
        """Judge the next line, when there is one."""
        assert self._filter is not None
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
            self._long = asyncio.get_running_loop().create_task(self._judge_elsewhere())
            return False
        line = bytes(self._arrived[:end])
        del self._arrived[: end + 1]
        passed, answered = self._filter.judge(line)
        self._tell(answered)
        if passed:
            self._pump.write(passed)
        return True

    def _set_aside(self, size: int) -> None:
        """Move the beginning of a line into its file."""
        if self._line is None:
            self._line = self._call.judges.file()
        if self._line.tell() + size > MAX_LINE:
            raise PolicyError(f"a message on stdin is longer than {MAX_LINE} bytes")
        self._line.write(self._arrived[:size])
        self._line.flush()
        del self._arrived[:size]
        self._searched = 0

    def _tell(self, answered: bytes) -> None:
        assert self._filter is not None
        for what, why in self._filter.refusals:
            self._call.note("refused", control=what, why=why)
        self._filter.refusals.clear()
        self._call.answer(answered)

    # A long line

    async def _judge_elsewhere(self) -> None:
        line, self._line = self._line, None
        assert line is not None
        assert self._filter is not None
        call = self._call
        try:
            with line, call.judges.file() as product:
                grant = call.peer.grant.name
                self._tell(await call.judges.line(grant, self._filter, call.scope, line, product))
                product.seek(0)
                while chunk := product.read(CHUNK):
                    self._room.clear()
                    self._pump.write(chunk)
                    await self._room.wait()
        except PolicyError as refusal:
            call.refuse(refusal)
        except Exception as error:
            call.fault(error)
        finally:
            self._long = None
        self.go_on()

    def _drained(self) -> None:
        """The child has taken everything."""
        self._room.set()
        self._repay()

    def _repay(self) -> None:
        waits = self._long is not None or self._pump.pending or len(self._arrived) > SMALL
        if self._owed and not waits and not self._call.owes_answers:
            owed, self._owed = self._owed, 0
            self._call.repay(owed)
