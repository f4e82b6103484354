"""A connection that stays open, for programs in the container that call the host's Claude more than once.

    with Connection("/host/claude-bridge.sock") as bridge:
        print(bridge.about().text("cli"))
        answer = bridge.call([b"-p", b"hello"])

The connection is opened when it is first needed. It is opened again if the server closed it in between. A call that
has begun is never repeated: only the caller knows whether a second run does harm. Not thread-safe.
"""

from __future__ import annotations

import os

from bridge.client.handshake import CLI_ASKED_LIMIT_S, CONNECT_LIMIT_S, await_hello, connect, hello, receive, send
from bridge.protocol.errors import FaultError
from bridge.protocol.frames import MAX_DATA, Event, Fields, Frame, ProtocolError, frame
from bridge.protocol.link import CLIENT, Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Iterable, Mapping
    from types import TracebackType


class Answer:
    """The result of a call: exit code, standard output and standard error."""

    __slots__ = ("code", "stderr", "stdout")

    def __init__(self, code: int, stdout: bytes, stderr: bytes) -> None:
        self.code = code
        self.stdout = stdout
        self.stderr = stderr


class Connection:
    """A connection to the bridge's socket at `path`.

    `limit_s` limits the time to connect and to get an answer from the server, in seconds. It does not limit a call.
    """

    def __init__(self, path: str, limit_s: float | None = None) -> None:
        self._path = path
        self._connect_s = limit_s or CONNECT_LIMIT_S
        self._hello_s = limit_s or CLI_ASKED_LIMIT_S
        self._sock: _socket.socket | None = None
        self._link = Link(CLIENT)
        self._greeting = Fields(())
        self._events: list[Event] = []

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens it again."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def about(self) -> Fields:
        """Return the server's hello: `server`, `cli`, `problem`, `grant`, limits. Raises FaultError."""
        self._open()
        return self._greeting

    def ping(self) -> Fields:
        """Check that the server answers now, and return its hello. Raises FaultError."""
        kept = self._sock is not None
        try:
            self._ask_for_pong()
        except FaultError as fault:
            if not kept or fault.kind != "lost":
                raise
            self._ask_for_pong()  # the server was restarted, or had closed an idle connection
        return self._greeting

    def call(
        self,
        argv: Iterable[bytes],
        stdin: bytes = b"",
        env: Mapping[bytes, bytes] | None = None,
        cwd: bytes = b"/workspace",
    ) -> Answer:
        """Run the host's CLI until it ends. Raises FaultError if it cannot be run, or if its end is not known."""
        if self._sock is not None:
            self.ping()
        sock = self._open()
        try:
            kind = "pipe" if stdin else "none"
            number, opening = self._link.open(argv, {**_above(), **(env or {})}, cwd=cwd, stdin=kind, stdout="other")
        except ProtocolError as error:
            raise FaultError("usage", str(error)) from None
        send(sock, opening)
        sock.settimeout(None)
        return self._finish(sock, number, memoryview(stdin))

    # Internals

    def _open(self) -> _socket.socket:
        if self._sock is not None and not self._link.leaving:
            return self._sock
        self.close()
        sock = connect(self._path, self._connect_s)
        self._link, self._events = Link(CLIENT), []
        try:
            send(sock, hello(self._link))
            self._greeting = await_hello(sock, self._link, self._hello_s)[0].fields
        except FaultError:
            sock.close()
            raise
        self._sock = sock
        return sock

    def _ask_for_pong(self) -> None:
        sock = self._open()
        nonce = os.urandom(8)
        sock.settimeout(self._connect_s)
        send(sock, frame(Frame.PING, 0, nonce))
        while True:
            event = self._next(sock)
            if event.kind == Frame.PONG and event.payload == nonce:
                return

    def _finish(self, sock: _socket.socket, number: int, stdin: memoryview) -> Answer:
        output = {Frame.STDOUT: bytearray(), Frame.STDERR: bytearray()}
        while True:
            event = self._next(sock)
            if event.channel != number:
                continue
            if event.kind in output:
                output[event.kind] += event.payload
                send(sock, self._link.grant(number, event.kind, len(event.payload)))
            elif event.kind == Frame.CREDIT:
                stdin = self._feed(sock, number, stdin)
            elif event.kind == Frame.ERROR:
                raise FaultError.from_frame(event.fields)
            elif event.kind == Frame.EXIT:
                by = event.fields.number("signal")
                code = 128 + by if by else event.fields.number("code", 125) & 255
                return Answer(code, bytes(output[Frame.STDOUT]), bytes(output[Frame.STDERR]))

    def _feed(self, sock: _socket.socket, number: int, stdin: memoryview) -> memoryview:
        """Send as many bytes as the credit allows. After the last byte, send the end of stdin."""
        while stdin and (size := self._link.allowance(number, Frame.STDIN)):
            send(sock, self._link.data(number, Frame.STDIN, bytes(stdin[:size])))
            stdin = stdin[size:]
            if not stdin:
                send(sock, self._link.data(number, Frame.STDIN, b""))
        return stdin

    def _next(self, sock: _socket.socket) -> Event:
        """Return the next frame for the caller. Answers PING itself. Raises FaultError."""
        while True:
            if not self._events:
                self._events = self._read(sock)
            event = self._events.pop(0)
            if event.kind == Frame.PING:
                send(sock, frame(Frame.PONG, 0, event.payload))
            elif event.kind == Frame.ERROR and not event.channel:
                self.close()
                raise FaultError.from_frame(event.fields)
            else:
                return event

    def _read(self, sock: _socket.socket) -> list[Event]:
        events: list[Event] = []
        while not events:
            try:
                data = sock.recv(MAX_DATA)
            except TimeoutError:
                self.close()
                raise FaultError("silent", f"the host's bridge does not answer within {self._connect_s:g} s") from None
            except OSError:
                data = b""
            if not data:
                self.close()
                raise FaultError("lost", "the connection to the host broke")
            events = receive(self._link, data)
        return events


def _above() -> dict[bytes, bytes]:
    """Return the variable that says which call this program is a command of, so that its calls share that place."""
    word = os.environb.get(b"CLAUDE_BRIDGE_CALL")
    return {b"CLAUDE_BRIDGE_CALL": word} if word else {}
