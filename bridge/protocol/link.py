"""One connection as a state machine, without I/O: the order of the frames, and the flow control.

Both ends use it, each in its own role. The owner of the socket passes received bytes to `receive`, sends what the
other methods return, and does not change the connection's state in any other way.

States of the connection, and what changes them:

    fresh   -- HELLO, both ways --> open
    open    -- GOAWAY from the server --> leaving: open calls go on, new ones are not opened
    any     -- ERROR on channel 0 from the server --> closed

The client opens channels for calls. The server opens channels for commands that run in the container (numbers from
OF_SERVER on). Each new channel has a larger number than the one before. So a frame for a number below the newest
belongs to a channel that has ended: it crossed with the EXIT, and is dropped. A frame for a higher number is an
error. Frames of a channel:

    opener    CALL or RUN, then STDIN, CREDIT, CANCEL in any order (a client also SIGNAL and RESIZE); an empty
              STDIN ends stdin and nothing else
    answerer  STATE, STDOUT, STDERR, CREDIT in any order; an empty one ends its stream; EXIT or ERROR ends the
              channel for both

Flow control is per stream. stdout and stderr begin with WINDOW bytes of credit, stdin with none. The answerer
grants credit for stdin when the program starts, so that a call which waits in the queue costs the server no memory.
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

# Allowed frames per role: on the connection itself (channel 0), and on a channel for its opener and its answerer.
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
        """Bytes that this side may still send, per stream."""
        self.granted = dict(output)
        """Bytes that the peer may still send, per stream."""


class Link:
    """One end of a connection. `role` is CLIENT or SERVER."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.channels: dict[int, Channel] = {}
        self.greeted = False
        self.leaving = False
        self._newest = {CLIENT: 0, SERVER: OF_SERVER - 1}
        self._decoder = Decoder()

    # Received

    def receive(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """Return the events in the bytes, without late frames. Raises ProtocolError; then the connection must be
        closed."""
        self.push(data)
        return [event for event in self.arrived() if event is not None]

    def push(self, data: bytes | bytearray | memoryview) -> None:
        """Store bytes for `arrived`."""
        self._decoder.push(data)

    def arrived(self) -> Iterator[Event | None]:
        """Yield the stored events, one per frame; None stands for a late frame. Raises ProtocolError, as `receive`
        does."""
        while (event := self._decoder.next()) is not None:
            yield event if self._admit(event) else None

    @property
    def pending(self) -> int:
        """Number of stored bytes that `arrived` has not yielded, including the start of an incomplete frame."""
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
        """Return the frames that the peer may send on a channel."""
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
            return False  # it crossed with our EXIT
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

    # Sending: each method returns bytes for the socket

    def hello(self, **fields: bytes | str | int | None) -> bytes:
        """Return the first bytes that each side sends."""
        return PREFACE + record(Frame.HELLO, 0, **fields)

    def open(
        self,
        argv: Iterable[bytes],
        env: Mapping[bytes, bytes],
        files: Iterable[bytes] = (),
        texts: Iterable[bytes] = (),
        **fields: bytes | str | int | None,
    ) -> tuple[int, bytes]:
        """Open a channel: a client for a call, a server for a command. Returns its number and the frame.

        Raises ProtocolError: no numbers left, too many open channels, or the frame would be too large.
        """
        number = self._newest[self.role] + 1
        if number > LAST_CHANNEL[self.role]:
            raise ProtocolError("no channel numbers are left on this connection")
        data = opening(OPENING[self.role], number, argv, env, files, texts, **fields)
        self._open(number)
        return number, data

    def data(self, number: int, stream: int, payload: bytes) -> bytes:
        """Return a data frame of a stream. An empty payload ends the stream.

        Raises ValueError if the payload exceeds the credit or MAX_DATA, and KeyError if the channel has ended.
        """
        channel = self.channels[number]
        if len(payload) > min(channel.credit[stream], MAX_DATA):
            raise ValueError("more than the peer has granted")
        channel.credit[stream] -= len(payload)
        return frame(stream, number, payload)

    def allowance(self, number: int, stream: int) -> int:
        """Return how many bytes `data` accepts now; 0 if the channel has ended."""
        channel = self.channels.get(number)
        return min(channel.credit[stream], MAX_DATA) if channel else 0

    def grant(self, number: int, stream: int, size: int) -> bytes:
        """Let the peer send `size` more bytes. Returns no bytes if the channel or the stream has ended."""
        channel = self.channels.get(number)
        if channel is None or stream in channel.ended:
            return b""
        channel.granted[stream] += size
        return credit(number, stream, size)

    def end(self, number: int, kind: int, /, **fields: bytes | str | int | None) -> bytes:
        """Return an EXIT or ERROR, the last frame of a channel. Raises KeyError if the channel has ended."""
        del self.channels[number]
        return record(kind, number, **fields)
