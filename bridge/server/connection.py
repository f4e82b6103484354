"""One connection of a container: who it is, what it says, and the calls on it."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridge import __version__
from bridge.policy.terms import printable
from bridge.protocol.frames import (
    MAX_CALL,
    MAX_DATA,
    VERSION,
    WINDOW,
    Event,
    Fields,
    Frame,
    ProtocolError,
    frame,
    record,
)
from bridge.protocol.link import SERVER, Link
from bridge.server.call import Call
from bridge.server.guess_limit import Guesses
from bridge.server.host.grants import Grant
from bridge.server.tool_calls import Run

if TYPE_CHECKING:
    from bridge.server.server import Service

HELLO_LIMIT_S = 10.0
"""From the connection to its hello: a client sends it at once, and a machine may be busy."""

HIGH_WATER = 2 * MAX_DATA
"""Bytes for a client that does not read, beyond which its calls' output is left in their pipes."""

HIGH_WATER_ALONE = 64 * 1024
"""The same for a connection without a running call: a grant may have 128 of them."""

MUCH = 16 * 1024
"""Bytes that have come and were not looked at, with which a connection waits for its grant's turn unread."""

CLOSED_WITHIN_S = 1.0
"""A client gets so long to read the last words. What it has not read by then it never will."""

_READ = memoryview(bytearray(64 * 1024))
"""Where bytes arrive, of every connection: each takes them out before the next is read."""


