"""Parses heads of HTTP/1.1 messages strictly: a head that two parsers could read differently is refused.

Nothing is repaired here. A request is sent on from its parsed form, never as the received bytes. So the next parser
reads the same request, with the same length.
"""

from __future__ import annotations

import dataclasses
import re

Fields = tuple[tuple[bytes, bytes], ...]

_LINE = re.compile(rb"([A-Z]{1,20}) ([!-~]{1,16384}) HTTP/1\.[01]")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*((?:[^\0\r\n]*[^\0\r\n \t])?)[ \t]*")
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)(?: [^\0\r\n]*)?")
_LENGTH = re.compile(rb"\d{1,15}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_URL = re.compile(r"http://(\[[0-9A-Fa-f:.%]+\]|[^/?#@:\\\[\]]{1,255})(?::(\d{1,5}))?((?:[/?][^#]*)?)", re.ASCII)
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[^/?#@:\\\[\]]{1,255}):(\d{1,5})", re.ASCII)

OF_HOP = frozenset({b"connection", b"host", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"})
"""Fields that are valid for one connection only, and Host, which names the other end of a connection."""


class HeadError(Exception):
    """The bytes are not a valid head; the text says why."""


@dataclasses.dataclass(frozen=True)
class Request:
    """A request's head. `length` is the length of the body in bytes, or None if it is sent in chunks."""

    method: str
    target: str
    fields: Fields
    length: int | None = 0

    @classmethod
    def parse(cls, head: bytes) -> Request:
        """Parse a head with its empty line. Raises HeadError."""
        line, fields = _lines(head)
        found = _LINE.fullmatch(line)
        if not found:
            raise HeadError("the first line is none of HTTP/1.1")
        return cls(found[1].decode(), found[2].decode(), fields, _length(fields))

    def passed(self) -> list[tuple[bytes, bytes]]:
        """Return the fields that are sent on to the server."""
        return _passed(self.fields)


@dataclasses.dataclass(frozen=True)
class Answer:
    """The head of an answer."""

    status: int
    line: bytes
    fields: Fields
    length: int | None = None
    """The length of the body in bytes; None if it is sent in chunks or until the connection ends."""

    @classmethod
    def parse(cls, head: bytes) -> Answer:
        """Parse a head with its empty line. Raises HeadError."""
        line, fields = _lines(head)
        found = _STATUS.fullmatch(line)
        if not found:
            raise HeadError("the answer is none of HTTP/1.1")
        length, names = _length(fields), {name.lower() for name, _ in fields}
        return cls(int(found[1]), line, fields, length if b"content-length" in names else None)

    @property
    def is_chunked(self) -> bool:
        """Whether the body is sent in chunks."""
        return any(name.lower() == b"transfer-encoding" for name, _ in self.fields)

    @property
    def keeps(self) -> bool:
        """Whether the server takes another request on this connection after the body."""
        ends = any(name.lower() == b"connection" and b"close" in value.lower() for name, value in self.fields)
        return self.line.startswith(b"HTTP/1.1") and not ends and (self.is_chunked or self.length is not None)

    def passed(self) -> list[tuple[bytes, bytes]]:
        """Return the fields that are sent on to the client. The body is passed on unchanged, in chunks or not."""
        coding = [(name, value) for name, value in self.fields if name.lower() == b"transfer-encoding"]
        return _passed(self.fields) + coding


def written(line: bytes, fields: list[tuple[bytes, bytes]]) -> bytes:
    """Return the bytes of a head."""
    return b"\r\n".join([line, *(name + b": " + value for name, value in fields), b"", b""])


def chunk_size(line: bytes) -> int:
    """Return the size in the line before a chunk, bytes. Raises HeadError."""
    found = _CHUNK.fullmatch(line)
    if not found:
        raise HeadError("a chunk has no size")
    return int(found[1], 16)


def split_url(target: str) -> tuple[str, int, str]:
    """Return host, port, and path with query, from the URL in a request to a proxy. Raises HeadError."""
    found = _URL.fullmatch(target)
    if not found:
        raise HeadError(f"{target[:80]!r} is no address of the web")
    path = found[3] if found[3].startswith("/") else "/" + found[3]
    return (*_place(found[1], found[2] or "80"), path)


def split_authority(target: str) -> tuple[str, int]:
    """Return host and port of a request for a tunnel. Raises HeadError."""
    found = _AUTHORITY.fullmatch(target)
    if not found:
        raise HeadError(f"{target[:80]!r} is no address")
    return _place(found[1], found[2])


def _place(host: str, port: str) -> tuple[str, int]:
    if not 0 < int(port) <= 0xFFFF:
        raise HeadError(f"{port} is no port")
    return host.strip("[]").lower(), int(port)


def _lines(head: bytes) -> tuple[bytes, Fields]:
    line, *rest = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    fields = []
    for text in rest:
        found = _FIELD.fullmatch(text)
        if not found:
            raise HeadError("a field of the head is none")
        fields.append((found[1], found[2]))
    return line, tuple(fields)


def _length(fields: Fields) -> int | None:
    lengths = [value for name, value in fields if name.lower() == b"content-length"]
    codings = [value.lower() for name, value in fields if name.lower() == b"transfer-encoding"]
    if codings:
        if codings != [b"chunked"] or lengths:
            raise HeadError("the length of the body is not clear")
        return None
    if len(lengths) > 1 or (lengths and not _LENGTH.fullmatch(lengths[0])):
        raise HeadError("the length of the body is not clear")
    return int(lengths[0]) if lengths else 0


def _passed(fields: Fields) -> list[tuple[bytes, bytes]]:
    named = {
        word.strip().lower() for name, value in fields if name.lower() == b"connection" for word in value.split(b",")
    }
    dropped = OF_HOP | named
    return [
        (name, value)
        for name, value in fields
        if (low := name.lower()) not in dropped and not low.startswith(b"proxy-")
    ]
