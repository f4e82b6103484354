"""One client's connection: transport, link, hello, and a handler for each channel.

The connection knows frames and channels, but not calls: `opened` makes a handler for each channel that the client
opens.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from bridge.policy.terms import printable
from bridge.protocol.frames import MAX_DATA, OF_SERVER, Event, Fields, Frame, ProtocolError, frame, record
from bridge.protocol.link import SERVER, Link
from bridge.server.channel import Channel, Handler
from bridge.server.hello import Hello
from bridge.server.host.log import ServerLog
from bridge.server.scheduler import Scheduler

HELLO_LIMIT_S = 10.0
"""Seconds from the connection to its hello. Clients send it at once, but the machine may be busy."""

HIGH_WATER = 2 * MAX_DATA
"""Bytes buffered for a client that does not read. Beyond that, the output of its calls stays in their pipes."""

HIGH_WATER_ALONE = 64 * 1024
"""Bytes buffered for a connection without a running call. A grant may have 128 of them."""

MUCH = 16 * 1024
"""Received bytes that are not handled yet. With more, the connection is not read until its grant's turn."""

CLOSED_WITHIN_S = 1.0
"""Seconds that a client has to read the last bytes before its connection is closed."""

_READ = memoryview(bytearray(64 * 1024))
"""Receive buffer of all connections. Each one copies its bytes out before the next one is read."""


