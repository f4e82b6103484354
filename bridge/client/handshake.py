"""The handshake between client and server: connect, hello, and the errors that can come instead."""

from __future__ import annotations

import _socket
import os

from bridge import __version__
from bridge.protocol.errors import FaultError, not_connected
from bridge.protocol.frames import VERSION, Event, Frame, ProtocolError
from bridge.protocol.link import Link

# ruff: noqa: PTH116 - pathlib costs the start of the client 5 ms

CONNECT_LIMIT_S = 5
"""Seconds for the connection and the hello. A running server answers within a millisecond."""

CLI_ASKED_LIMIT_S = 30
"""Seconds for a hello just after the host's CLI was updated: the server first runs the CLI to get its version."""


def connect(path: str, limit_s: float = CONNECT_LIMIT_S) -> _socket.socket:
    """Return a socket that is connected to the bridge. `limit_s` is in seconds. Raises FaultError."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    sock.settimeout(limit_s)
    try:
        sock.connect(path)
    except TimeoutError as error:
        sock.close()
        raise FaultError("silent", f"the host's bridge does not accept connections at {path}") from error
    except OSError as error:
        sock.close()
        raise not_connected(error, path) from error
    return sock


def hello(link: Link, want: bytes = b"") -> bytes:
    """Return the client's hello: who it is, and which directory its workspace is."""
    try:
        found = os.stat("/workspace")
        workspace = f"{found.st_dev}:{found.st_ino}"
    except OSError:
        workspace = ""
    name = os.environ.get("AGENT_NAME") or os.uname().nodename
    return link.hello(protocol=VERSION, client=__version__, name=name, workspace=workspace, want=want or None)


def send(sock: _socket.socket, data: bytes) -> None:
    """Send all bytes. Errors are ignored: if the peer has closed the connection, the next read finds the reason."""
    try:  # contextlib would slow down the client's start
        sock.sendall(data)
    except OSError:
        return


def await_hello(sock: _socket.socket, link: Link, limit_s: float = CLI_ASKED_LIMIT_S) -> list[Event]:
    """Return the server's hello, and the events that came with it.

    `limit_s` is in seconds. Raises FaultError: no answer in time, connection closed, an ERROR, or another protocol
    version.
    """
    events: list[Event] = []
    sock.settimeout(limit_s)
    while not events:
        try:
            data = sock.recv(65536)
        except TimeoutError as error:
            raise FaultError("silent", f"the host's bridge does not answer within {limit_s:g} s") from error
        except OSError:
            data = b""
        if not data:
            raise FaultError("lost", "the host's bridge closed the connection without a word")
        events = receive(link, data)
    for event in events:
        if event.kind == Frame.ERROR and event.channel == 0:
            raise FaultError.from_frame(event.fields)
    version = events[0].fields.number("protocol")
    if version != VERSION:
        text = f"the host's bridge speaks protocol {version} and this container's {VERSION}"
        raise FaultError("version", text)
    sock.settimeout(None)
    return events


def receive(link: Link, data: bytes) -> list[Event]:
    """Return the events in received bytes. Raises FaultError if the bytes break the protocol."""
    try:
        return link.receive(data)
    except ProtocolError as error:
        kind = "protocol" if link.greeted else "foreign"
        raise FaultError(kind, f"what answers is not the bridge that this client knows: {error}") from error
