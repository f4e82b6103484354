"""Serves the tool calls of one CLI: its commands run in the container. Also serves the CLI's network.

    CLI -- shell prefix (sandbox/shim.py) -- socket of the call -- ToolCalls -- channel -- client -- bash

The prefix process passes its stdin, stdout and stderr to the server and waits. The server moves the bytes between
them and the channel of the execution, within the credit of both sides. If the prefix process ends, its command is
cancelled. If the client is gone, all commands are cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from bridge.protocol.frames import Event, Frame, ProtocolError
from bridge.server.channel import Channel
from bridge.server.copies import MAX_FILES, Copies, Told, Wait
from bridge.server.dialogue import SessionEvent, read_event
from bridge.server.gate import Gate
from bridge.server.host.acceptor import Acceptor
from bridge.server.paths import PathTranslator
from bridge.server.sandbox.pipes import InputPump, OutputPump
from bridge.server.sandbox.proxy import Proxy, Rules
from bridge.server.sandbox.reports import Reports

MAX_MESSAGE = 512 * 1024
"""Bytes of a request. A command is one argument, for which Linux allows 128 KiB."""

MAX_FILE = 8 * 1024 * 1024
"""Bytes of output that are written to a file in the namespace's memory, which has 64 MiB. The rest is dropped.
Claude is shown some 30 kB."""

FOLLOW_S = 0.3
"""How often the copy of a growing file is renewed, seconds."""

MAX_SIGNAL = 64
"""The largest signal number. If the client reports a larger one, the exit code is used instead."""

STOPPING = frozenset({signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})
"""Signals that only stop a process. The shell prefix would wait forever if it sent itself one of them."""

VARIABLES_FILE = b"CLAUDE_ENV_FILE"
"""The variable that tells a hook where to write variables for the commands that follow."""

DROPPED = b"\n[bridge: the rest of the output was dropped]\n"


class Listener(Protocol):
    """Gets the events of the CLI and its tool calls."""

    def note(self, event: str, **facts: str | int | list[str]) -> None:
        """Write to the audit log."""

    def on_stopped(self) -> None:
        """The CLI has stopped itself (Ctrl-Z)."""

    def on_event(self, event: SessionEvent) -> None:
        """A hook of the bridge's own has told what the session does. The container can forge it."""

    def on_command(self) -> None:
        """A command of Claude's is about to run in the container."""

    def on_not_started(self, why: bytes) -> None:
        """The launcher did not start the CLI. `why` is an argument of `fail` in the shim."""