class ClientConnection(asyncio.BufferedProtocol):
    """A client's connection, on the socket of one grant.

    It is in `connections` while it is open. `opened` gets each channel that the client opens, and the fields of its
    CALL.
    """

    def __init__(
        self,
        hello: Hello,
        scheduler: Scheduler,
        log: ServerLog,
        connections: set[ClientConnection],
        opened: Callable[[Channel, Fields], Handler],
    ) -> None:
        self.grant = hello.grant.name
        self.link = Link(SERVER)
        self.is_writable = True
        self.client: dict[str, Any] = {"grant": self.grant}
        """Facts about the client for the audit log."""
        self._hello = hello
        self._scheduler = scheduler
        self._schedule = scheduler[self.grant]
        self._log = log
        self._connections = connections
        self._opened = opened
        self._handlers: dict[int, Handler] = {}
        """Handlers by channel number."""
        self._wide: set[int] = set()
        """Channels that need a larger send buffer."""
        self._touched: dict[Handler, None] = {}
        """Handlers that got a frame in this turn of the loop."""
        self._has_more = False
        """Whether frames wait for the next turn of the loop."""
        self._is_deferred = False
        """Whether frames wait for work that an earlier frame began."""
        self._unsent: bytearray | None = None
        """Collects what is sent in this turn of the loop."""
        self._is_admitted = False
        self._has_workspace = False
        self._is_leaving = False
        self._quiet_since = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()

    # The transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Handle a new connection to the grant's socket."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER_ALONE)
        self._schedule.connections += 1
        self.client |= _credentials(transport.get_extra_info("socket"))
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(HELLO_LIMIT_S, self._check_hello)
        self._connections.add(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer for the next bytes."""
        return _READ

    def buffer_updated(self, nbytes: int) -> None:
        """Store received bytes until it is this grant's turn."""
        self.link.push(_READ[:nbytes])
        if self.link.pending > MUCH:
            self._transport.pause_reading()  # until `look`
        self._scheduler.add_first(self.grant, self)

    def _go_on(self) -> None:
        """Handle stored frames in the next turn of the loop."""
        self._scheduler.add(self.grant, self)

    def work(self, until: float) -> bool:
        """Handle frames until `until` (a value of `time.monotonic`). Returns whether there are more."""
        self._has_more, self._unsent = False, bytearray()
        try:
            for event in self.link.arrived() if self._may_handle else ():
                if event is not None:
                    self._on(event)
                if not self._may_handle:
                    break
                if time.monotonic() >= until:
                    self._has_more = True
                    break
            for handler in self._touched:
                handler.settle()
        except ProtocolError as error:
            self.refuse("protocol", f"{error}; the client and the server of the bridge do not fit together")
        except Exception as error:
            self._log.fault("a frame could not be handled", error)
            self.refuse("protocol", "the server of the bridge could not handle what was sent; please report it")
        self._touched.clear()
        self._flush()
        self.look()
        return self._has_more

    @property
    def _may_handle(self) -> bool:
        """Whether the next frame may be handled now."""
        return self.is_writable and not self._is_deferred and not self._transport.is_closing()

    def look(self) -> None:
        """Read from the socket, unless enough bytes are stored already."""
        waits = self._has_more or self._is_deferred or not self.is_writable
        if waits or not self._schedule.has_place(self, self.link.pending):
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the end of the connection: its calls end."""
        self.is_writable = False
        self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        for number, handler in list(self._handlers.items()):
            if number < OF_SERVER:  # a call ends its own executions
                handler.cancel()
        self._connections.discard(self)
        self._schedule.connections -= 1
        self._schedule.leave(self)
        self._scheduler.drop(self.grant, self)

    def pause_writing(self) -> None:
        """The send buffer is full: the client does not read fast enough."""
        self.is_writable = False
        self._kick()
        self.look()

    def resume_writing(self) -> None:
        """The send buffer has space again."""
        self.is_writable = True
        self._kick()
        self._go_on()

    def _kick(self) -> None:
        for handler in list(self._handlers.values()):
            handler.kick()

    # For the channels

    def send(self, data: bytes) -> None:
        """Send frames. Ignored if the client is gone."""
        if self._unsent is not None:
            self._unsent += data
            if len(self._unsent) > HIGH_WATER_ALONE:
                self._flush()
                self._unsent = bytearray()
        elif data and not self._transport.is_closing():
            self._transport.write(data)

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, None
        if unsent and not self._transport.is_closing():
            self._transport.write(unsent)

    def open(
        self,
        command: bytes,
        env: Mapping[bytes, bytes],
        handler: Callable[[Channel], Handler],
        **fields: bytes | str | int | None,
    ) -> None:
        """Open a channel for a command of one of the client's calls. Raises ProtocolError."""
        number, opening = self.link.open([command], env, (), **fields)
        self._handlers[number] = handler(Channel(self, number))
        self.send(opening)

    def defer(self, work: Coroutine[Any, Any, None]) -> None:
        """Handle no further frame until the work is done."""
        self._is_deferred = True
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._resume)

    def _resume(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._is_deferred = False
        if not task.cancelled():
            task.result()
            self._go_on()

    def widen(self, number: int) -> None:
        """Use a larger send buffer until the channel is released."""
        self._wide.add(number)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)

    def release(self, number: int) -> None:
        """Forget the handler of a channel."""
        self._handlers.pop(number, None)
        if number in self._wide:
            self._wide.discard(number)
            if not self._wide:
                self._transport.set_write_buffer_limits(high=HIGH_WATER_ALONE)
        if self._is_leaving and not self._has_calls:
            self.close()

    @property
    def _has_calls(self) -> bool:
        """Whether a channel that the client opened has a handler."""
        return any(number < OF_SERVER for number in self._handlers)

    # The protocol

    def _on(self, event: Event) -> None:
        self._quiet_since = time.monotonic()
        if event.kind == Frame.HELLO:
            self._on_hello(event.fields)
        elif event.kind == Frame.PING:
            self.send(frame(Frame.PONG, 0, event.payload))
        elif event.kind == Frame.CALL:
            self._on_call(event)
        elif handler := self._handlers.get(event.channel):
            handler.on(event)
            self._touched[handler] = None

    def _on_hello(self, fields: Fields) -> None:
        self._timer.cancel()
        if self._hello.is_ready:
            self._greet(fields)
        else:
            self.defer(self._greet_later(fields))

    async def _greet_later(self, fields: Fields) -> None:
        await self._hello.prepare()
        self._greet(fields)

    def _greet(self, fields: Fields) -> None:
        self.client["client"] = printable(fields.text("name"), 64)
        if refusal := self._hello.refusal(fields, self.client):
            self.refuse(*refusal)
            return
        self._is_admitted = True
        self._has_workspace = bool(fields.get("workspace"))
        self.send(self.link.hello(**self._hello.answer(fields)))

    def _on_call(self, event: Event) -> None:
        if not self._is_admitted:
            return
        channel = Channel(self, event.channel)
        if not self._has_workspace:
            text = f"this container has no /workspace; grant {self.grant} belongs to one"
            channel.end(Frame.ERROR, kind="workspace", text=text, code=125)
            return
        handler = self._opened(channel, event.fields)
        if channel.is_open:  # otherwise the call was refused, and is over
            self._handlers[event.channel] = handler

    def refuse(self, kind: str, sentence: str) -> None:
        """Send an error and close the connection."""
        is_greeted = self.link.greeted and self._is_admitted
        hello = b"" if is_greeted else self.link.hello(**self._hello.answer(Fields(())))
        self.send(hello + record(Frame.ERROR, 0, kind=kind, text=printable(sentence), code=125))
        self.close()

    # Time

    def _check_hello(self) -> None:
        if not self.link.greeted:
            self.refuse("protocol", "no hello came; the client of the bridge is claude-code")

    def reap(self, idle: float) -> None:
        """Close the connection if it has had no call and no frame for `idle` seconds."""
        if not self._has_calls and time.monotonic() - self._quiet_since > idle:
            self.send(record(Frame.GOAWAY, 0, reason="idle"))
            self.close()

    def leave(self) -> None:
        """Send GOAWAY, and close once no call is left."""
        self._is_leaving = True
        self.send(record(Frame.GOAWAY, 0, reason="stopping"))
        if not self._has_calls:
            self.close()

    def close(self) -> None:
        """Close the connection. Bytes already sent are still delivered if the client reads them within
        CLOSED_WITHIN_S."""
        self._flush()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(CLOSED_WITHIN_S, self._transport.abort)


def _credentials(sock: socket.socket) -> dict[str, Any]:
    """Return the client's process as the kernel reports it.

    Only for the log, not for decisions: the user is 65534 with user namespaces, and 0 with gVisor.
    """
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return {"uid": uid, "pid": pid, "container": _container(pid)}


def _container(pid: int) -> str:
    """Return the id of the process's container from its control group, shortened as Docker does; empty if there is
    none."""
    try:
        text = Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return ""
    names = [line.rpartition("/")[2].removeprefix("docker-").removesuffix(".scope") for line in text.split("\n")]
    return next((name[:12] for name in names if len(name) == 64 and name.isalnum()), "")
