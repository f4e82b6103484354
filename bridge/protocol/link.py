"""One connection as a state machine, without I/O: which frame may follow which, how much may be on its way.

Both ends use it, each in its own role. The owner of the socket hands it what arrives (`receive`), sends what
the other methods return, and does nothing else to the connection's state.

States of the connection, and what moves them:

    fresh   -- HELLO, both ways --> open
    open    -- GOAWAY from the server --> leaving: calls go on, none is opened
    any     -- ERROR on channel 0 from the server --> closed

States of a channel. The client opens channels for calls, the server for commands that run in the container
(numbers from OF_SERVER on); each opens with a larger number than the one before, so that a frame for a number
below the newest belongs to a channel that has ended (its frames crossed with the EXIT and are dropped), and
one for a number above it is a fault:

    opener    CALL or RUN, then STDIN, CREDIT, CANCEL in any order (a client SIGNAL and RESIZE, too); an empty
              STDIN ends stdin and nothing else
    answerer  STATE, STDOUT, STDERR, CREDIT in any order; an empty one ends its stream; EXIT or ERROR ends the
              channel for both

Flow control is per stream. stdout and stderr begin with WINDOW bytes of credit, stdin with none: who answers
grants it when the program starts, so that a call which waits in the queue costs the server no memory.
"""

from __future__ import annotations

