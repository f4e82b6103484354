"""Commands that the host's Claude runs here: each in a tree of processes that ends with the call.

    client                        takes in the orphans of a keeper that was killed, and ends them
      keeper of a command         takes in its orphans; ends them all when told to, or when the client has gone
        bash -c COMMAND           a session of its own; its directory and environment are the agent's

A command is over when its bash is. What it left in the background lives on for later commands of the same call,
and is ended with the call: nothing that Claude started outlives it.

Every command has a thread of the client's, which moves its bytes within the credit that the host gives. The
module is loaded with the first command, so that calls without one start as fast as ever.
"""

from __future__ import annotations

# ruff: noqa: PTH123, PTH208 - pathlib would cost the first command 5 ms
import _thread
import ctypes
import os
import select
import signal
import time
from collections import deque

from bridge.protocol.frames import MAX_DATA, WINDOW, Event, Frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import NoReturn

    from bridge.protocol.frames import Fields
    from bridge.protocol.link import Link

PLACE_FD = 99
"""Where the command's last words, `pwd -P`, go: a number that no script uses for its own files."""

ASK_S = 0.7
"""From TERM to KILL: all is gone within 2 s of a cancel, as promised."""

PIPE_SIZE = 64 * 1024
"""Bytes that a pipe of Linux holds, unless somebody makes it larger."""

_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True)


class Hands:
    """The commands of one connection. `send` takes frames from any thread; `lock` guards the link."""

    def __init__(self, link: Link, send: Callable[[bytes], None], lock: _thread.LockType) -> None:
        self.link = link
        self.send = send
        self.lock = lock
        self._runs: dict[int, _Run] = {}
        self._keepers: set[int] = set()
        _take_in_orphans()

    def on(self, event: Event) -> None:
        """A frame of a channel that the host has opened."""
        if event.kind != Frame.RUN:
            run = self._runs.get(event.channel)
            if run is not None:
                run.tell(event)
            return
        try:
            run = _Run(self, event.channel, event.fields)
        except OSError as error:
            self.end(event.channel, Frame.ERROR, kind="start", text=f"the container cannot run it: {error.strerror}")
            return
        self._runs[event.channel] = run
        self._keepers.add(run.keeper)
        _thread.start_new_thread(run.serve, ())

    def end(self, number: int, kind: int, /, **fields: bytes | str | int | None) -> None:
        """Say how a command ended."""
        with self.lock:
            said = self.link.end(number, kind, **fields) if number in self.link.channels else b""
        self._runs.pop(number, None)
        self.send(said)

    def left(self, keeper: int, was_killed: bool) -> None:
        """A keeper has gone; what it kept, if it could not end it itself, is ours now."""
        self._keepers.discard(keeper)
        if was_killed:
            _end_all(os.getpid(), self._keepers)
        _reap()


class _Run:
    """One command, and the thread that serves it."""

    def __init__(self, hands: Hands, number: int, fields: Fields) -> None:
        """Start it; OSError when the container can start nothing."""
        self._hands = hands
        self._number = number
        self._told: deque[Event] = deque()
        self._pending = bytearray()
        self._stdin_ends = False
        self._code: int | None = None
        self._over = False
        pipes = [os.pipe() for _ in range(7)]
        inputs, self._input = pipes[0]
        self._outputs = {Frame.STDOUT: pipes[1][0], Frame.STDERR: pipes[2][0]}
        self._last = dict.fromkeys(self._outputs, PIPE_SIZE)
        self._place, self._status = pipes[3][0], pipes[4][0]
        control, self._control = pipes[5]
        self._woken, self._wake = pipes[6]
        theirs = [inputs, pipes[1][1], pipes[2][1], pipes[3][1]]
        try:
            self.keeper = os.fork()
        except OSError:
            for pipe in pipes:
                _close(*pipe)
            raise
        if not self.keeper:
            _keep(control, pipes[4][1], theirs, fields)
        _close(control, pipes[4][1], *theirs)
        for fd in (self._input, *self._outputs.values(), self._place, self._wake):
            os.set_blocking(fd, False)

    def tell(self, event: Event) -> None:
        """Something from the host, for the thread."""
        self._told.append(event)
        self._nudge()

    def _nudge(self) -> None:
        try:
            os.write(self._wake, b"-")
        except OSError:
            return  # it has been nudged often enough, or it is over

    # The thread

    def serve(self) -> None:
        """Move bytes until the command is over, and then drop them until its last process has gone."""
        self._send(self._grant(WINDOW))
        while self._status >= 0:
            for fd in self._wait():
                if fd == self._woken:
                    os.read(fd, 4096)
                elif fd == self._status:
                    self._on_status()
                elif fd == self._input:
                    self._write()
                else:
                    self._read(fd)
            while self._told:
                self._on(self._told.popleft())
            if self._code is not None and not self._over:
                self._finish()
        _close(self._input, *self._outputs.values(), self._place, self._control, self._woken, self._wake)

    def _wait(self) -> Iterable[int]:
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
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
            os.write(self._control, b"t")

    def _on_status(self) -> None:
        """The keeper says how bash ended, or has ended itself."""
        said = os.read(self._status, 64)
        if said:
            self._code = int(said)
            return
        _close(self._status)
        self._status = -1
        was_killed = self._code is None
        if was_killed:
            self._code = signal.SIGKILL
            self._finish()
        self._hands.left(self.keeper, was_killed)

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
        """Pass on what a pipe holds, within the credit; how many bytes."""
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
            with self._hands.lock:
                sent = self._hands.link.data(self._number, stream, data)
            self._send(sent)
        return len(data)

    def _finish(self) -> None:
        """Bash has ended: what it wrote before goes first, then how it ended.

        What it left in the background may go on writing for ever, so no more is read than a pipe can have held.
        """
        for stream, fd in self._outputs.items():
            while self._last[stream] > 0 and self._outputs[stream] >= 0 and (size := self._read(fd)):
                self._last[stream] -= size
            if self._last[stream] > 0 and self._outputs[stream] >= 0 and not self._allowance(stream) and _readable(fd):
                return  # there is more, for which there is no credit yet
        self._over = True
        how = os.waitstatus_to_exitcode(self._code or 0)
        fields = {"signal": -how} if how < 0 else {"code": how}
        self._hands.end(self._number, Frame.EXIT, cwd=self._read_place(), **fields)

    def _read_place(self) -> bytes | None:
        try:
            return os.read(self._place, 4096).rstrip(b"\n") or None
        except OSError:
            return None

    def _allowance(self, stream: int) -> int:
        return self._hands.link.allowance(self._number, stream)

    def _grant(self, size: int) -> bytes:
        with self._hands.lock:
            return self._hands.link.grant(self._number, Frame.STDIN, size) if size else b""

    def _send(self, data: bytes) -> None:
        if data:
            self._hands.send(data)


