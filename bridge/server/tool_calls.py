"""What the CLI of one call hands over: commands for the container, the listener of its network, its Ctrl-Z.

    CLI -- shell prefix (sandbox/shim.py) -- socket of the call -- Hands -- channel of the connection -- client -- bash

The prefix process passes its own standard files along and waits; the server moves the bytes between them and the
channel, within the credit that both ends give. When the prefix process is gone, the command is cancelled; when the
client is gone, so are all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bridge.protocol.frames import Event, Frame, ProtocolError, frame
from bridge.server.host.acceptor import Acceptor
from bridge.server.sandbox.pipes import InputPump, OutputPump
from bridge.server.sandbox.proxy import Proxy, Rules

if TYPE_CHECKING:
    from bridge.server.call import Call

MAX_MESSAGE = 512 * 1024
"""Bytes of a request of the prefix: a command is one argument, of which Linux allows 128 KiB."""

MAX_FILE = 8 * 1024 * 1024
"""Bytes of output that go into a file of the namespace's memory, which has 64 MiB; what comes after is dropped.
Claude is shown some 30 kB of it."""

MAX_SIGNAL = 64
"""The largest number of a signal; a command that says it ended by another has its exit code instead."""

STOPPING = frozenset({signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})
"""Signals that end nothing: who sent itself one of them would wait for ever."""

DROPPED = b"\n[bridge: the rest of the output was dropped]\n"


class Hands:
    """The socket of one call.

    `stopped` is called when the CLI has stopped itself (Ctrl-Z), `failed` with a word of the launcher's when it has not
    started the CLI.
    """

    def __init__(
        self, call: Call, path: Path, rules: Rules | None, stopped: Callable[[], None], failed: Callable[[bytes], None]
    ) -> None:
        """Listen at `path`; OSError."""
        self._call = call
        self._rules = rules
        self._stopped = stopped
        self._failed = failed
        self._proxy: Proxy | None = None
        self._socks: set[socket.socket] = set()
        self.runs: dict[int, Run] = {}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(os.fspath(path))
        path.chmod(0o666)  # the directory above it keeps others away; the namespace has its own way to it
        self._listener.listen(64)
        self._listener.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._acceptor = Acceptor(self._listener, self._take)

    def close(self) -> None:
        """The call is over: so is everything that it began."""
        self._acceptor.close()
        self._listener.close()
        for run in list(self.runs.values()):
            run.cancel()
        for sock in list(self._socks):
            self.drop(sock)
        if self._proxy is not None:
            self._proxy.close()

    def drop(self, sock: socket.socket) -> None:
        """Hang up on a process of the namespace's."""
        if sock in self._socks:
            self._socks.discard(sock)
            self._loop.remove_reader(sock.fileno())
            sock.close()

    def _take(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MAX_MESSAGE)
        self._socks.add(sock)
        self._loop.add_reader(sock.fileno(), self._hear, sock)

    def _hear(self, sock: socket.socket) -> None:
        try:
            data, files, flags, _ = socket.recv_fds(sock, MAX_MESSAGE, 4)
        except BlockingIOError:
            return
        except OSError:
            data, files, flags = b"", [], 0
        fields = data.split(b"\0")[:-1]
        if fields[:1] == [b"stopped"]:
            self._stopped()
        elif fields[:1] == [b"failed"] and len(fields) == 2:
            self._failed(fields[1])
        elif fields[:1] == [b"net"] and len(files) == 1:
            self._open_network(sock, files.pop())
        elif fields[:1] == [b"run"] and len(files) == 3 and len(fields) >= 3 and not flags:
            self._loop.remove_reader(sock.fileno())
            self._run(sock, fields, files)
            files = []
        else:
            self.drop(sock)
        for descriptor in files:
            os.close(descriptor)

    def _open_network(self, sock: socket.socket, descriptor: int) -> None:
        """Serve as the namespace's way out, once and for all: the first to ask is the launcher."""
        listener = socket.socket(fileno=descriptor)
        if self._proxy is None and self._rules is not None:
            with contextlib.suppress(ValueError):
                self._proxy = Proxy(listener, self._rules, self._call.note)
                sock.send(b"ok")
                return
        listener.close()
        self.drop(sock)

    def _run(self, sock: socket.socket, fields: list[bytes], files: list[int]) -> None:
        peer = self._call.peer
        words, cwd, variables = fields[1], self._call.place_inside(fields[2]), fields[3:]
        env = dict(variable.partition(b"=")[::2] for variable in variables)
        try:
            number, opening = peer.link.open([words], env, cwd=cwd, call=self._call.number)
        except ProtocolError as error:
            with contextlib.suppress(OSError):
                os.write(files[2], f"bridge: {error}\n".encode())
                sock.send(b"exit 125\0\0")
            for descriptor in files:
                os.close(descriptor)
            self._loop.add_reader(sock.fileno(), self._hear, sock)
            return
        self.runs[number] = peer.runs[number] = Run(self, self._call, number, sock, files)
        self._call.note("ran", command=len(words))
        peer.send(opening)


