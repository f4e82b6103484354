"""Runs commands of the host's Claude in this container, each in a process tree that ends with the call.

    client                        adopts the orphans of a reaper that was killed, and kills them
      reaper of a command         adopts the command's orphans; ends them all on request, or when the client exits
        bash -c COMMAND           in its own session, with the agent's directory and environment

A command is over when its bash exits. Background processes stay alive for later commands of the same call and are
ended with the call. No process that Claude started outlives the call.

Each command has its own thread in the client, which moves the bytes within the credit that the host grants. This
module is loaded with the first command, so that calls without commands start just as fast.
"""

from __future__ import annotations

import _thread
import os
import select
import signal
from collections import deque

from bridge.client import reaper
from bridge.client.copies import MAX_BACK, Copies
from bridge.protocol.frames import MAX_DATA, WINDOW, Event, Frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bridge.protocol.frames import Fields
    from bridge.protocol.link import Link

PIPE_SIZE = 64 * 1024
"""Default capacity of a Linux pipe, bytes."""


class Executor:
    """All executions of one connection. `send` accepts frames from any thread; `lock` guards the link."""

    def __init__(self, link: Link, send: Callable[[bytes], None], lock: _thread.LockType, place: bytes) -> None:
        """`place` is the directory for copies of the host's files."""
        self.link = link
        self.send = send
        self.lock = lock
        self.copies = Copies(place)
        self._copying: dict[int, int] = {}
        self._executions: dict[int, Execution] = {}
        self._reapers: set[int] = set()
        reaper.take_in_orphans()

    @property
    def has_background(self) -> bool:
        """Whether a command that is over has left something that still runs."""
        return bool(self._reapers - {execution.reaper_pid for execution in list(self._executions.values())})

    def on(self, event: Event) -> None:
        """Handle a frame of a channel that the host opened."""
        if event.channel in self._copying:
            self._copy(event)
            return
        if event.kind != Frame.RUN:
            execution = self._executions.get(event.channel)
            if execution is not None:
                execution.give(event)
            return
        try:
            if name := event.fields.get("copy"):
                self._copying[event.channel] = self.copies.open(name, event.fields.number("at"))
                self.grant(event.channel, WINDOW)
                return
            execution = Execution(self, event.channel, event.fields)
        except OSError as error:
            self.end(event.channel, Frame.ERROR, kind="start", text=f"the container cannot run it: {error.strerror}")
            return
        self._executions[event.channel] = execution
        self._reapers.add(execution.reaper_pid)
        _thread.start_new_thread(execution.serve, ())

    def _copy(self, event: Event) -> None:
        """Write what arrives of a copy."""
        try:
            if event.kind == Frame.STDIN and event.payload:
                _write_all(self._copying[event.channel], event.payload)
                self.grant(event.channel, len(event.payload))
            elif event.kind in (Frame.STDIN, Frame.CANCEL):
                _close(self._copying.pop(event.channel))
                self.end(event.channel, Frame.EXIT, code=0)
        except OSError as error:
            _close(self._copying.pop(event.channel))
            self.end(event.channel, Frame.ERROR, kind="start", text=f"the container cannot keep it: {error.strerror}")

    def grant(self, number: int, size: int) -> None:
        """Let the host send more of a channel's input."""
        with self.lock:
            data = self.link.grant(number, Frame.STDIN, size)
        self.send(data)

    def end(self, number: int, kind: int, /, **fields: bytes | str | int | None) -> None:
        """Report how a command ended."""
        with self.lock:
            data = self.link.end(number, kind, **fields) if number in self.link.channels else b""
        self._executions.pop(number, None)
        self.send(data)

    def left(self, pid: int, was_killed: bool) -> None:
        """Handle the end of a reaper. If it was killed, its orphans are now children of this process, and are
        killed."""
        self._reapers.discard(pid)
        if was_killed:
            reaper.end_all(os.getpid(), self._reapers)
        _reap()


