"""The bridge's protocol, without I/O: bytes in, events out; events in, bytes out.

Rules of this file:

- It never decodes what it carries: arguments, variables and output are bytes on both ends.
- It reads no clock, opens nothing and logs nothing. The owner of the socket does that.
- It imports only `struct`. The client in the container has 40 ms to start, and each of `dataclasses`, `enum` and
  `typing` would use a large part of that.
- For any input from the peer, the result is an event or a `ProtocolError`. The limits below bound the memory.

bridge/protocol/link.py defines the order of the frames. docs/bridge.md describes the protocol for other clients.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

VERSION = 1
"""Increased when an old peer would misunderstand a new one. A new field of a record is no reason."""

PREFACE = b"\x89magents-bridge\n"
"""The first bytes in each direction. They are not text, so a peer that speaks HTTP or a shell is recognised at once."""

HEADER = struct.Struct(">IBI")
"""Payload length, frame type, channel."""

MAX_DATA = 256 * 1024
"""Payload of one data frame, bytes: what asyncio reads from a socket at once. A slow peer can make the other side
hold this much for each stream, so a larger value is not better."""

MAX_RUN = 1024 * 1024
"""Payload of a RUN, bytes. Linux allows 128 KiB for one argument, and 2 MiB for all arguments and the environment.
No real client has been seen to send eight arguments of the largest size."""

MAX_PROJECT = 2 * 1024 * 1024
"""Settings, MCP servers, agents, commands and skills of a call together, bytes. Public collections of agents have
1 MiB."""

MAX_MEMORY = 1024 * 1024
"""CLAUDE.md files and rules of a call together, bytes. The CLI warns from 40,000 characters on."""

MAX_CALL = MAX_RUN + MAX_PROJECT + MAX_MEMORY
"""Payload of a call, bytes."""

NUL = b"\xc0\x80"
"""A NUL byte in a field `file`, `memory` or `text`, because NUL ends a field. These two bytes never occur in UTF-8."""

MAX_RECORD = 64 * 1024
"""Payload of any other record (hello, state, exit, error), bytes. The largest holds the host CLI's help, 20 kB."""

MAX_PING = 64
"""Payload of a ping, bytes: enough for a nonce or a time."""

MAX_SOCKET_PATH = 107
"""Longest socket path that the kernel accepts, bytes."""

MAX_FIELDS = 8192
"""Fields of one record. Each costs some 100 bytes of objects besides its text. The limit keeps a call of empty
fields from using many times its own size."""

MAX_CHANNELS = 64
"""Channels that each side may have open at once on one connection. It only bounds the table; the queue has lower
limits."""

WINDOW = 512 * 1024
"""Bytes of one stream that may be sent but not yet consumed. This is two frames, so that one can be sent while the
other is written."""

MAX_CREDIT = 2**31 - 1
"""Largest total credit of one stream. A peer that grants more is broken or hostile."""

OF_SERVER = 2**31
"""The server opens channels from this number on. The client opens those below it."""


class Frame:
    """Types of frames. 0x3x are for the terminal, and for commands that the host sends to the container."""

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

# Frame type -> smallest and largest payload, bytes. Other types do not exist.
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
    Frame.RUN: (0, MAX_RUN),
}


class ProtocolError(Exception):
    """The peer broke the protocol. The connection must be closed."""


class Event:
    """One parsed frame: its type, its channel and its content."""

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
        """The stream and the number of bytes that a CREDIT frame grants."""
        stream, size = _CREDIT.unpack(self.payload)
        return stream, size

    @property
    def rows_and_columns(self) -> tuple[int, int]:
        """The terminal size in a RESIZE frame: rows and columns."""
        rows, columns = _SIZE.unpack(self.payload)
        return rows, columns