class Peer(asyncio.BufferedProtocol):
    """A client's connection, on the socket of one grant."""

    def __init__(self, service: Service, grant: Grant) -> None:
        self.service = service
        self.grant = grant
        self.scope = service.scope(grant)
        self.link = Link(SERVER)
        self.writable = True
        self.calls: dict[int, Call] = {}
        self.runs: dict[int, Run] = {}
        """Commands in the container, by their channel."""
        self.who: dict[str, Any] = {"grant": grant.name}
        self.lane = service.lanes[grant.name]
        self._more = False
        """Frames wait for the next turn of the loop."""
        self._busy = False
        """Frames wait for the answer to one before them."""
        self._said: bytearray | None = None
        """What is said in this turn, to be sent at once."""
        self._touched: dict[Call | Run, None] = {}
        self._may_call = False
        self._has_workspace = False
        self._quiet_since = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Someone has opened the grant's socket."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER_ALONE)
        self.lane.connections += 1
        self.who |= _credentials(transport.get_extra_info("socket"))
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(HELLO_LIMIT_S, self._check_hello)
        self.service.peers.add(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        return _READ

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come: they are looked at when it is this grant's turn."""
        self.link.push(_READ[:nbytes])
        if self.link.pending > MUCH:
            self._transport.pause_reading()  # until `look`
        self.service.lanes.add_first(self.grant.name, self)

    def go_on(self) -> None:
        """Look at what has come, in the next turn of the loop."""
        self.service.lanes.add(self.grant.name, self)

    def work(self, until: float) -> bool:
        """Handle frames until then, whatever they are; whether there are more."""
        self._more, self._said = False, bytearray()
        try:
            for event in self.link.arrived() if self._goes_on else ():
                if event is not None:
                    self._on(event)
                if not self._goes_on:
                    break
                if time.monotonic() >= until:
                    self._more = True
                    break
            for one in self._touched:
                one.settle()
        except ProtocolError as error:
            self.refuse("protocol", f"{error}; the client and the server of the bridge do not fit together")
        except Exception as error:
            self.service.sayer.fault("a frame could not be handled", error)
            self.refuse("protocol", "the server of the bridge could not handle what was sent; please report it")
        self._touched.clear()
        self._flush()
        self.look()
        return self._more

    @property
    def _goes_on(self) -> bool:
        """Whether the next frame may be handled: not while answers wait unread, or one is being thought about."""
        return self.writable and not self._busy and not self._transport.is_closing()

    def look(self) -> None:
        """Read, unless enough has come already."""
        waits = self._more or self._busy or not self.writable
        if waits or not self.lane.has_place(self, self.link.pending):
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone: its calls end."""
        self.writable = False
        self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        for call in list(self.calls.values()):
            call.cancel()
        self.service.peers.discard(self)
        self.lane.connections -= 1
        self.lane.leave(self)
        self.service.lanes.drop(self.grant.name, self)

    def pause_writing(self) -> None:
        """The client does not read."""
        self.writable = False
        self._kick()
        self.look()

    def resume_writing(self) -> None:
        """The client reads again."""
        self.writable = True
        self._kick()
        self.go_on()

    def _kick(self) -> None:
        for call in list(self.calls.values()):
            call.kick()
        for run in list(self.runs.values()):
            run.kick()

    def send(self, data: bytes) -> None:
        """Bytes for the client; nobody minds when it has gone."""
        if self._said is not None:
            self._said += data
            if len(self._said) > HIGH_WATER_ALONE:
                self._flush()
                self._said = bytearray()
        elif not self._transport.is_closing():
            self._transport.write(data)

    def _flush(self) -> None:
        said, self._said = self._said, None
        if said and not self._transport.is_closing():
            self._transport.write(said)

    def refuse(self, kind: str, sentence: str) -> None:
        """End the connection, and say why."""
        hello = b"" if self.link.greeted and self._may_call else self._greeting(Fields(()))
        self.send(hello + record(Frame.ERROR, 0, kind=kind, text=printable(sentence), code=125))
        self.close()

    # The protocol's side

    def _on(self, event: Event) -> None:
        self._quiet_since = time.monotonic()
        if event.kind == Frame.HELLO:
            self._on_hello(event.fields)
        elif event.kind == Frame.PING:
            self.send(frame(Frame.PONG, 0, event.payload))
        elif event.kind == Frame.CALL:
            self._on_call(event)
        elif one := self.runs.get(event.channel) or self.calls.get(event.channel):
            one.on(event)
            self._touched[one] = None

    def _on_hello(self, fields: Fields) -> None:
        self._timer.cancel()
        if self.service.cli.is_current and not self._guesses.wait():
            self._greet(fields)
            return
        self._think(self._greet_later(fields))

    def _think(self, thought: Coroutine[Any, Any, None]) -> None:
        """Handle no further frame until the answer to this one is known."""
        self._busy = True
        task = asyncio.get_running_loop().create_task(thought)
        self._tasks.add(task)
        task.add_done_callback(self._thought)

    def _thought(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._busy = False
        if not task.cancelled():
            task.result()
            self.go_on()

    async def _greet_later(self, fields: Fields) -> None:
        """Ask the host's CLI for its version first, which has changed; let those wait whose grant guesses."""
        await self.service.cli.ask()
        while wait := self._guesses.wait():  # noqa: ASYNC110 - others of the grant move the moment
            await asyncio.sleep(wait)
        self._greet(fields)

    def _greet(self, fields: Fields) -> None:
        self.who["client"] = printable(fields.text("name"), 64)
        if fields.number("protocol") != VERSION:
            theirs = fields.text("protocol", "none")[:20]
            text = f"the client speaks protocol {theirs} and the server {VERSION}; bring both to one version"
            self.refuse("version", text)
            return
        if self._is_elsewhere(fields):
            self._guesses.wrong()
            text = f"this socket belongs to another workspace; grant {self.grant.name} mounts its own"
            if what := self.grant.changed:
                text = f"on the host, {what}"
            self.service.audit.write("refused", **self.who, why=text)
            self.refuse("changed" if what else "workspace", text)
            return
        self._may_call = True
        self._has_workspace = bool(fields.get("workspace"))
        self.send(self._greeting(fields))

    def _greeting(self, fields: Fields) -> bytes:
        cli = self.service.cli
        return self.link.hello(
            protocol=VERSION,
            server=__version__,
            grant=self.grant.name,
            cli=cli.version,
            problem=None if cli.version else cli.told,
            help=cli.help[:48_000] if fields.get("want") == b"help" else None,
            max_call=MAX_CALL,
            window=WINDOW,
            idle=self.service.config.limits.idle,
        )

    def _is_elsewhere(self, fields: Fields) -> bool:
        """Whether the client's /workspace is another directory than the one that was granted."""
        if not fields.get("workspace"):
            return False  # it may greet; `_on_call` lets it do no more
        return fields.text("workspace") != "{}:{}".format(*self.grant.place.identity)

    @property
    def _guesses(self) -> Guesses:
        return self.service.guesses[self.grant.name]

    def _on_call(self, event: Event) -> None:
        if not self._may_call:
            return
        call = Call(self, event.channel, event.fields)
        self.calls[event.channel] = call
        if self.service.stopping:
            call.fail("stopping", "the bridge is stopping, and this call was not started")
        elif not self._has_workspace:
            call.fail("workspace", f"this container has no /workspace; grant {self.grant.name} belongs to one")
        elif problem := self.service.disk.problem(self.grant.name):
            call.fail("full", problem)
        elif not call.is_small:
            self._think(self._judge_elsewhere(call))
            return
        elif call.judge():
            self.service.enter(call)
        self._drop_judged(call)

    async def _judge_elsewhere(self, call: Call) -> None:
        """A call that takes too long to judge on the loop."""
        if await call.judge_elsewhere() and call.number in self.link.channels:
            self.service.enter(call)
        self._drop_judged(call)

    def _drop_judged(self, call: Call) -> None:
        if call.state == "judged":
            self.calls.pop(call.number, None)

    # Time

    def _check_hello(self) -> None:
        if not self.link.greeted:
            self.refuse("protocol", "no hello came; the client of the bridge is claude-code")

    def reap(self, idle: float) -> None:
        """Close the connection when nothing has been said on it for so long."""
        if not self.calls and time.monotonic() - self._quiet_since > idle:
            self.send(record(Frame.GOAWAY, 0, reason="idle"))
            self.close()

    def leave(self) -> None:
        """Let no further call begin; close when none runs."""
        self.send(record(Frame.GOAWAY, 0, reason="stopping"))
        if not self.calls:
            self.close()

    def close(self) -> None:
        """Close: what was said last is sent, as long as the client reads it."""
        self._flush()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(CLOSED_WITHIN_S, self._transport.abort)

    def carry(self, running: bool) -> None:
        """Hold more for the client while a call of it runs."""
        self._transport.set_write_buffer_limits(high=HIGH_WATER if running else HIGH_WATER_ALONE)


def _credentials(sock: socket.socket) -> dict[str, Any]:
    """Who the kernel says it is: for the log, not for decisions (65534 under user namespaces, 0 under
    gVisor)."""
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return {"uid": uid, "pid": pid, "container": _container(pid)}


def _container(pid: int) -> str:
    """The container's id in the caller's control group, shortened as Docker does; nothing when there is
    none."""
    try:
        text = Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return ""
    names = [line.rpartition("/")[2].removeprefix("docker-").removesuffix(".scope") for line in text.split("\n")]
    return next((name[:12] for name in names if len(name) == 64 and name.isalnum()), "")
