"""Calls and executions, with a connection and a process that the test simulates."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from bridge.policy import Scope
from bridge.protocol.frames import Event, Fields, Frame
from bridge.protocol.link import CLIENT, SERVER, Link
from bridge.server.call import Call, CallState
from bridge.server.channel import Channel, Handler
from bridge.server.copies import Copies
from bridge.server.dialogue import SessionEvent
from bridge.server.host.grants import Grant
from bridge.server.host.log import ServerLog
from bridge.server.host.places import Place
from bridge.server.launch import LaunchRequest, Listener
from bridge.server.paths import PathTranslator
from bridge.server.policy_pool import PolicyPool
from bridge.server.sandbox.process import CliProcess
from bridge.server.scheduler import Scheduler
from bridge.server.session import CallContext
from bridge.server.tool_calls import Execution, ToolCalls
from tests.support.waiting import next_turn, until


class Connection:
    """A connection whose client reads nothing. Each send finds a full buffer, and so calls kick() at once."""

    def __init__(self) -> None:
        self.link = Link(SERVER)
        self.client: dict[str, Any] = {"grant": "g"}
        self.is_writable = False
        self.handlers: list[Handler] = []
        self.sent = bytearray()

    def send(self, data: bytes) -> None:
        self.sent += data
        for handler in self.handlers:
            handler.kick()

    def open(
        self,
        command: bytes,
        env: Mapping[bytes, bytes],
        handler: Callable[[Channel], Handler],
        **fields: bytes | str | int | None,
    ) -> None:
        number, opening = self.link.open([command], env, (), **fields)
        self.handlers.append(handler(Channel(self, number)))
        self.send(opening)

    def defer(self, work: Coroutine[Any, Any, None]) -> None:
        work.close()

    def widen(self, number: int) -> None:
        pass

    def release(self, number: int) -> None:
        pass


class Process:
    """A process that has written output which nobody has read, and that does not end."""

    pid = 0
    stdin = None
    never_ran = False

    def __init__(self) -> None:
        self.stdout, self.ours = os.pipe()
        self.stderr = os.open(os.devnull, os.O_RDONLY)
        os.write(self.ours, b"output")
        self.asked_to_end = 0

    def terminate(self, grace: float) -> None:
        self.asked_to_end += 1


class Tools:
    def close(self) -> None:
        pass

    end = close

    def runs_commands(self, servers: int) -> bool:
        return bool(servers)


class Played:
    """A running call, and what it reported."""

    def __init__(self, *argv: str, on: str = "none") -> None:
        self.connection, self.process, self.over = Connection(), Process(), list[Call]()
        opening = Link(CLIENT).open([*map(os.fsencode, argv), b"hi"], {}, stdin=on, stdout=on, hands="1")[1]
        self.connection.link.greeted = True
        (event,) = self.connection.link.receive(b"\x89magents-bridge\n" + opening)
        place = Place("/nowhere", 0, 0, 0)
        context = CallContext(
            Grant("g", place, (0, 0)), Scope(), PolicyPool(Path("/nowhere")), Scheduler(), ServerLog(),
            lambda *_, **__: None, self.launch, lambda *_: False,
        )  # fmt: skip
        self.call = Call(
            Channel(self.connection, event.channel),
            event.fields,
            context,
            self.over.append,
            lambda _: None,
            lambda _: None,
        )
        self.connection.handlers.append(self.call)
        assert self.call.judge(), self.connection.sent
        self.call.wait(60)
        self.call.start()

    def launch(self, request: LaunchRequest, channel: Channel, listener: Listener) -> tuple[CliProcess, ToolCalls]:
        assert (request.plan.prompt, channel.is_open) == ("hi", True)
        self.listener = listener
        return cast("CliProcess", self.process), cast("ToolCalls", Tools())


def play(act: Callable[[Played], None]) -> Played:
    async def run() -> Played:
        played = Played("-p")
        assert played.call.state is CallState.RUNNING
        act(played)
        return played

    return asyncio.run(run())


def is_in(call: Call, state: CallState) -> bool:
    return call.state is state


def test_signal_in_the_moment_of_falling_asleep_ends_the_call() -> None:
    """Its hooks have told that they are on, so the ends of its answers are known."""

    async def run() -> None:
        played = Played(on="tty")
        call, number = played.call, 1
        played.listener.on_event(SessionEvent("SessionStart", "", "startup"))
        assert call.gate.is_told_of_ends
        call.activity.come_up()
        call.rest(1e-9)
        assert b"drowsy" in played.connection.sent
        for one, state in ((signal.SIGTSTP, CallState.DOZING), (signal.SIGTERM, CallState.ENDING)):
            call.on(Event(Frame.SIGNAL, number, bytes([one])))
            call.settle()
            await until(functools.partial(is_in, call, state), 20, state.value)
        assert b"signal=15" in played.connection.sent
        played.listener.on_exit(0)
        assert played.over == [call]

    asyncio.run(run())


def exited(played: Played) -> None:
    played.listener.on_exit(0)
    assert played.over == []  # its output is not delivered yet
    assert played.call.state is CallState.RUNNING


def test_call_that_fails_after_its_process_is_over_once() -> None:
    """Sending the error kicks the call, and this ends the call within the send."""

    def act(played: Played) -> None:
        exited(played)
        played.call.fail("revoked", "it was revoked")
        played.call.kick()
        played.call.cancel()

    played = play(act)
    assert (played.over, played.call.state) == ([played.call], CallState.OVER)


@pytest.mark.parametrize("kind", [Frame.CANCEL, None])
def test_call_whose_process_has_ended_is_over_when_its_client_leaves(kind: int | None) -> None:
    def act(played: Played) -> None:
        exited(played)
        if kind is None:
            played.call.cancel()
        else:
            played.call.on(Event(kind))

    played = play(act)
    assert played.over == [played.call]


def test_call_is_over_when_its_process_is_gone_and_not_before() -> None:
    def act(played: Played) -> None:
        played.call.fail("revoked", "it was revoked")
        played.call.cancel()
        assert (played.call.state, played.over) == (CallState.ENDING, [])
        played.listener.on_exit(-9)

    played = play(act)
    assert (played.over, played.process.asked_to_end) == ([played.call], 1)


async def read_all(descriptor: int) -> int:
    """Read a pipe to its end. Returns the number of bytes."""
    os.set_blocking(descriptor, False)
    taken = 0
    while True:
        try:
            data = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            await next_turn()
            continue
        if not data:
            return taken
        taken += len(data)


def test_result_of_an_execution_follows_the_last_of_its_output() -> None:
    """There is no polling: the result is sent when the pipe has taken all output."""

    async def run() -> tuple[bytes, int]:
        connection, (ours, theirs) = Connection(), socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.is_writable = True
        reading, writing = os.pipe()
        output = b"x" * 100_000  # more than the pipe holds
        over: list[socket.socket] = []
        files = [os.open(os.devnull, os.O_RDONLY), writing, os.open(os.devnull, os.O_WRONLY)]
        number, _ = connection.link.open([b"true"], {})
        channel = Channel(connection, number)
        copies = Copies(channel, b"", b"/claude")
        execution = Execution(channel, theirs, files, PathTranslator(None), copies, lambda _, sock: over.append(sock))
        execution.on(Event(Frame.STDOUT, number, output))
        execution.on(Event(Frame.EXIT, number, fields=Fields([("code", b"3"), ("cwd", b"/workspace")])))
        assert not over
        taken = await read_all(reading)
        ours.setblocking(False)
        result = await asyncio.get_running_loop().sock_recv(ours, 64)
        asyncio.get_running_loop().remove_reader(theirs.fileno())
        for sock in (ours, *over):
            sock.close()
        os.close(reading)
        return result, taken

    assert asyncio.run(asyncio.wait_for(run(), 20)) == (b"exit 3\0/workspace\0", 100_000)
