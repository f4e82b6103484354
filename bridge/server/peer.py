"""One connection of a container: who it is, what it says, and the calls on it."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridge import __version__
from bridge.link import SERVER, Link
from bridge.protocol import (
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
from bridge.server.call import Call
from bridge.server.guesses import Guesses
from bridge.server.hands import Run
from bridge.server.state import Grant

if TYPE_CHECKING:
    from bridge.server.service import Service

HELLO_LIMIT_S = 10.0
"""From the connection to its hello: a client sends it at once, and a machine may be busy."""

HIGH_WATER = 2 * MAX_DATA
"""Bytes for a client that does not read, beyond which its calls' output is left in their pipes."""


class Peer(asyncio.Protocol):
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
        self._held: list[Event] | None = None
        self._may_call = False
        self._has_workspace = False
        self._quiet_since = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Someone has opened the grant's socket."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self.who |= _credentials(transport.get_extra_info("socket"))
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(HELLO_LIMIT_S, self._check_hello)
        self.service.peers.add(self)

    def data_received(self, data: bytes) -> None:
        """Bytes: whatever they are, they end no other connection."""
        try:
            events = self.link.receive(data)
        except ProtocolError as error:
            self.refuse("protocol", f"{error}; the client and the server of the bridge do not fit together")
            return
        for event in events:
            if self._held is not None:
                self._held.append(event)
            else:
                self._on(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone: its calls end."""
        self.writable = False
        self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        for call in list(self.calls.values()):
            call.cancel()
        self.service.peers.discard(self)

    def pause_writing(self) -> None:
        """The client does not read."""
        self.writable = False
        self._kick()

    def resume_writing(self) -> None:
        """The client reads again."""
        self.writable = True
        self._kick()

    def _kick(self) -> None:
        for call in list(self.calls.values()):
            call.kick()
        for run in list(self.runs.values()):
            run.kick()

    def send(self, data: bytes) -> None:
        """Bytes for the client; nobody minds when it has gone."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def refuse(self, kind: str, sentence: str) -> None:
        """End the connection, and say why."""
        hello = b"" if self.link.greeted and self._may_call else self._greeting(Fields(()))
        self.send(hello + record(Frame.ERROR, 0, kind=kind, text=sentence, code=125))
        self._transport.close()

    # The protocol's side

    def _on(self, event: Event) -> None:
        self._quiet_since = time.monotonic()
        if event.kind == Frame.HELLO:
            self._on_hello(event.fields)
        elif event.kind == Frame.PING:
            self.send(frame(Frame.PONG, 0, event.payload))
        elif event.kind == Frame.CALL:
            self._on_call(event)
        elif event.channel in self.runs:
            self.runs[event.channel].on(event)
        elif event.channel in self.calls:
            self.calls[event.channel].on(event)

    def _on_hello(self, fields: Fields) -> None:
        self._timer.cancel()
        if self.service.cli.is_current and not self._guesses.wait():
            self._greet(fields)
            return
        self._held = []
        self._transport.pause_reading()
        task = asyncio.get_running_loop().create_task(self._greet_later(fields))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _greet_later(self, fields: Fields) -> None:
        """Ask the host's CLI for its version first, which has changed; let those wait whose grant guesses."""
        await self.service.cli.ask()
        while wait := self._guesses.wait():  # noqa: ASYNC110 - others of the grant move the moment
            await asyncio.sleep(wait)
        held, self._held = self._held or [], None
        self._transport.resume_reading()
        self._greet(fields)
        for event in held:
            self._on(event)

    def _greet(self, fields: Fields) -> None:
        self.who["client"] = fields.text("name")[:64]
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
            problem=None if cli.version else cli.problem,
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
        elif call.judge():
            self.service.enter(call)
        if call.state == "judged":
            del self.calls[event.channel]

    # Time

    def _check_hello(self) -> None:
        if not self.link.greeted:
            self.refuse("protocol", "no hello came; the client of the bridge is claude-code")

    def reap(self, idle: float) -> None:
        """Close the connection when nothing has been said on it for so long."""
        if not self.calls and time.monotonic() - self._quiet_since > idle:
            self.send(record(Frame.GOAWAY, 0, reason="idle"))
            self._transport.close()

    def leave(self) -> None:
        """Let no further call begin; close when none runs."""
        self.send(record(Frame.GOAWAY, 0, reason="stopping"))
        if not self.calls:
            self._transport.close()

    def close(self) -> None:
        """Close now, what was said last included."""
        self._transport.close()


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
