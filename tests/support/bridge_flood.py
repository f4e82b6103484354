"""Floods that a hostile container may send, and the pings of a client that behaves. Each runs in its own process.

`python -m tests.support.bridge_flood KIND SOCKET WORKSPACE SECONDS` prints "ready" when it begins, and a JSON object at
the end. All data is prepared beforehand, so that a flood costs its sender as little as possible.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bridge.protocol.frames import Event, Frame, ProtocolError, frame, opening
from bridge.protocol.link import CLIENT, Link

STREAM = [b"-p", b"--verbose", b"--input-format", b"stream-json", b"--output-format", b"stream-json"]
KEPT_OPEN = 40
DEEP = b'{"a":' * 900 + b"1" + b"}" * 900
NONSENSE = [
    b'{"type":[]}',
    b'{"type":"control_request","request_id":"1","request":{"subtype":"set_permission_mode","mode":[]}}',
    b'{"type":"control_request","request_id":"1","request":{"subtype":"initialize","sdkMcpServerConfigs":[1]}}',
    b'{"type":"control_request","request_id":"1","request":{"subtype":"mcp_toggle","serverName":[]}}',
    b'{"type":"' + b"x" * 200_000 + b'"}',
]
PINGS = frame(Frame.PING, 0, b"x" * 64) * 400
EMPTY_PINGS = frame(Frame.PING) * 4000


class Client:
    """A connection that greets the server as a real client does, and then sends what it is given."""

    def __init__(self, path: str, workspace: str) -> None:
        found = Path(workspace).stat()
        self.link = Link(CLIENT)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(20)
        self.sock.connect(path)
        place = f"{found.st_dev}:{found.st_ino}"
        self.sock.sendall(self.link.hello(protocol=1, client="flood", name="flood", workspace=place))
        self._seen: list[Event] = []
        self.wait(lambda event: event.kind == Frame.HELLO)

    def wait(self, wanted: Callable[[Event], bool]) -> Event:
        """Read until a wanted frame comes. Raises ConnectionError when the server closes."""
        while True:
            while self._seen:
                event = self._seen.pop(0)
                if wanted(event):
                    return event
            data = self.sock.recv(1 << 16)
            if not data:
                raise ConnectionError
            self._seen = self.link.receive(data)

    def call(self, argv: list[bytes], files: tuple[bytes, ...] = (), stdin: str = "pipe") -> int:
        """Begin a call. Returns the channel's number."""
        number, data = self.link.open(
            argv, {}, [("file", file) for file in files], cwd=b"/workspace", stdin=stdin, stdout="other", hands="1"
        )
        self.sock.sendall(data)
        return number

    def started(self, number: int) -> bool:
        """Wait until a call has started or ended. Returns whether it has started."""
        ends = (Frame.ERROR, Frame.EXIT)
        event = self.wait(
            lambda event: (
                event.channel == number
                and (event.kind in ends or (event.kind == Frame.STATE and event.fields.get("state") == b"started"))
            )
        )
        return event.kind == Frame.STATE

    def feed(self, number: int, data: bytes) -> None:
        """Send a call its stdin, within the credit that comes."""
        at = 0
        while at < len(data) and number in self.link.channels:
            size = min(self.link.allowance(number, Frame.STDIN), len(data) - at)
            if size:
                self.sock.sendall(self.link.data(number, Frame.STDIN, data[at : at + size]))
                at += size
            else:
                self.wait(lambda event: event.kind in (Frame.CREDIT, Frame.ERROR, Frame.EXIT))


Flood = Callable[[Callable[[], Client], float], Iterator[int]]
"""Sends until the monotonic clock reaches the given time; yields how many requests were sent."""


def pings_unread(connect: Callable[[], Client], end: float) -> Iterator[int]:
    yield from _written([connect() for _ in range(KEPT_OPEN)], PINGS, end, read=False)


def pings_empty(connect: Callable[[], Client], end: float) -> Iterator[int]:
    yield from _written([connect() for _ in range(KEPT_OPEN)], EMPTY_PINGS, end, read=True)


def _written(clients: list[Client], data: bytes, end: float, read: bool) -> Iterator[int]:
    socks = {client.sock: 0 for client in clients}
    for sock in socks:
        sock.setblocking(False)
    while time.monotonic() < end:
        readable, writable, _ = select.select(socks if read else [], socks, [], 0.2)
        for sock in readable:
            sock.recv(1 << 18)
        for sock in writable:
            socks[sock] = (socks[sock] + sock.send(data[socks[sock] :])) % len(data)
            yield 1


def signals(connect: Callable[[], Client], end: float) -> Iterator[int]:
    client = connect()
    number = client.call([b"-p", b"ready;wait"])
    if not client.started(number):
        raise ConnectionError
    data = b"".join(
        frame(kind, number, payload)
        for kind, payload in ((Frame.SIGNAL, b"\x12"), (Frame.RESIZE, b"\0\1\0\1"), (Frame.CREDIT, b"\x21\0\0\0\0"))
    )
    yield from _written([client], data * 1000, end, read=True)


def objects(connect: Callable[[], Client], end: float) -> Iterator[int]:
    line = b'{"type":"user","message":[' + b'{"":{}},' * (13 * 1024 * 128) + b"1]}\n"
    yield from _fed(connect, [line], end)


