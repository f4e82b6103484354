"""Sockets on the supervisor's loop: many clients, slow ones, broken ones, and always an answer for the next.

A connection reads one head, gets one answer, and is drained for a moment before it is closed, because closing
with unread bytes would make the kernel tear the answer away from the client.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.loop import READABLE, WRITABLE
from healthcheck.askers import NOBODY, Asker, ends
from healthcheck.http import RefusedError, answer, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.loop import Loop

    Answer = Callable[[], tuple[int, dict[str, Any] | str]]
    Pages = dict[str, "Page"]

MOST_CONNECTIONS = 512
"""Beyond it the oldest is dropped, so that idle connections can never keep the probe out."""
BACKLOG = 512
PATIENCE_S = 5.0
"""For a whole request, so that a byte a second gains nothing; again for taking the answer."""
LINGER_S = 1.0
SWEEP_S = 1.0
ACCEPT_PAUSE_S = 0.2
CHUNK = 16384

NOT_FOR_YOU = {
    "error": "this page is for the container and its host, by one of their own names; ask at a port that is mapped to "
    "127.0.0.1 of the host, or set HEALTH_ALLOWED_HOSTS to the name that you ask for"
}


@dataclass(frozen=True)
class Page:
    """What a page says to who may read details, and to anybody else; None: nothing."""

    full: Answer
    bare: Answer | None = None


class Server:
    """Answers GET for a table of pages; `may_see` says who may read details."""

    def __init__(self, loop: Loop, pages: Pages, may_see: Callable[[str, Asker], bool]) -> None:
        self.requests = 0
        self._loop = loop
        self._pages = pages
        self._may_see = may_see
        self._connections: dict[Connection, None] = {}
        self._listener: socket.socket | None = None
        self._sweeping = False

    def listen(self, host: str, port: int) -> None:
        """Answer from now on; OSError when the address is taken or not ours."""
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        if ":" in host:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            listener.bind((host, port))
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
        self._listener = listener
        self._accept_again()

    def respond(self, data: bytes, asker: Asker) -> bytes | None:
        """Return the answer to what a client has sent so far; None while it is incomplete."""
        try:
            request = parse(data)
        except RefusedError as refused:
            return answer(refused.status, {"error": str(refused)})
        if request is None:
            return None
        self.requests += 1
        page = self._pages.get(request.path)
        if page is None:
            return answer(404, {"error": "there is nothing here", "pages": list(self._pages)})
        if request.method != "GET":
            return answer(405, {"error": "only GET is understood"})
        if self._may_see(request.host, asker):
            return answer(*page.full())
        return answer(*page.bare()) if page.bare else answer(403, NOT_FOR_YOU)

    def drop(self, connection: Connection) -> None:
        """Forget a connection that has closed itself."""
        self._connections.pop(connection, None)

    def _accept_again(self) -> None:
        if self._listener is not None:
            self._loop.watch(self._listener.fileno(), READABLE, lambda _events: self._accept())

    def _accept(self) -> None:
        assert self._listener is not None
        for _ in range(32):  # a turn's worth, so that a flood of connections cannot starve the rest
            try:
                client, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:  # out of descriptors or memory: what is left is for those already here
                self._loop.unwatch(self._listener.fileno())
                self._loop.call_later(ACCEPT_PAUSE_S, self._accept_again)
                return
            if len(self._connections) >= MOST_CONNECTIONS:
                next(iter(self._connections)).close()
            self._connections[Connection(self._loop, self, client)] = None
            self._sweep_later()

    def _sweep_later(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = False
        now = self._loop.now()
        for connection in [c for c in self._connections if c.deadline <= now]:
            connection.run_out_of_time()
        if self._connections:
            self._sweep_later()


class Connection:
    """One client: reading, then writing, then lingering."""

    def __init__(self, loop: Loop, server: Server, client: socket.socket) -> None:
        client.setblocking(False)
        self.deadline = loop.now() + PATIENCE_S
        self._loop = loop
        self._server = server
        self._client = client
        self._received = b""
        self._to_send: memoryview | None = None
        self._asker = NOBODY
        with contextlib.suppress(OSError):  # ignored because it has gone, as the first read will say
            self._asker = ends(client)
        loop.watch(client.fileno(), READABLE, self._ready)

    def close(self) -> None:
        """End it, whatever it was doing."""
        self._loop.unwatch(self._client.fileno())
        self._client.close()
        self._server.drop(self)

    def run_out_of_time(self) -> None:
        """Tell a client that was too slow to ask; close on one that was too slow to listen."""
        if self._to_send is None and self._received:
            self._answer(answer(408, {"error": f"the request was not complete after {PATIENCE_S:g} s"}))
        else:
            self.close()

    def _ready(self, _events: int) -> None:
        try:
            if self._to_send is None:
                self._read()
            elif self._to_send:
                self._write()
            elif not self._client.recv(CHUNK):  # lingering
                self.close()
        except BlockingIOError:
            return
        except OSError:  # the client has gone: nobody is left to answer
            self.close()

    def _read(self) -> None:
        chunk = self._client.recv(CHUNK)
        self._received += chunk
        reply = self._server.respond(self._received, self._asker)
        if reply is not None:
            self._answer(reply)
        elif not chunk:
            self.close()

    def _answer(self, reply: bytes) -> None:
        self._to_send = memoryview(reply)
        self.deadline = self._loop.now() + PATIENCE_S
        self._loop.watch(self._client.fileno(), WRITABLE, self._ready)
        with contextlib.suppress(BlockingIOError):  # ignored because the loop says when there is room
            try:
                self._write()
            except OSError:
                self.close()
                return

    def _write(self) -> None:
        assert self._to_send is not None
        self._to_send = self._to_send[self._client.send(self._to_send) :]
        if not self._to_send:
            self._client.shutdown(socket.SHUT_WR)
            self.deadline = self._loop.now() + LINGER_S
            self._loop.watch(self._client.fileno(), READABLE, self._ready)
