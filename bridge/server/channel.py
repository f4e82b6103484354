"""One channel of a client's connection: all that a call or an execution knows of its client.

The connection makes channels and keeps the handler of each. A call's channel is opened by the client; the channel of
an execution (a command that runs in the container) is opened by the server.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping
from typing import Any, Protocol

from bridge.protocol.frames import Event, Frame, frame, opening_state, record
from bridge.protocol.link import Link


class Handler(Hashable, Protocol):
    """What acts on the frames of one channel."""

    def on(self, event: Event) -> None:
        """Take one frame. What a client may send thousands of times is kept for `settle`."""

    def settle(self) -> None:
        """Act on what was kept: the frames of this turn of the loop have been read."""

    def kick(self) -> None:
        """Look again whether to send: credit or room for data has come, or has gone."""

    def cancel(self) -> None:
        """End: the client has gone."""


class Carrier(Protocol):
    """What a channel needs of its connection."""

    link: Link
    client: dict[str, Any]
    is_writable: bool

    def send(self, data: bytes) -> None:
        """Send frames."""

    def open(
        self, command: bytes, env: Mapping[bytes, bytes], cwd: bytes, call: int, handler: Callable[[Channel], Handler]
    ) -> None:
        """Open a channel of the server's; ProtocolError."""

    def defer(self, work: Coroutine[Any, Any, None]) -> None:
        """Handle no further frame of the connection until the work is done."""

    def widen(self, number: int) -> None:
        """Buffer more for the client until the channel is released."""

    def release(self, number: int) -> None:
        """Forget the channel's handler."""


class Channel:
    """One numbered channel. After its end (`is_open` is false) nothing that is sent on it reaches the client."""

    def __init__(self, carrier: Carrier, number: int) -> None:
        self._carrier = carrier
        self.number = number

    @property
    def client(self) -> dict[str, Any]:
        """Facts about the client for the audit log: grant, uid, pid, container, name."""
        return self._carrier.client

    @property
    def is_open(self) -> bool:
        """Whether neither side has ended it."""
        return self.number in self._carrier.link.channels

    def allowance(self, stream: int) -> int:
        """Bytes of a stream that may be sent now, at once."""
        return self._carrier.link.allowance(self.number, stream) if self._carrier.is_writable else 0

    def send_data(self, stream: int, data: bytes) -> None:
        """Send bytes of a stream, within its allowance; no bytes end the stream."""
        if self.is_open:
            self._carrier.send(self._carrier.link.data(self.number, stream, data))

    def grant(self, stream: int, size: int) -> None:
        """Let the client send that many bytes more of a stream."""
        self._carrier.send(self._carrier.link.grant(self.number, stream, size))

    def send_state(self, **fields: str | int) -> None:
        """Report where the call stands."""
        if self.is_open:
            self._carrier.send(record(Frame.STATE, self.number, **fields))

    def send_started(self, notes: Iterable[str], is_interactive: bool) -> None:
        """Report that the call has started; its connection buffers more from now on."""
        self._carrier.widen(self.number)
        self._carrier.send(opening_state(self.number, notes, is_interactive))

    def send_cancel(self) -> None:
        """Have the client end an execution."""
        if self.is_open:
            self._carrier.send(frame(Frame.CANCEL, self.number))

    def end(self, kind: int, /, **fields: str | int | None) -> None:
        """End the channel with EXIT or ERROR. The send can call `kick` of any handler before it returns."""
        if self.is_open:
            self._carrier.send(self._carrier.link.end(self.number, kind, **fields))

    def open(
        self, command: bytes, env: Mapping[bytes, bytes], cwd: bytes, handler: Callable[[Channel], Handler]
    ) -> None:
        """Open another channel of the connection for a command of this call; ProtocolError.

        `handler` gets the new channel before the client hears of it.
        """
        self._carrier.open(command, env, cwd, self.number, handler)

    def defer(self, work: Coroutine[Any, Any, None]) -> None:
        """Have the connection handle no further frame until this work is done. The connection's end cancels it."""
        self._carrier.defer(work)

    def release(self) -> None:
        """Forget the handler: it needs no further frame."""
        self._carrier.release(self.number)
