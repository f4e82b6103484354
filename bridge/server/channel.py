"""One channel of a client's connection. A call or an execution reaches its client only through this object.

The connection makes the channels and keeps the handler of each. The client opens a call's channel. The server opens
the channel of an execution, which is a command that runs in the container.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Hashable, Iterable, Mapping
from typing import Any, Protocol

from bridge.protocol.frames import Event, Frame, frame, opening_state, record
from bridge.protocol.link import Link


class Handler(Hashable, Protocol):
    """Handles the frames of one channel."""

    def on(self, event: Event) -> None:
        """Handle one frame. Frames that a client may send by the thousand are stored for `settle`."""

    def settle(self) -> None:
        """Apply what was stored. Called after the frames of this turn of the loop were handled."""

    def kick(self) -> None:
        """Check again whether data can be sent: credit or buffer space has changed."""

    def cancel(self) -> None:
        """End, because the client is gone."""


class Carrier(Protocol):
    """What a channel needs of its connection."""

    link: Link
    client: dict[str, Any]
    is_writable: bool

    def send(self, data: bytes) -> None:
        """Send frames."""

    def open(
        self,
        command: bytes,
        env: Mapping[bytes, bytes],
        handler: Callable[[Channel], Handler],
        **fields: bytes | str | int | None,
    ) -> None:
        """Open a channel for a command. Raises ProtocolError."""

    def defer(self, work: Coroutine[Any, Any, None]) -> None:
        """Handle no further frame of the connection until the work is done."""

    def widen(self, number: int) -> None:
        """Use a larger send buffer until the channel is released."""

    def release(self, number: int) -> None:
        """Forget the channel's handler."""


class Channel:
    """One numbered channel. After its end (`is_open` is False), nothing more is sent on it."""

    def __init__(self, carrier: Carrier, number: int) -> None:
        self._carrier = carrier
        self.number = number

    @property
    def client(self) -> dict[str, Any]:
        """Facts about the client for the audit log: grant, uid, pid, container, name."""
        return self._carrier.client

    @property
    def is_open(self) -> bool:
        """Whether neither side has ended the channel."""
        return self.number in self._carrier.link.channels

    def allowance(self, stream: int) -> int:
        """Return how many bytes of a stream may be sent now."""
        return self._carrier.link.allowance(self.number, stream) if self._carrier.is_writable else 0

    def send_data(self, stream: int, data: bytes) -> None:
        """Send bytes of a stream, within its allowance. Empty data ends the stream."""
        if self.is_open:
            self._carrier.send(self._carrier.link.data(self.number, stream, data))

    def grant(self, stream: int, size: int) -> None:
        """Let the client send `size` more bytes of a stream."""
        self._carrier.send(self._carrier.link.grant(self.number, stream, size))

    def send_state(self, **fields: str | int) -> None:
        """Report the state of the call to the client."""
        if self.is_open:
            self._carrier.send(record(Frame.STATE, self.number, **fields))

    def send_started(self, notes: Iterable[str], limits: Collection[str], is_interactive: bool) -> None:
        """Report that the call has started. From now on the connection uses a larger send buffer."""
        self._carrier.widen(self.number)
        self._carrier.send(opening_state(self.number, notes, limits, is_interactive))

    def send_cancel(self) -> None:
        """Ask the client to end an execution."""
        if self.is_open:
            self._carrier.send(frame(Frame.CANCEL, self.number))

    def end(self, kind: int, /, **fields: str | int | None) -> None:
        """End the channel with EXIT or ERROR. Sending can call `kick` of any handler before this returns."""
        if self.is_open:
            self._carrier.send(self._carrier.link.end(self.number, kind, **fields))

    def open(
        self,
        command: bytes,
        env: Mapping[bytes, bytes],
        handler: Callable[[Channel], Handler],
        **fields: bytes | str | int | None,
    ) -> None:
        """Open another channel of the connection, for a command of this call. Raises ProtocolError.

        `handler` gets the new channel before the opening frame is sent. `fields` are the other fields of the RUN.
        """
        self._carrier.open(command, env, handler, call=self.number, **fields)

    def defer(self, work: Coroutine[Any, Any, None]) -> None:
        """Handle no further frame of the connection until this work is done. If the connection ends, the work is
        cancelled."""
        self._carrier.defer(work)

    def release(self) -> None:
        """Forget the handler, because it needs no further frame."""
        self._carrier.release(self.number)