class Fields:
    """A record: names and byte strings, in order. A name may occur several times, as the arguments of a call do."""

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
        """Return every value of the name, in order."""
        return [value for key, value in self.pairs if key == name]

    def get(self, name: str, default: bytes = b"") -> bytes:
        """Return the last value of the name."""
        return next((value for key, value in reversed(self.pairs) if key == name), default)

    def text(self, name: str, default: str = "") -> str:
        """Return the last value as text for people. Bytes that are not UTF-8 are escaped."""
        return self.get(name, default.encode()).decode("utf-8", "backslashreplace")

    def number(self, name: str, default: int = 0) -> int:
        """Return the last value as a decimal number of at most 18 digits, or the default."""
        value = self.get(name)
        return int(value) if value.isdigit() and len(value) <= 18 else default

    def encode(self) -> bytes:
        """Return the record's bytes: for each field the name, an equals sign, the value, NUL."""
        return b"".join(b"%s=%s\0" % (key.encode("ascii"), value) for key, value in self.pairs)

    @classmethod
    def decode(cls, payload: bytes) -> Fields:
        """Parse a record. Raises ProtocolError."""
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


# Frames to send


def frame(kind: int, channel: int = 0, payload: bytes = b"") -> bytes:
    """Return one frame."""
    return HEADER.pack(len(payload), kind, channel) + payload


def record(kind: int, channel: int = 0, /, **fields: bytes | str | int | None) -> bytes:
    """Return a frame with a record of the fields that are not None. Underscores in names are sent as hyphens."""
    return frame(kind, channel, Fields(_pairs(fields)).encode())


def credit(channel: int, stream: int, size: int) -> bytes:
    """Return a frame that lets the peer send `size` more bytes of the stream."""
    return frame(Frame.CREDIT, channel, _CREDIT.pack(stream, size))


def opening_state(channel: int, notes: Iterable[str], limits: Collection[str], interactive: bool) -> bytes:
    """Return the frame for the start of a call. `notes` are lines about what was left out of the project, and `limits`
    those of them that are about a limit; `interactive` says whether the call has a terminal."""
    lines = [*(("limit", line) for line in limits), *(("note", line) for line in notes if line not in limits)]
    pairs = [("state", b"started"), *((name, line.encode("utf-8", "replace")[:500]) for name, line in lines[:50])]
    if interactive:
        pairs.append(("terminal", b"1"))
    return frame(Frame.STATE, channel, Fields((name, value.replace(b"\0", b"")) for name, value in pairs).encode())


def resize(channel: int, rows: int, columns: int) -> bytes:
    """Return a frame with the size of the terminal."""
    return frame(Frame.RESIZE, channel, _SIZE.pack(min(rows, 0xFFFF), min(columns, 0xFFFF)))


def opening(
    kind: int,
    channel: int,
    argv: Iterable[bytes],
    env: Mapping[bytes, bytes],
    project: Iterable[tuple[str, bytes]] = (),
    **fields: bytes | str | int | None,
) -> bytes:
    """Return the frame that opens a CALL or a RUN. Raises ProtocolError if it is larger than any peer accepts.

    `project` are further fields, whose names may occur several times.
    """
    pairs = [("arg", value) for value in argv]
    pairs += [("env", name + b"=" + value) for name, value in env.items()]
    payload = Fields([*pairs, *project, *_pairs(fields)]).encode()
    largest = SIZES[kind][1]
    if len(payload) > largest or payload.count(b"\0") > MAX_FIELDS:
        raise ProtocolError(f"arguments and environment have {len(payload)} bytes, more than {largest}")
    return frame(kind, channel, payload)


def _pairs(fields: Mapping[str, bytes | str | int | None]) -> Iterator[tuple[str, bytes]]:
    for name, value in fields.items():
        if value is not None:
            data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
            # A NUL can only occur in a sentence that repeats hostile input. It is shown as an escape.
            yield name.replace("_", "-"), data.replace(b"\0", b"\\0")


# Received frames


class Decoder:
    """Splits the bytes of one direction into events. It checks sizes and types, but not the order of frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0
        self._greeted = False

    def feed(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """Return the events that these bytes complete. Raises ProtocolError; after that the decoder cannot be used."""
        self.push(data)
        events: list[Event] = []
        while (event := self.next()) is not None:
            events.append(event)
        return events

    def push(self, data: bytes | bytearray | memoryview) -> None:
        """Store bytes for later calls of `next`."""
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    def next(self) -> Event | None:
        """Return the first complete event, or None. Raises ProtocolError, as `feed` does."""
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
        """Number of bytes that are stored and not yet part of a returned event."""
        return len(self._buffer) - self._at

    def _preface(self) -> bool:
        """Return whether the whole preface has arrived. Raises ProtocolError if other bytes came."""
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
