"""HTTP without I/O: bytes in, a request or a refusal out; answers as bytes.

Only what health needs: GET, no bodies, one request for each connection (`Connection: close`), so that no framing can go
wrong.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any

HEAD_LIMIT = 8192
"""In bytes. nginx and Apache have the same limit; browsers with many cookies stay below it."""

REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}

ABSOLUTE = re.compile(rb"http://([^/]*)")
TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEAD_END = re.compile(rb"\r?\n\r?\n")


@dataclass(frozen=True)
class Request:
    """A request's first line and its Host header (empty: it has none). No other header is used here."""

    method: str
    path: str
    host: str = ""


class RefusedError(Exception):
    """The bytes are no valid request. `status` is the status code for the answer."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def parse(data: bytes) -> Request | None:
    """Return the request at the start of `data`; None while it is incomplete. Raises RefusedError when invalid."""
    end = HEAD_END.search(data)
    if end is None:
        if len(data) > HEAD_LIMIT:
            raise RefusedError(431, f"a request's head may have {HEAD_LIMIT} bytes")
        _check_line(data.split(b"\n", 1)[0], complete=b"\n" in data)
        return None
    if end.start() > HEAD_LIMIT:
        raise RefusedError(431, f"a request's head may have {HEAD_LIMIT} bytes")
    first, *headers = re.split(rb"\r?\n", data[: end.start()])
    request = _check_line(first, complete=True)
    hosts = []
    for header in headers:
        name, colon, value = header.partition(b":")
        if not colon or not TOKEN.fullmatch(name):
            raise RefusedError(400, "a header is malformed")
        if name.lower() == b"host":
            hosts.append(value.strip().decode(errors="replace"))
    if len(hosts) > 1:
        raise RefusedError(400, "there is more than one Host")
    if request and hosts and not request.host:
        return replace(request, host=hosts[0])
    return request


def _check_line(line: bytes, *, complete: bool) -> Request | None:
    """Check the first line as early as possible, so that invalid data is refused at once."""
    if not complete:
        method, blank, _ = line.partition(b" ")
        if (method and not TOKEN.fullmatch(method.rstrip(b"\r"))) or (blank and not method):
            raise RefusedError(400, "the request line is malformed")
        return None
    parts = line.rstrip(b"\r").split(b" ")
    if len(parts) != 3 or not TOKEN.fullmatch(parts[0]) or not parts[1]:
        raise RefusedError(400, "the request line is malformed")
    method, target, version = parts
    if not re.fullmatch(rb"HTTP/\d\.\d", version):
        raise RefusedError(400, "the request line is malformed")
    if not version.startswith(b"HTTP/1."):
        raise RefusedError(505, "only HTTP/1.0 and 1.1 are spoken")
    if not all(0x21 <= byte < 0x7F for byte in target):
        raise RefusedError(400, "the request target is malformed")
    whole = ABSOLUTE.match(target)  # the host in the target overrides the header: RFC 9112, 3.2.2
    path = target[whole.end() if whole else 0 :].split(b"?", 1)[0]
    if not path.startswith(b"/"):
        raise RefusedError(400, "the request target is malformed")
    return Request(method.decode(), path.decode(), whole[1].decode() if whole else "")


def answer(status: int, body: dict[str, Any] | str) -> bytes:
    """Return the whole answer: JSON for a dictionary, Prometheus text for a string."""
    if isinstance(body, str):
        payload, kind = body.encode(), "text/plain; version=0.0.4; charset=utf-8"
    else:
        payload, kind = json.dumps(body).encode() + b"\n", "application/json"
    allow = "Allow: GET\r\n" if status == 405 else ""
    head = (
        f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(payload)}\r\n"
        f"{allow}Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + payload
