"""The HTTP server: it always answers, even with many, slow or broken clients.

A connection reads one head and sends one answer. Before it is closed, incoming data is read and dropped for a moment:
if a connection is closed with unread bytes, the kernel may discard the answer.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from healthcheck.access import NOBODY, Client, ends
from healthcheck.http import RefusedError, answer, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    Answer = Callable[[], tuple[int, dict[str, Any] | str]]
    Pages = dict[str, "Page"]

MOST_CONNECTIONS = 512
"""Above this the oldest connection is dropped, so that idle connections never keep the probe out."""
BACKLOG = 512
ACCEPTED_PER_TURN = 32
"""A flood of connections then leaves time for the rest of the loop."""
PATIENCE_S = 5.0
"""The limit for a whole request, and again for taking the answer. Single bytes do not extend it."""
LINGER_S = 1.0

NOT_FOR_YOU = {
    "error": "this page is for the container and its host, by one of their own names; ask at a port that is mapped to "
    "127.0.0.1 of the host, or set HEALTH_ALLOWED_HOSTS to the name that you ask for"
}


@dataclass(frozen=True)
class Page:
    """A page's answer for those who may read details, and for all others; None means that they get none."""

    full: Answer
    bare: Answer | None = None


class Server:
    """Answers GET for a table of pages. `may_see` says who may read details."""

    def __init__(self, pages: Pages, may_see: Callable[[str, Client], bool]) -> None:
        self._pages = pages
        self._may_see = may_see
        self._connections: dict[Connection, None] = {}

    async def listen(self, host: str, port: int) -> asyncio.Server:
        """Start to answer. Raises OSError when the address is in use or not local."""
        listener = _bound(host, port)
        try:
            server = await asyncio.get_running_loop().create_server(
                lambda: Connection(self), sock=listener, backlog=ACCEPTED_PER_TURN
            )
        except BaseException:
            listener.close()
            raise
        listener.listen(BACKLOG)  # asyncio uses one number for the queue and for the connections accepted in one turn
        return server

    def respond(self, data: bytes, client: Client) -> bytes | None:
        """Return the answer to the bytes that a client has sent so far; None while the request is incomplete."""
        try:
            request = parse(data)
        except RefusedError as refused:
            return answer(refused.status, {"error": str(refused)})
        if request is None:
            return None
        page = self._pages.get(request.path)
        if page is None:
            return answer(404, {"error": "there is nothing here", "pages": list(self._pages)})
        if request.method != "GET":
            return answer(405, {"error": "only GET is understood"})
        if self._may_see(request.host, client):
            return answer(*page.full())
        return answer(*page.bare()) if page.bare else answer(403, NOT_FOR_YOU)

    def add(self, connection: Connection) -> None:
        """Make room for one more connection."""
        if len(self._connections) >= MOST_CONNECTIONS:
            oldest = next(iter(self._connections))
            self.remove(oldest)
            oldest.abort()
        self._connections[connection] = None

    def remove(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self._connections.pop(connection, None)


class Connection(asyncio.Protocol):
    """One client: read its request, send the answer, wait a moment, close."""

    _transport: asyncio.Transport
    _timer: asyncio.TimerHandle

    def __init__(self, server: Server) -> None:
        self._server = server
        self._client = NOBODY
        self._received = b""
        self._is_answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the request, at most PATIENCE_S."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._client = ends(transport.get_extra_info("peername"), transport.get_extra_info("sockname"))
        self._timer = asyncio.get_running_loop().call_later(PATIENCE_S, self._run_out_of_time)
        self._server.add(self)

    def data_received(self, data: bytes) -> None:
        """Answer as soon as the request is complete. Later data is dropped."""
        if self._is_answered:
            return
        self._received += data
        reply = self._server.respond(self._received, self._client)
        if reply is not None:
            self._answer(reply)

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the client, whichever side has closed."""
        self._timer.cancel()
        self._server.remove(self)

    def abort(self) -> None:
        """Close the connection, whatever the client is doing."""
        self._transport.abort()

    def _answer(self, reply: bytes) -> None:
        self._is_answered = True
        self._timer.cancel()
        self._transport.write(reply)
        try:
            self._transport.write_eof()
        except OSError:  # the client has gone, so nobody can receive the answer
            self.abort()
            return
        is_sent = self._transport.get_write_buffer_size() == 0
        patience_s = LINGER_S if is_sent else PATIENCE_S
        self._timer = asyncio.get_running_loop().call_later(patience_s, self.abort)

    def _run_out_of_time(self) -> None:
        if self._received:
            self._answer(answer(408, {"error": f"the request was not complete after {PATIENCE_S:g} s"}))
        else:
            self.abort()


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket bound to an IP address. `::` also accepts IPv4, which asyncio's own sockets do not."""
    is_ipv6 = ":" in host
    listener = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_ipv6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener
