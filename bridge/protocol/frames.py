"""The bridge's protocol, without I/O: bytes in, events out; events in, bytes out.

Rules of this file:

- It never decodes what it carries: an argument, a variable and a chunk of output are bytes on both ends.
- It reads no clock, opens nothing and logs nothing; whoever owns the socket does.
- It imports nothing but `struct`: the client in the container has 40 ms to start, and `dataclasses`, `enum`
  or `typing` would each cost it a good part of that.
- Whatever the peer sends, the outcome is an event or a `ProtocolError`; the limits below bound the memory.

What may follow what is in bridge/protocol/link.py; docs/bridge.md tells it all to writers of other clients.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

VERSION = 1
"""Raised when an old peer would misunderstand a new one; a new field of a record is no such case."""

PREFACE = b"\x89magents-bridge\n"
"""The first bytes in each direction. Not text: a peer that speaks HTTP or a shell is recognised at once."""

HEADER = struct.Struct(">IBI")
"""Payload length, frame type, channel."""

MAX_DATA = 256 * 1024
"""Payload of one data frame, bytes: what asyncio reads from a socket at once. It is also what a slow peer can
make the other side hold for each stream, so larger is not better."""

MAX_CALL = 1024 * 1024
"""Payload of a call, bytes. Linux itself allows 128 KiB for one argument and 2 MiB for all of them with the
environment; eight of the largest arguments have never been seen in a real client."""

MAX_MEMORY = 256 * 1024
"""The field `memory` of a call, bytes: the project's CLAUDE.md files. The CLI warns from 40,000 characters on."""

MAX_RECORD = 64 * 1024
"""Payload of any other record (hello, state, exit, error), bytes. One holds the host CLI's help, 20 kB."""

MAX_PING = 64
"""Payload of a ping, bytes: enough for a nonce or a time."""

MAX_SOCKET_PATH = 107
"""Bytes of a socket's path that the kernel takes."""

MAX_FIELDS = 8192
"""Fields of one record. Each costs some 100 bytes of objects beside its text, so that a call of empty fields
cannot take many times its own size."""

MAX_CHANNELS = 64
"""Calls open at once on one connection. The queue's limits are below it; this one only bounds the table."""

WINDOW = 512 * 1024
"""Bytes of one stream that may be on the way without having been consumed. Two frames, so that one travels
while the other is written."""

MAX_CREDIT = 2**31 - 1
"""Largest credit that adds up on one stream: a peer that goes on granting is broken or hostile."""

OF_SERVER = 2**31
"""Channels from this number on are opened by the server, those below it by the client."""


class Frame:
    """Types of frames. 0x3x are of the terminal, and of commands that the host sends to the container."""

    HELLO = 0x01
    PING = 0x02
    PONG = 0x03
    GOAWAY = 0x04
    CALL = 0x10
    STATE = 0x11
    EXIT = 0x12
    ERROR = 0x13
    SIGNAL = 0x14
    CANCEL = 0x15
    STDIN = 0x20
    STDOUT = 0x21
    STDERR = 0x22
    CREDIT = 0x23
    RESIZE = 0x30
    RUN = 0x31


STREAMS = (Frame.STDIN, Frame.STDOUT, Frame.STDERR)
RECORDS = (Frame.HELLO, Frame.GOAWAY, Frame.CALL, Frame.RUN, Frame.STATE, Frame.EXIT, Frame.ERROR)

_CREDIT = struct.Struct(">BI")
_SIZE = struct.Struct(">HH")

# type -> smallest and largest payload. A type that is not here does not exist.
SIZES = {
    Frame.HELLO: (0, MAX_RECORD),
    Frame.PING: (0, MAX_PING),
    Frame.PONG: (0, MAX_PING),
    Frame.GOAWAY: (0, MAX_RECORD),
    Frame.CALL: (0, MAX_CALL),
    Frame.STATE: (0, MAX_RECORD),
    Frame.EXIT: (0, MAX_RECORD),
    Frame.ERROR: (0, MAX_RECORD),
    Frame.SIGNAL: (1, 1),
    Frame.CANCEL: (0, 0),
    Frame.STDIN: (0, MAX_DATA),
    Frame.STDOUT: (0, MAX_DATA),
    Frame.STDERR: (0, MAX_DATA),
    Frame.CREDIT: (_CREDIT.size, _CREDIT.size),
    Frame.RESIZE: (_SIZE.size, _SIZE.size),
    Frame.RUN: (0, MAX_CALL),
}


