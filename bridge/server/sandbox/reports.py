"""Receives the reports of one call's CLI about its own use (bridge/policy/telemetry.py).

The CLI sends them to a host name that exists for this call only, with a secret in a header field. The proxy of the
call (proxy.py) answers there itself: nothing leaves the host. Commands of Claude's run in the container and cannot
reach the proxy. A server on the network that Claude asks gets neither the name nor the secret.

So a report counts for the grant of the call, and for no other one. A report that comes twice counts once: records are
numbered within their session.
"""

from __future__ import annotations

import hmac
import secrets
import socket
from collections.abc import Callable

from bridge.policy import telemetry
from bridge.policy.http_head import Request
from bridge.policy.telemetry import Report
from bridge.server.sandbox.http_exchange import Pair, body_of, say

MAX_SESSIONS = 4096
"""Sessions of one call whose numbers are kept. An interactive one starts another with each /clear."""


class Reports:
    """The address of one call's reports, and what has arrived there."""

    def __init__(self, take: Callable[[list[Report]], None]) -> None:
        """`take` gets what is new in a report. It can raise OSError; then the CLI is told to try again."""
        self.name = f"{secrets.token_hex(16)}.invalid"
        self.secret = secrets.token_hex(32)
        self._take = take
        self._newest: dict[str, int] = {}
        """The number of the newest record of each session."""

    def listen(self) -> socket.socket:
        """Listen on the host's loopback, for a CLI that uses the host's network. Raises OSError."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.name = "127.0.0.1:{1}".format(*listener.getsockname())
        return listener

    def is_meant(self, host: str, port: int) -> bool:
        """Return whether a request to this address is a report."""
        return (host, port) == (self.name, 80)

    async def receive(self, client: Pair, request: Request, path: str) -> bytes:
        """Count a report, and answer it. Returns its body; empty if it does not count."""
        given = next((value for name, value in request.fields if name.lower() == telemetry.KEY), b"")
        if not hmac.compare_digest(given, self.secret.encode()):
            say(client[1], b"403 Forbidden", b"bridge: no report of this call\n")
            return b""
        if (request.method, path) != ("POST", telemetry.PATH):
            say(client[1], b"404 Not Found", b"")
            return b""
        body = await body_of(client[0], request.length, telemetry.MAX_REPORT)
        try:
            self._count(telemetry.read(body))
        except ValueError:
            say(client[1], b"400 Bad Request", b"bridge: not a report\n")
            return b""
        except OSError:
            say(client[1], b"503 Service Unavailable", b"bridge: the report could not be kept\n")
            return b""
        say(client[1], b"200 OK", b"{}", [(b"Content-Type", b"application/json")])
        return body

    def _count(self, reports: list[Report]) -> None:
        newest = dict(self._newest)
        new = []
        for report in reports:
            if report.sequence < 0 or report.sequence > newest.get(report.session, -1):
                new.append(report)
            newest[report.session] = max(report.sequence, newest.pop(report.session, -1))
        if new:
            self._take(new)
        while len(newest) > MAX_SESSIONS:
            del newest[next(iter(newest))]
        self._newest = newest