class Run:
    """One command, between the prefix process and the container."""

    def __init__(self, hands: Hands, call: Call, number: int, sock: socket.socket, files: list[int]) -> None:
        self._hands = hands
        self._call = call
        self._number = number
        self._sock = sock
        self._owed = {Frame.STDOUT: 0, Frame.STDERR: 0}
        self._left = MAX_FILE
        self._over = False
        self._has_credit = False
        self._is_file = stat.S_ISREG(os.fstat(files[1]).st_mode)
        for descriptor in files:
            os.set_blocking(descriptor, False)
        self._inputs = {
            Frame.STDOUT: InputPump(files[1], lambda: self._repay(Frame.STDOUT)),
            Frame.STDERR: InputPump(files[2], lambda: self._repay(Frame.STDERR)),
        }
        self._stdin: OutputPump | None = None
        self._has_no_stdin = False
        if stat.S_ISSOCK(os.fstat(files[0]).st_mode) or stat.S_ISFIFO(os.fstat(files[0]).st_mode):
            self._stdin = OutputPump(files[0], self._allowance, self._feed)
        else:
            self._has_no_stdin = True
            os.close(files[0])
        asyncio.get_running_loop().add_reader(sock.fileno(), self._on_sock)

    # From the prefix process

    def _on_sock(self) -> None:
        """It says nothing more, so this is its end."""
        with contextlib.suppress(OSError):
            if self._sock.recv(64):
                return
        self.cancel()

    def cancel(self) -> None:
        """Nobody waits for the command: end it in the container."""
        if not self._over:
            self._call.peer.send(frame(Frame.CANCEL, self._number) if self._is_open else b"")
            self._close()

    @property
    def _is_open(self) -> bool:
        return self._number in self._call.peer.link.channels

    def _allowance(self) -> int:
        peer = self._call.peer
        return peer.link.allowance(self._number, Frame.STDIN) if peer.writable else 0

    def _feed(self, data: bytes) -> None:
        if self._is_open:
            self._call.peer.send(self._call.peer.link.data(self._number, Frame.STDIN, data))

    # From the container

    def on(self, event: Event) -> None:
        """A frame of the command's channel."""
        if event.kind in self._owed:
            self._output(event.kind, event.payload)
        elif event.kind == Frame.CREDIT:
            self._has_credit = True
        elif event.kind in (Frame.EXIT, Frame.ERROR):
            self._finish(event)

    def settle(self) -> None:
        """The frames of this turn of the loop are read."""
        if self._has_credit:
            self._has_credit = False
            self.kick()

    def kick(self) -> None:
        """Look again at stdin: credit has come, or the connection takes data again."""
        if self._stdin is not None:
            self._stdin.kick()
        elif self._has_no_stdin and self._allowance():
            self._has_no_stdin = False
            self._feed(b"")

    def _output(self, stream: int, data: bytes) -> None:
        self._owed[stream] += len(data)
        if self._over:
            self._repay(stream)
            return
        if self._is_file:
            kept = data[: self._left]
            if self._left and len(kept) < len(data):
                kept += DROPPED
            self._left = max(0, self._left - len(data))
            data = kept
        self._inputs[stream].write(data)

    def _repay(self, stream: int) -> None:
        """What was written, or had nobody to be written to, may be followed by as much again."""
        owed, self._owed[stream] = self._owed[stream], 0
        if owed:
            self._call.peer.send(self._call.peer.link.grant(self._number, stream, owed))

    def _finish(self, event: Event) -> None:
        """The command has ended: tell the prefix process, after the last of its output."""
        self._call.peer.runs.pop(self._number, None)
        if self._over:
            return
        fields = event.fields
        if event.kind == Frame.ERROR:
            self._inputs[Frame.STDERR].write(f"bridge: {fields.text('text')}\n".encode())
            answer = b"exit 126"
        else:
            by, code = fields.number("signal"), fields.number("code", 125) & 255
            answer = b"exit %d" % code
            if 0 < by <= MAX_SIGNAL:
                answer = b"exit %d" % (128 + by) if by in STOPPING else b"signal %d" % by
        where = self._call.place_outside(fields.get("cwd"))
        self._when_written(lambda: self._answer(answer + b"\0" + where + b"\0"))

    def _when_written(self, then: Callable[[], None]) -> None:
        if any(pump.pending for pump in self._inputs.values()) and not self._over:
            asyncio.get_running_loop().call_later(0.005, self._when_written, then)
        else:
            then()

    def _answer(self, answer: bytes) -> None:
        if not self._over:
            with contextlib.suppress(OSError):  # ignored because nobody may wait any more
                self._sock.send(answer)
            self._close()

    def _close(self) -> None:
        self._over = True
        self._hands.runs.pop(self._number, None)
        for pump in self._inputs.values():
            pump.close()
        if self._stdin is not None:
            self._stdin.close()
        self._hands.drop(self._sock)