# The keeper: a process that has only itself to rely on


def _keep(control: int, status: int, theirs: list[int], fields: Fields) -> NoReturn:
    """Be the keeper of one command, until its last process has gone."""
    code = 70
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
            signal.signal(number, signal.SIG_IGN)
        _take_in_orphans()
        first = os.fork()
        if not first:
            _become(theirs, fields)
        _close_all_but(control, status)
        _Keeper(control, status, first).keep()
        code = 0
    finally:
        os._exit(code)


class _Keeper:
    def __init__(self, control: int, status: int, first: int) -> None:
        self._control = control
        self._status = status
        self._first = first
        self._asked_at: float | None = None
        self._died, writing = os.pipe()
        os.set_blocking(writing, False)
        os.set_blocking(self._died, False)
        signal.set_wakeup_fd(writing)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def keep(self) -> None:
        poll = select.poll()
        poll.register(self._died, select.POLLIN)
        poll.register(self._control, select.POLLIN)
        while self._reap():
            ready = dict(poll.poll(None if self._asked_at is None else 20))
            if self._died in ready:
                os.read(self._died, 4096)
            if self._control in ready:
                if not os.read(self._control, 64):
                    poll.unregister(self._control)  # the client has gone
                self._ask()
            if self._asked_at is not None and time.monotonic() - self._asked_at > ASK_S:
                _end_all(os.getpid())

    def _reap(self) -> bool:
        """Take leave of who has ended; whether anyone is left."""
        while True:
            try:
                pid, how = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not pid:
                return True
            if pid == self._first:
                _tell(self._status, b"%d\n" % how)

    def _ask(self) -> None:
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            for pid in _descendants(os.getpid()):
                _kill(pid, signal.SIGTERM)
                _kill(pid, signal.SIGCONT)


def _become(theirs: list[int], fields: Fields) -> NoReturn:
    """Become the command."""
    code = 126
    try:
        os.setsid()
        for number in range(1, 65):
            if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
                signal.signal(number, signal.SIG_DFL)
        for fd, number in zip(theirs, (0, 1, 2, PLACE_FD), strict=True):
            os.dup2(fd, number)
            os.set_inheritable(number, True)  # which dup2 leaves as it is where both are the same
        _close_all_but(0, 1, 2, PLACE_FD)
        environment = dict(os.environb)
        for entry in fields.all("env"):
            name, _, value = entry.partition(b"=")
            environment[name] = value
        cwd = fields.get("cwd") or b"/workspace"
        try:
            os.chdir(cwd)
        except OSError as error:
            os.write(2, b"bridge: %s: %s\n" % (cwd, os.strerror(error.errno or 0).encode()))
        else:
            environment[b"PWD"] = cwd
            os.execve("/bin/bash", [b"bash", b"-c", fields.get("arg")], environment)
    except OSError as error:
        os.write(2, b"bridge: the container cannot run it: %s\n" % os.strerror(error.errno or 0).encode())
    finally:
        os._exit(code)


# Processes


def _take_in_orphans() -> None:
    """Become the parent of descendants whose own parent ends."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _descendants(top: int, spared: Iterable[int] = ()) -> list[int]:
    """All processes under one, except those under the spared ones."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    todo = [top]
    while todo:
        new = [pid for pid in children.get(todo.pop(), []) if pid not in spared]
        found += new
        todo += new
    return found


def _end_all(top: int, spared: Iterable[int] = ()) -> None:
    """Stop everything under a process first, so that nothing forks any more, and kill it then."""
    held: set[int] = set()
    while new := set(_descendants(top, spared)) - held:
        for pid in new:
            _kill(pid, signal.SIGSTOP)
        held |= new
    for pid in held:
        _kill(pid, signal.SIGKILL)


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        return  # it has gone


def _reap() -> None:
    """Take leave of keepers and orphans that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _tell(fd: int, data: bytes) -> None:
    try:
        os.write(fd, data)
    except OSError:
        return  # the client has gone


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return any(events & select.POLLIN for _, events in poll.poll(0))


def _close(*fds: int) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)


def _close_all_but(*kept: int) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:
                continue  # the listing's own