from bridge.protocol.frames import (
    MAX_CHANNELS,
    MAX_CREDIT,
    MAX_DATA,
    OF_SERVER,
    PREFACE,
    STREAMS,
    WINDOW,
    Decoder,
    Event,
    Frame,
    ProtocolError,
    credit,
    frame,
    opening,
    record,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

CLIENT, SERVER = "client", "server"

# Who may send what: on the connection itself (channel 0), and on a channel by whether it has opened it.
ON_CONNECTION = {
    CLIENT: (Frame.HELLO, Frame.PING, Frame.PONG),
    SERVER: (Frame.HELLO, Frame.PING, Frame.PONG, Frame.GOAWAY, Frame.ERROR),
}
OPENER = {
    CLIENT: (Frame.CALL, Frame.STDIN, Frame.CREDIT, Frame.SIGNAL, Frame.RESIZE, Frame.CANCEL),
    SERVER: (Frame.RUN, Frame.STDIN, Frame.CREDIT, Frame.CANCEL),
}
ANSWERER = (Frame.STATE, Frame.STDOUT, Frame.STDERR, Frame.CREDIT, Frame.EXIT, Frame.ERROR)
OPENING = {CLIENT: Frame.CALL, SERVER: Frame.RUN}
LAST_CHANNEL = {CLIENT: OF_SERVER - 1, SERVER: 2**32 - 1}
PEER = {CLIENT: SERVER, SERVER: CLIENT}


def _opener(channel: int) -> str:
    return SERVER if channel >= OF_SERVER else CLIENT


class Channel:
    """One call or command: the streams that have ended, and the credit left in both directions."""

    __slots__ = ("credit", "ended", "granted")

    def __init__(self) -> None:
        self.ended: set[int] = set()
        output = {Frame.STDIN: 0, Frame.STDOUT: WINDOW, Frame.STDERR: WINDOW}
        self.credit = dict(output)
        """What this side may still send of each of its streams."""
        self.granted = dict(output)
        """What the peer may still send of each of its streams."""


class Link:
    """A connection seen from one of its ends, `role` being this end."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.channels: dict[int, Channel] = {}
        self.greeted = False
        self.leaving = False
        self._newest = {CLIENT: 0, SERVER: OF_SERVER - 1}
        self._decoder = Decoder()

    # Received

    def receive(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """What the bytes say, late frames left out. Raises ProtocolError; only closing can follow that."""
        self.push(data)
        return [event for event in self.arrived() if event is not None]

    def push(self, data: bytes | bytearray | memoryview) -> None:
        """Keep bytes until `arrived` is asked for what they say."""
        self._decoder.push(data)

    def arrived(self) -> Iterator[Event | None]:
        """What has come, frame by frame, as far as someone goes on asking; None stands for a late one. Raises as
        `receive` does."""
        while (event := self._decoder.next()) is not None:
            yield event if self._admit(event) else None

    @property
    def pending(self) -> int:
        """Bytes that were not asked for, or wait for the rest of their frame."""
        return self._decoder.pending

    def _admit(self, event: Event) -> bool:
        if event.kind not in self._allowed(event.channel):
            raise ProtocolError(f"the peer may not send frame {event.kind:#04x} here")
        if not self.greeted and event.kind not in (Frame.HELLO, Frame.ERROR):
            raise ProtocolError("the first frame is not a hello")
        if event.channel:
            return self._admit_on_channel(event)
        if event.kind == Frame.HELLO:
            if self.greeted:
                raise ProtocolError("a second hello")
            self.greeted = True
        elif event.kind == Frame.GOAWAY:
            self.leaving = True
        return True

    def _allowed(self, channel: int) -> tuple[int, ...]:
        """What the peer may send on a channel."""
        peer = PEER[self.role]
        if not channel:
            return ON_CONNECTION[peer]
        return OPENER[peer] if _opener(channel) == peer else ANSWERER

    def _admit_on_channel(self, event: Event) -> bool:
        if event.kind in (Frame.CALL, Frame.RUN):
            self._open(event.channel)
            return True
        channel = self.channels.get(event.channel)
        if channel is None:
            opener = _opener(event.channel)
            if event.channel > self._newest[opener] or opener == self.role:
                raise ProtocolError(f"a frame for channel {event.channel}, which is not open")
            return False  # crossed with our EXIT
        if event.kind in STREAMS:
            self._count(channel, event)
        elif event.kind == Frame.CREDIT:
            self._gain(channel, event)
        elif event.kind in (Frame.EXIT, Frame.ERROR):
            del self.channels[event.channel]
        return True

    def _count(self, channel: Channel, event: Event) -> None:
        if event.kind in channel.ended:
            raise ProtocolError("data after the end of its stream")
        channel.granted[event.kind] -= len(event.payload)
        if channel.granted[event.kind] < 0:
            raise ProtocolError("more data than was granted")
        if not event.payload:
            channel.ended.add(event.kind)

    def _gain(self, channel: Channel, event: Event) -> None:
        stream, size = event.credit
        mine = (Frame.STDIN,) if _opener(event.channel) == self.role else (Frame.STDOUT, Frame.STDERR)
        if stream not in mine:
            raise ProtocolError(f"credit for stream {stream:#04x}, which this side does not send")
        channel.credit[stream] += size
        if channel.credit[stream] > MAX_CREDIT:
            raise ProtocolError("more credit than any stream can use")

    def _open(self, number: int) -> None:
        opener = _opener(number)
        if number <= self._newest[opener]:
            raise ProtocolError(f"channel {number} is opened after channel {self._newest[opener]}")
        if sum(_opener(other) == opener for other in self.channels) >= MAX_CHANNELS:
            raise ProtocolError(f"more than {MAX_CHANNELS} channels of one side on one connection")
        self._newest[opener] = number
        self.channels[number] = Channel()

    # Sent: each returns bytes for the socket

    def hello(self, **fields: bytes | str | int | None) -> bytes:
        """The first thing that each side says."""
        return PREFACE + record(Frame.HELLO, 0, **fields)

    def open(
        self,
        argv: Iterable[bytes],
        env: Mapping[bytes, bytes],
        files: Iterable[bytes] = (),
        **fields: bytes | str | int | None,
    ) -> tuple[int, bytes]:
        """Open a channel, as a client for a call, as a server for a command: its number, and the frame."""
        number = self._newest[self.role] + 1
        if number > LAST_CHANNEL[self.role]:
            raise ProtocolError("no channel numbers are left on this connection")
        data = opening(OPENING[self.role], number, argv, env, files, **fields)
        self._open(number)
        return number, data

    def data(self, number: int, stream: int, payload: bytes) -> bytes:
        """Some bytes of a stream, within its credit; none of them end it."""
        channel = self.channels[number]
        if len(payload) > min(channel.credit[stream], MAX_DATA):
            raise ValueError("more than the peer has granted")
        channel.credit[stream] -= len(payload)
        return frame(stream, number, payload)

    def allowance(self, number: int, stream: int) -> int:
        """How many bytes `data` takes at once now; none when the channel has ended."""
        channel = self.channels.get(number)
        return min(channel.credit[stream], MAX_DATA) if channel else 0

    def grant(self, number: int, stream: int, size: int) -> bytes:
        """Let the peer send that many bytes more; nothing to send when the channel has ended."""
        channel = self.channels.get(number)
        if channel is None or stream in channel.ended:
            return b""
        channel.granted[stream] += size
        return credit(number, stream, size)

    def end(self, number: int, kind: int, /, **fields: bytes | str | int | None) -> bytes:
        """EXIT or ERROR: the last frame of a channel."""
        del self.channels[number]
        return record(kind, number, **fields)