class ToolCalls:
    """The socket of one call, and the executions that were requested on it."""

    def __init__(
        self,
        channel: Channel,
        path: Path,
        rules: Rules | None,
        paths: PathTranslator,
        copies: Copies,
        listener: Listener,
        variables: Mapping[bytes, bytes],
        gate: Gate,
        reports: Reports | None = None,
        direct: socket.socket | None = None,
    ) -> None:
        """Listen at `path`. Raises OSError. Without `rules` the CLI uses the host's network. `variables` are set for
        each command: those of the project's settings, and the bridge's own. `reports` gets what the CLI says of its
        use; `direct` listens for that alone, where the CLI uses the host's network."""
        self._variables = variables
        self._gate = gate
        self._reports = reports
        self._channel = channel
        self._rules = rules
        self._paths = paths
        self._copies = copies
        self._events = listener
        self._proxy: Proxy | None = None
        self._socks: set[socket.socket] = set()
        self._executions: dict[Execution, list[Told]] = {}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(os.fspath(path))
        path.chmod(0o666)  # the directory above it keeps other users out; the namespace has its own mount of it
        self._listener.listen(64)
        self._listener.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._acceptor = Acceptor(self._listener, self._take)
        if direct is not None and rules is not None:
            self._proxy = Proxy(direct, rules, listener.note, gate, reports)
            self._proxy.cut()

    def runs_commands(self, servers: int) -> bool:
        """Return whether something runs in the container besides as many MCP servers as the call has. A hook looks
        like a server."""
        kinds = [execution.is_server for execution in self._executions]
        return not all(kinds) or len(kinds) > servers

    def close(self) -> None:
        """End all executions and the network, because the call is over or ends. The CLI's reports still count until
        `end`. May be called again."""
        self._acceptor.close()
        self._listener.close()
        self._copies.close()
        for execution in list(self._executions):
            execution.cancel()
        for sock in list(self._socks):
            self._hang_up(sock)
        if self._proxy is not None:
            self._proxy.cut()

    def end(self) -> None:
        """End everything, because the CLI has ended."""
        self.close()
        if self._proxy is not None:
            self._proxy.close()

    def _hang_up(self, sock: socket.socket) -> None:
        if sock in self._socks:
            self._socks.discard(sock)
            self._loop.remove_reader(sock.fileno())
            sock.close()

    def _take(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MAX_MESSAGE)
        self._socks.add(sock)
        self._loop.add_reader(sock.fileno(), self._receive, sock)

    def _receive(self, sock: socket.socket) -> None:
        try:
            data, files, flags, _ = socket.recv_fds(sock, MAX_MESSAGE, 3 + MAX_FILES)
        except BlockingIOError:
            return
        except OSError:
            data, files, flags = b"", [], 0
        fields = data.split(b"\0")[:-1]
        if fields[:1] == [b"stopped"]:
            self._events.on_stopped()
        elif fields[:1] == [b"failed"] and len(fields) == 2:
            self._events.on_not_started(fields[1])
        elif fields[:1] == [b"event"]:
            if told := read_event(fields[1:]):
                self._events.on_event(told)
            self._hang_up(sock)
        elif fields[:1] == [b"net"] and len(files) == 1:
            self._open_network(sock, files.pop())
        elif fields[:1] in ([b"run"], [b"sh"]) and len(files) >= 3 and len(fields) >= 3 and not flags:
            self._loop.remove_reader(sock.fileno())
            self._prepare(sock, fields, files)
            files = []
        else:
            self._hang_up(sock)
        for descriptor in files:
            os.close(descriptor)

    def _open_network(self, sock: socket.socket, descriptor: int) -> None:
        """Serve the namespace's network. Only the first request is accepted: the launcher's."""
        listener = socket.socket(fileno=descriptor)
        if self._proxy is None and self._rules is not None:
            with contextlib.suppress(ValueError):
                self._proxy = Proxy(listener, self._rules, self._events.note, self._gate, self._reports)
                sock.send(b"ok")
                return
        listener.close()
        self._hang_up(sock)

    def _prepare(self, sock: socket.socket, fields: list[bytes], files: list[int]) -> None:
        """Bring the container what a command is told of, and then let the client run it.

        `files` are the command's stdin, stdout and stderr, and then the CLI's files that it is told of. Their paths
        stand among the variables in `fields`; only a path begins with a slash.
        """
        if self._copies.is_full:
            self._refuse(sock, files, "too many commands wait for copies of Claude's files")
            return
        own, others = files[:3], files[3:]
        paths = [field for field in fields[3:] if field.startswith(b"/")][: len(others)]
        for descriptor in others[len(paths) :]:
            os.close(descriptor)
        told = [Told(path, descriptor) for path, descriptor in zip(paths, others, strict=False)]
        variables = [field for field in fields[3:] if not field.startswith(b"/")]

        def give_up() -> None:
            for descriptor in own + others[: len(paths)]:
                os.close(descriptor)

        def run() -> None:
            shell = "sh" if fields[0] == b"sh" else None
            self._execute(sock, fields[1], fields[2], variables, own, shell, told)

        wait = self._copies.bring(told, run, give_up)
        if self._copies.is_waiting(wait):
            self._loop.add_reader(sock.fileno(), self._on_waiting, sock, wait)

    def _on_waiting(self, sock: socket.socket, wait: Wait) -> None:
        """Handle the end of a prefix process whose command has not begun, or its wish to cancel the command."""
        try:
            if sock.recv(64):
                sock.send(b"signal %d\0\0" % signal.SIGTERM)
        except BlockingIOError:
            return
        except OSError:
            pass  # it has ended, so that nobody waits for the answer
        self._copies.forget(wait)
        self._hang_up(sock)

    def _refuse(self, sock: socket.socket, files: list[int], why: str) -> None:
        """Report that a command cannot be run. `files` are closed; the third is its stderr."""
        with contextlib.suppress(OSError):
            os.write(files[2], f"bridge: {why}\n".encode())
            sock.send(b"exit 125\0\0")
        for descriptor in files:
            os.close(descriptor)
        self._loop.add_reader(sock.fileno(), self._receive, sock)

    def _execute(
        self,
        sock: socket.socket,
        command: bytes,
        directory: bytes,
        variables: list[bytes],
        files: list[int],
        shell: str | None,
        told: list[Told],
    ) -> None:
        """Let the client run a command. `files` are the command's stdin, stdout and stderr."""
        command, cwd = self._copies.translate(command), self._paths.to_container(directory)
        env = {**self._variables, **dict(variable.partition(b"=")[::2] for variable in variables)}
        back, stderr = None, "stdout" if _are_one_file(files[1], files[2]) else None
        if (path := env.pop(VARIABLES_FILE, None)) is not None:
            env[VARIABLES_FILE], back = self._copies.variables_file(path)

        def begin(channel: Channel) -> Execution:
            execution = Execution(channel, sock, files, self._paths, self._copies, self._on_over)
            self._executions[execution] = told
            execution.is_server = shell == "sh"
            self._gate.begin_command(execution)
            if shell is None:
                self._events.on_command()
            self._events.note("ran", command=len(command))
            self._loop.call_later(FOLLOW_S, self._follow, execution)
            return execution

        try:
            self._channel.open(command, env, begin, cwd=cwd, back=back or None, shell=shell, stderr=stderr)
        except ProtocolError as error:
            self._refuse(sock, [*files, *(file.descriptor for file in told)], str(error))

    def _follow(self, execution: Execution) -> None:
        """Bring what is added to the files that a command is told of, as long as it runs."""
        growing = [file for file in self._executions.get(execution, ()) if file.grows]
        if growing:
            self._loop.call_later(FOLLOW_S, self._follow, execution)
            self._copies.renew(growing)

    def _on_over(self, execution: Execution, sock: socket.socket) -> None:
        for file in self._executions.pop(execution, ()):
            os.close(file.descriptor)
        self._gate.end_command(execution)
        self._hang_up(sock)


