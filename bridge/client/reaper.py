"""The reaper of one command: a forked process that starts the command and exits after the command's last process.

It adopts the command's orphans, so that no process is lost. It ends all of them when the executor asks for it, or
when the client exits. It was forked from a process with threads, so it uses no locks or objects of these threads.
"""

from __future__ import annotations

# ruff: noqa: PTH123, PTH208 - pathlib would cost the first command 5 ms
import ctypes
import os
import select
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NoReturn

    from bridge.protocol.frames import Fields

PLACE_FD = 99
"""Descriptor for the output of the final `pwd -P`. Scripts do not use such a high number themselves."""

ASK_S = 0.7
"""Seconds between TERM and KILL. All processes must be gone within 2 s of a cancel."""

_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True)


def run(control: int, status: int, theirs: list[int], fields: Fields) -> NoReturn:
    """Run as the reaper of one command, in a process that was just forked. Does not return.

    `control` is read: a byte asks to end the command. `status` is written: the wait status of the command's bash.
    `theirs` are the command's stdin, stdout, stderr and the pipe for its last directory. `fields` are those of the
    RUN.
    """
    code = 70
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
            signal.signal(number, signal.SIG_IGN)
        take_in_orphans()
        first = os.fork()
        if not first:
            _become(theirs, fields)
        _close_all_but(control, status)
        Reaper(control, status, first).run()
        code = 0
    finally:
        os._exit(code)


class Reaper:
    """Waits for all processes of a command. `first` is the pid of its bash."""

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

    def run(self) -> None:
        """Wait until no process is left."""
        poll = select.poll()
        poll.register(self._died, select.POLLIN)
        poll.register(self._control, select.POLLIN)
        while self._reap():
            ready = dict(poll.poll(None if self._asked_at is None else 20))
            if self._died in ready:
                os.read(self._died, 4096)
            if self._control in ready:
                if not os.read(self._control, 64):
                    poll.unregister(self._control)  # the client has exited
                self._ask()
            if self._asked_at is not None and time.monotonic() - self._asked_at > ASK_S:
                end_all(os.getpid())

    def _reap(self) -> bool:
        """Reap the processes that have exited. Returns whether any process is left."""
        while True:
            try:
                pid, how = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not pid:
                return True
            if pid == self._first:
                _report(self._status, b"%d\n" % how)

    def _ask(self) -> None:
        """Send TERM to all processes, and CONT, so that stopped ones receive it."""
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            for pid in _descendants(os.getpid()):
                _kill(pid, signal.SIGTERM)
                _kill(pid, signal.SIGCONT)


def _become(theirs: list[int], fields: Fields) -> NoReturn:
    """Turn this process into the command."""
    code = 126
    try:
        os.setsid()
        for number in range(1, 65):
            if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
                signal.signal(number, signal.SIG_DFL)
        for fd, number in zip(theirs, (0, 1, 2, PLACE_FD), strict=True):
            os.dup2(fd, number)
            os.set_inheritable(number, True)  # dup2 does not do this if both numbers are the same
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
            shell = b"/bin/sh" if fields.get("shell") == b"sh" else b"/bin/bash"
            os.execve(shell, [shell, b"-c", fields.get("arg")], environment)
    except OSError as error:
        os.write(2, b"bridge: the container cannot run it: %s\n" % os.strerror(error.errno or 0).encode())
    finally:
        os._exit(code)


# Processes


def take_in_orphans() -> None:
    """Become the subreaper: orphaned descendants become children of this process."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_all(top: int, spared: Iterable[int] = ()) -> None:
    """Kill all descendants of `top`, except `spared` and their descendants.

    All are stopped first, so that none can fork meanwhile.
    """
    held: set[int] = set()
    while new := set(_descendants(top, spared)) - held:
        for pid in new:
            _kill(pid, signal.SIGSTOP)
        held |= new
    for pid in held:
        _kill(pid, signal.SIGKILL)


def _descendants(top: int, spared: Iterable[int] = ()) -> list[int]:
    """Return all descendants of `top`, except the spared processes and their descendants."""
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


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        return  # it has exited


def _report(fd: int, data: bytes) -> None:
    try:
        os.write(fd, data)
    except OSError:
        return  # the client has exited


def _close_all_but(*kept: int) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:
                continue  # the descriptor of the listing itself