class Execution:
    """One command, and the thread that serves it."""

    def __init__(self, executor: Executor, number: int, fields: Fields) -> None:
        """Start the command. Raises OSError if the container cannot start a process."""
        self._executor = executor
        self._number = number
        self._events: deque[Event] = deque()
        self._pending = bytearray()
        self._stdin_ends = False
        self._code: int | None = None
        self._over = False
        pipes = [os.pipe() for _ in range(7)]
        inputs, self._input = pipes[0]
        self._outputs = {Frame.STDOUT: pipes[1][0], Frame.STDERR: pipes[2][0]}
        self._last = dict.fromkeys(self._outputs, PIPE_SIZE)
        self._back = fields.get("back")
        if self._back:
            executor.copies.path(self._back)
        self._place, self._status = pipes[3][0], pipes[4][0]
        control, self._control = pipes[5]
        self._woken, self._wake = pipes[6]
        stderr = pipes[1][1] if fields.get("stderr") == b"stdout" else pipes[2][1]
        theirs = [inputs, pipes[1][1], stderr, pipes[3][1]]
        try:
            self.reaper_pid = os.fork()
        except OSError:
            for pipe in pipes:
                _close(*pipe)
            raise
        if not self.reaper_pid:
            reaper.run(control, pipes[4][1], theirs, fields)
        _close(control, inputs, *(pipe[1] for pipe in pipes[1:5]))
        for fd in (self._input, *self._outputs.values(), self._place, self._wake):
            os.set_blocking(fd, False)

    def give(self, event: Event) -> None:
        """Pass a frame from the host to the thread."""
        self._events.append(event)
        self._nudge()

    def _nudge(self) -> None:
        try:
            os.write(self._wake, b"-")
        except OSError:
            return  # ignored because the pipe is full and wakes the thread anyway, or the command is over

    # The thread

    def serve(self) -> None:
        """Move bytes until the command is over. Then discard its output until its last process has exited."""
        self._send(self._grant(WINDOW))
        while self._status >= 0 or not self._over:
            for fd in self._wait():
                if fd == self._woken:
                    os.read(fd, 4096)
                elif fd == self._status:
                    self._on_status()
                elif fd == self._input:
                    self._write()
                else:
                    self._read(fd)
            while self._events:
                self._on(self._events.popleft())
            if self._code is not None and not self._over:
                self._finish()
        _close(self._input, *self._outputs.values(), self._place, self._control, self._woken, self._wake)

    def _wait(self) -> Iterable[int]:
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        if self._status >= 0:
            poll.register(self._status, select.POLLIN)
        for stream, fd in self._outputs.items():
            if fd >= 0 and (self._over or self._allowance(stream)):
                poll.register(fd, select.POLLIN)
        if self._pending and self._input >= 0:
            poll.register(self._input, select.POLLOUT)
        return [fd for fd, _ in poll.poll()]

    def _on(self, event: Event) -> None:
        if event.kind == Frame.STDIN:
            self._pending += event.payload
            self._stdin_ends = not event.payload
            if self._input < 0:
                self._forget()
            elif not self._pending:
                self._close_input()
        elif event.kind == Frame.CANCEL:
            try:
                os.write(self._control, b"t")
            except OSError:
                return  # the command's last process has exited, and its reaper with it

    def _on_status(self) -> None:
        """Handle the status pipe: the reaper reports how bash ended, or has exited itself."""
        reported = os.read(self._status, 64)
        if reported:
            self._code = int(reported)
            return
        _close(self._status)
        self._status = -1
        was_killed = self._code is None
        if was_killed:
            self._code = signal.SIGKILL
            self._finish()
        self._executor.left(self.reaper_pid, was_killed)

    def _write(self) -> None:
        try:
            written = os.write(self._input, self._pending)
        except BlockingIOError:
            return
        except OSError:  # the command has closed its stdin
            self._close_input()
            self._forget()
            return
        del self._pending[:written]
        self._send(self._grant(written))
        if not self._pending and self._stdin_ends:
            self._close_input()

    def _forget(self) -> None:
        size = len(self._pending)
        self._pending.clear()
        self._send(self._grant(size))

    def _close_input(self) -> None:
        _close(self._input)
        self._input = -1

    def _read(self, fd: int) -> int:
        """Send what a pipe holds, within the credit. Returns the number of bytes read."""
        stream = next(stream for stream, mine in self._outputs.items() if mine == fd)
        size = MAX_DATA if self._over else self._allowance(stream)
        try:
            data = os.read(fd, size) if size else b""
        except BlockingIOError:
            return 0
        if not size:
            return 0
        if not data:
            _close(fd)
            self._outputs[stream] = -1
        elif not self._over:
            with self._executor.lock:
                sent = self._executor.link.data(self._number, stream, data)
            self._send(sent)
        return len(data)

    def _finish(self) -> None:
        """Bash has exited: send the output that it wrote before, then EXIT.

        Background processes may keep writing forever, so this reads at most the capacity of a pipe.
        """
        for stream, fd in self._outputs.items():
            while self._last[stream] > 0 and self._outputs[stream] >= 0 and (size := self._read(fd)):
                self._last[stream] -= size
            if self._last[stream] > 0 and self._outputs[stream] >= 0 and not self._allowance(stream) and _readable(fd):
                return  # there is more output, but no credit for it yet
        self._over = True
        how = os.waitstatus_to_exitcode(self._code or 0)
        fields = {"signal": -how} if how < 0 else {"code": how}
        self._executor.end(self._number, Frame.EXIT, cwd=self._read_place(), back=self._read_back(), **fields)

    def _read_back(self) -> bytes | None:
        """Return what the command has written to its file for variables."""
        try:
            return self._executor.copies.text(self._back) if self._back else None
        except ValueError:
            text = b"bridge: the variables are not used: more than %d bytes, or no text; write less\n" % MAX_BACK
            if self._allowance(Frame.STDERR) >= len(text):
                with self._executor.lock:
                    sent = self._executor.link.data(self._number, Frame.STDERR, text)
                self._send(sent)
            return None

    def _read_place(self) -> bytes | None:
        try:
            return os.read(self._place, 4096).rstrip(b"\n") or None
        except OSError:
            return None

    def _allowance(self, stream: int) -> int:
        return self._executor.link.allowance(self._number, stream)

    def _grant(self, size: int) -> bytes:
        with self._executor.lock:
            return self._executor.link.grant(self._number, Frame.STDIN, size) if size else b""

    def _send(self, data: bytes) -> None:
        if data:
            self._executor.send(data)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _reap() -> None:
    """Reap the reapers and orphans that have exited."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return any(events & select.POLLIN for _, events in poll.poll(0))


def _close(*fds: int) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)