class ProtocolError(Exception):
    """The peer broke the protocol; the connection cannot go on."""


class Event:
    """One frame, understood: its type, its channel and what it carries."""

    __slots__ = ("channel", "fields", "kind", "payload")

    def __init__(
        self,
        kind: int,
        channel: int = 0,
        payload: bytes = b"",
        fields: Fields | None = None,
    ) -> None:
        self.kind = kind
        self.channel = channel
        self.payload = payload
        self.fields = fields if fields is not None else Fields(())

    def __repr__(self) -> str:
        body = self.fields if self.kind in RECORDS else self.payload
        return f"Event({self.kind:#x}, channel={self.channel}, {body!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    @property
    def credit(self) -> tuple[int, int]:
        """Stream and number of bytes that a CREDIT frame grants."""
        stream, size = _CREDIT.unpack(self.payload)
        return stream, size

    @property
    def rows_and_columns(self) -> tuple[int, int]:
        """The terminal's size that a RESIZE frame tells."""
        rows, columns = _SIZE.unpack(self.payload)
        return rows, columns


class Fields:
    """A record: names and byte strings in order; a name may come again, as the arguments of a call do."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: Iterable[tuple[str, bytes]]) -> None:
        self.pairs = tuple(pairs)

    def __repr__(self) -> str:
        return f"Fields({self.pairs!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fields) and self.pairs == other.pairs

    def __hash__(self) -> int:
        return hash(self.pairs)

    def all(self, name: str) -> list[bytes]:
        """Every value of the name, in order."""
        return [value for key, value in self.pairs if key == name]

    def get(self, name: str, default: bytes = b"") -> bytes:
        """The last value of the name."""
        return next((value for key, value in reversed(self.pairs) if key == name), default)

    def text(self, name: str, default: str = "") -> str:
        """The last value as text for people; what is no UTF-8 is shown escaped."""
        return self.get(name, default.encode()).decode("utf-8", "backslashreplace")

    def number(self, name: str, default: int = 0) -> int:
        """The last value as a decimal number of at most 18 digits, or the default."""
        value = self.get(name)
        return int(value) if value.isdigit() and len(value) <= 18 else default

    def encode(self) -> bytes:
        """As it travels: each field as name, equals sign, value, NUL."""
        return b"".join(b"%s=%s\0" % (key.encode("ascii"), value) for key, value in self.pairs)

    @classmethod
    def decode(cls, payload: bytes) -> Fields:
        """Read a record, or raise ProtocolError."""
        if not payload:
            return cls(())
        if not payload.endswith(b"\0"):
            raise ProtocolError("a record does not end with NUL")
        if payload.count(b"\0") > MAX_FIELDS:
            raise ProtocolError(f"a record has more than {MAX_FIELDS} fields")
        return cls(_field(part) for part in payload[:-1].split(b"\0"))


def _field(part: bytes) -> tuple[str, bytes]:
    name, equals, value = part.partition(b"=")
    if not equals or not name.isascii() or not name.replace(b"-", b"").isalnum() or len(name) > 32:
        raise ProtocolError("a field of a record has no name")
    return name.decode("ascii"), value


# Frames, ready to be sent


def frame(kind: int, channel: int = 0, payload: bytes = b"") -> bytes:
    """One frame."""
    return HEADER.pack(len(payload), kind, channel) + payload


def record(kind: int, channel: int = 0, /, **fields: bytes | str | int | None) -> bytes:
    """A frame with a record of the fields that are not None; an underscore in a name travels as a hyphen."""
    return frame(kind, channel, Fields(_pairs(fields)).encode())


def credit(channel: int, stream: int, size: int) -> bytes:
    """A frame that lets the peer send that many bytes more of the stream."""
    return frame(Frame.CREDIT, channel, _CREDIT.pack(stream, size))


def opening_state(channel: int, notes: Iterable[str], interactive: bool) -> bytes:
    """The frame that says that a call has started: what was left out of its project, and whether it has a terminal."""
    pairs = [("state", b"started"), *(("note", note.encode("utf-8", "replace")[:500]) for note in list(notes)[:50])]
    if interactive:
        pairs.append(("terminal", b"1"))
    return frame(Frame.STATE, channel, Fields((name, value.replace(b"\0", b"")) for name, value in pairs).encode())


def resize(channel: int, rows: int, columns: int) -> bytes:
    """A frame that tells the size of the terminal."""
    return frame(Frame.RESIZE, channel, _SIZE.pack(min(rows, 0xFFFF), min(columns, 0xFFFF)))


def opening(
    kind: int,
    channel: int,
    argv: Iterable[bytes],
    env: Mapping[bytes, bytes],
    files: Iterable[bytes] = (),
    **fields: bytes | str | int | None,
) -> bytes:
    """The frame that opens a CALL or a RUN; raises ProtocolError when it is larger than any peer takes."""
    pairs = [("arg", value) for value in argv]
    pairs += [("env", name + b"=" + value) for name, value in env.items()]
    pairs += [("file", value) for value in files]
    payload = Fields([*pairs, *_pairs(fields)]).encode()
    if len(payload) > MAX_CALL or payload.count(b"\0") > MAX_FIELDS:
        raise ProtocolError(f"arguments and environment have {len(payload)} bytes, more than {MAX_CALL}")
    return frame(kind, channel, payload)


def _pairs(fields: Mapping[str, bytes | str | int | None]) -> Iterator[tuple[str, bytes]]:
    for name, value in fields.items():
        if value is not None:
            data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
            # A NUL can only come from a sentence about hostile input: the sentence matters, not the byte.
            yield name.replace("_", "-"), data.replace(b"\0", b"\\0")


# Frames, received


class Decoder:
    """Cuts the bytes of one direction into events; knows sizes and types, not what was said before."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0
        self._greeted = False

    def feed(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """The events that these bytes complete. Raises ProtocolError; the decoder is of no use after that."""
        self.push(data)
        events: list[Event] = []
        while (event := self.next()) is not None:
            events.append(event)
        return events

    def push(self, data: bytes | bytearray | memoryview) -> None:
        """Keep some bytes until `next` is asked for what they say."""
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    def next(self) -> Event | None:
        """The first event that is complete, or None. Raises ProtocolError, as `feed` does."""
        if not self._greeted and not self._preface():
            return None
        at = self._at + HEADER.size
        if len(self._buffer) < at:
            return None
        size, kind, channel = HEADER.unpack_from(self._buffer, self._at)
        smallest, largest = SIZES.get(kind, (0, -1))
        if not smallest <= size <= largest:
            known = "of a size that is not allowed" if largest >= 0 else "of an unknown type"
            raise ProtocolError(f"a frame {known}: type {kind:#04x}, {size} bytes")
        if len(self._buffer) < at + size:
            return None
        with memoryview(self._buffer) as view:
            payload = bytes(view[at : at + size])
        self._at = at + size
        return _event(kind, channel, payload)

    @property
    def pending(self) -> int:
        """Bytes that wait for the rest of their frame."""
        return len(self._buffer) - self._at

    def _preface(self) -> bool:
        """Whether all of the preface has come."""
        start = bytes(self._buffer[: len(PREFACE)])
        if not PREFACE.startswith(start):
            raise ProtocolError("the peer does not speak the bridge's protocol")
        self._greeted = len(start) == len(PREFACE)
        self._at = len(PREFACE) if self._greeted else 0
        return self._greeted


def _event(kind: int, channel: int, payload: bytes) -> Event:
    if kind in RECORDS:
        return Event(kind, channel, fields=Fields.decode(payload))
    return Event(kind, channel, payload)