def nonsense(connect: Callable[[], Client], end: float) -> Iterator[int]:
    yield from _fed(connect, [line + b"\n" for line in NONSENSE], end)


def _fed(connect: Callable[[], Client], lines: list[bytes], end: float) -> Iterator[int]:
    while time.monotonic() < end:
        client = connect()
        for line in lines:
            number = client.call(STREAM)
            if client.started(number):
                client.feed(number, line)
                yield 1
        client.sock.close()


def refused(connect: Callable[[], Client], end: float) -> Iterator[int]:
    yield from _asked(connect, [b"-p", b"--add-dir", b"/" + b"\xff" * 1_000_000], (), end)


def refused_small(connect: Callable[[], Client], end: float) -> Iterator[int]:
    yield from _asked(connect, [b"-p", b"--plugin-dir", b"x"], (), end)


def deep(connect: Callable[[], Client], end: float) -> Iterator[int]:
    settings = b'.claude/settings.json\n{"hooks":{"Stop":[{"hooks":5}]},"disabledMcpjsonServers":5}'
    servers = b'.mcp.json\n{"mcpServers":{' + b",".join(b'"s%d":%s' % (n, DEEP) for n in range(40)) + b"}}"
    yield from _asked(connect, [b"-p", b"--add-dir", b"/nowhere"], (settings, servers), end)


def _asked(connect: Callable[[], Client], argv: list[bytes], files: tuple[bytes, ...], end: float) -> Iterator[int]:
    client, number = connect(), 0
    sent = [("file", file) for file in files]
    while time.monotonic() < end:
        number += 1
        client.sock.sendall(opening(Frame.CALL, number, argv, {}, sent, cwd=b"/workspace", stdin="none", hands="1"))
        _drain(client.sock)
        yield 1


def _drain(sock: socket.socket) -> None:
    while select.select([sock], [], [], 0)[0] and sock.recv(1 << 18):
        pass


def visits(connect: Callable[[], Client], end: float) -> Iterator[int]:
    while time.monotonic() < end:
        for _ in range(20):
            connect().sock.close()
            yield 1


FLOODS: dict[str, Flood] = {
    flood.__name__: flood
    for flood in (pings_unread, pings_empty, signals, objects, nonsense, refused, refused_small, deep, visits)
}


def flood(kind: str, path: str, workspace: str, seconds: float) -> dict[str, int]:
    """Send one kind of flood, and reconnect when the server hangs up."""
    os.nice(15)  # the flood must not compete for the processor: that is not what is tested
    end, sent, broken = time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        try:
            for count in FLOODS[kind](lambda: Client(path, workspace), end):
                sent += count
        except (OSError, ProtocolError):
            broken += 1
    return {"sent": sent, "broken": broken}


def waited_ms() -> float:
    """Return for how many ms this process and the server were ready to run while the machine ran other processes."""
    return sum(_scheduled_ms(pid)[1] for pid in ("self", os.environ["SERVER"]))


def _scheduled_ms(pid: str) -> tuple[float, float]:
    """Return for how many ms a process ran, and for how many ms it was ready and had to wait."""
    ran, waited, _ = Path(f"/proc/{pid}/schedstat").read_text().split()
    return int(ran) / 1e6, int(waited) / 1e6


def victim(path: str, workspace: str, seconds: float) -> dict[str, Any]:
    """Ping a hundred times a second, and make a call now and then. Returns the milliseconds of both.

    `own` holds the pings without the time in which the machine ran neither side.
    """
    client, calling = Client(path, workspace), Client(path, workspace)
    begun, next_call = time.monotonic(), 1.0
    pings, own, calls = [], [], []
    ran, waited = _scheduled_ms(os.environ["SERVER"])
    while (now := time.monotonic() - begun) < seconds:
        before, sent = waited_ms(), time.monotonic()
        client.sock.sendall(frame(Frame.PING, 0, b"x"))
        client.wait(lambda event: event.kind == Frame.PONG)
        pings.append((time.monotonic() - sent) * 1000)
        own.append(pings[-1] - (waited_ms() - before))
        if now > next_call:
            next_call += 1.5
            sent = time.monotonic()
            number = calling.call([b"-p", b"out x"], stdin="none")
            assert calling.started(number)
            calls.append((time.monotonic() - sent) * 1000)
            calling.wait(lambda event, number=number: event.channel == number and event.kind == Frame.EXIT)  # type: ignore[misc]
        select.select([], [], [], 0.01)
    ran_then, waited_then = _scheduled_ms(os.environ["SERVER"])
    kept_waiting = (waited_then - waited) / (waited_then - waited + ran_then - ran)
    return {"pings": sorted(pings), "own": sorted(own), "calls": sorted(calls), "kept_waiting": kept_waiting}


def main() -> None:
    """Run one process of the test."""
    kind, path, workspace, seconds = sys.argv[1:]
    act = victim if kind == "victim" else lambda *words: flood(kind, *words)
    print("ready", flush=True)
    print(json.dumps(act(path, workspace, float(seconds))), flush=True)


if __name__ == "__main__":
    main()