class Execution:
    """One command, between the prefix process and the container.

    `on_over` is called once, when nothing more is sent to the prefix process. The channel stays until the client
    has ended it: credit is granted for the command's further output, and the output is dropped.
    """

    def __init__(
        self,
        channel: Channel,
        sock: socket.socket,
        files: list[int],
        paths: PathTranslator,
        copies: Copies,
        on_over: Callable[[Execution, socket.socket], None],
    ) -> None:
        self.is_server = False
        """Whether it is an MCP server, or a hook."""
        self._channel = channel
        self._sock = sock
        self._paths = paths
        self._copies = copies
        self._has_fed = False
        self._on_over = on_over
        self._owed = {Frame.STDOUT: 0, Frame.STDERR: 0}
        self._left = MAX_FILE
        self._is_over = False
        self._result: bytes | None = None
        """The message for the prefix process. It is sent after the last of the output."""
        self._has_credit = False
        self._is_file = stat.S_ISREG(os.fstat(files[1]).st_mode)
        for descriptor in files:
            os.set_blocking(descriptor, False)
        self._inputs = {
            Frame.STDOUT: InputPump(files[1], lambda: self._on_drained(Frame.STDOUT)),
            Frame.STDERR: InputPump(files[2], lambda: self._on_drained(Frame.STDERR)),
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
        """Handle the end of the prefix process, or its wish to cancel the command: then it waits for the result."""
        with contextlib.suppress(OSError):
            if self._sock.recv(64):
                self._channel.send_cancel()
                return
        self.cancel()

    def cancel(self) -> None:
        """End the command in the container, because its result is no longer needed."""
        if not self._is_over:
            self._channel.send_cancel()
            self._close()

    def _allowance(self) -> int:
        allowance = self._channel.allowance(Frame.STDIN)
        return allowance if self._has_fed else max(0, allowance - self._copies.growth)

    def _feed(self, data: bytes) -> None:
        if not self._has_fed:
            self._has_fed = True
            data = self._copies.translate_input(data)
        self._channel.send_data(Frame.STDIN, data)

    # From the container

    def on(self, event: Event) -> None:
        """Handle a frame of the command's channel."""
        if event.kind in self._owed:
            self._output(event.kind, event.payload)
        elif event.kind == Frame.CREDIT:
            self._has_credit = True
        elif event.kind in (Frame.EXIT, Frame.ERROR):
            self._finish(event)

    def settle(self) -> None:
        """Apply the credit that arrived in this turn of the loop."""
        if self._has_credit:
            self._has_credit = False
            self.kick()

    def kick(self) -> None:
        """Check stdin again: credit has arrived, or the connection accepts data again."""
        if self._stdin is not None:
            self._stdin.kick()
        elif self._has_no_stdin and self._allowance():
            self._has_no_stdin = False
            self._feed(b"")

    def _output(self, stream: int, data: bytes) -> None:
        self._owed[stream] += len(data)
        if self._is_over:
            self._repay(stream)
            return
        if self._is_file:
            kept = data[: self._left]
            if self._left and len(kept) < len(data):
                kept += DROPPED
            self._left = max(0, self._left - len(data))
            data = kept
        self._inputs[stream].write(data)

    def _on_drained(self, stream: int) -> None:
        self._repay(stream)
        self._report_result()

    def _repay(self, stream: int) -> None:
        """Grant credit for what was written or dropped."""
        owed, self._owed[stream] = self._owed[stream], 0
        if owed:
            self._channel.grant(stream, owed)

    def _finish(self, event: Event) -> None:
        """The command has ended. Keep its result until its output is written."""
        self._channel.release()
        if self._is_over:
            return
        fields = event.fields
        if event.kind == Frame.ERROR:
            self._inputs[Frame.STDERR].write(f"bridge: {fields.text('text')}\n".encode())
            result = b"exit 126"
        else:
            by, code = fields.number("signal"), fields.number("code", 125) & 255
            result = b"exit %d" % code
            if 0 < by <= MAX_SIGNAL:
                result = b"exit %d" % (128 + by) if by in STOPPING else b"signal %d" % by
        self._result = result + b"\0" + self._paths.to_cli(fields.get("cwd")) + b"\0"
        if "back" in dict(fields.pairs):
            self._result += fields.get("back") + b"\0"
        self._report_result()

    def _report_result(self) -> None:
        """Send the result to the prefix process, unless output still waits to be written."""
        if self._result is None or self._is_over or any(pump.pending for pump in self._inputs.values()):
            return
        with contextlib.suppress(OSError):  # ignored because the prefix process may have ended
            self._sock.send(self._result)
        self._close()

    def _close(self) -> None:
        self._is_over = True
        for pump in self._inputs.values():
            pump.close()
        if self._stdin is not None:
            self._stdin.close()
        self._on_over(self, self._sock)


def _are_one_file(first: int, second: int) -> bool:
    """Return whether two descriptors are of the same file. Then the order of what is written to them counts."""
    one, other = os.fstat(first), os.fstat(second)
    return stat.S_ISREG(one.st_mode) and (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
