"""Frees calls from named pipes in a workspace, at which the CLI's file tools would wait forever.

A thread that waits while it opens a pipe is freed: the server opens the other end for a moment, and the tool reads
an empty file. A pipe that stays open (because its writer is silent, or the CLI opens it again and again) cannot be
taken away from the CLI. That call is ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import platform
import stat
from collections.abc import Iterator
from pathlib import Path

from bridge.server.sandbox import processes

PATIENCE = 5
"""Number of checks in which the same pipe may be open. After that the call ends."""

_OPEN = {"x86_64": {2: 0, 257: 1, 437: 1}, "aarch64": {56: 1, 437: 1}}.get(platform.machine(), {})
"""System calls that open a file, and the index of the argument that holds its name."""
AT_FDCWD = -100
MAX_PROCESSES = 256
"""Processes of one call that are checked: more than it can have hooks and servers."""

MAX_OPENING = 32
"""Threads opening a file that are checked each time, because a name can be made slow to resolve."""

OPENAT2, RESOLVE_IN_ROOT = 437, 0x10


class Watch:
    """The pipes that the processes of one call hold open, over several checks."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, str], int] = {}

    def look(self, top: int) -> bool:
        """Free the threads below a process that wait for a pipe. Returns whether a pipe has been open for too long."""
        held: dict[tuple[int, str], int] = {}
        opening = 0
        for pid in itertools.islice(processes.of_call(top), MAX_PROCESSES):
            with contextlib.suppress(OSError, ValueError):  # ignored because the thread may have continued, or ended
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    if opening < MAX_OPENING:
                        opening += _freed(pid, thread)
                for name in _pipes(pid):
                    held[pid, name] = self._held.get((pid, name), 0) + 1
        self._held = held
        return max(held.values(), default=0) > PATIENCE


def _pipes(pid: int) -> Iterator[str]:
    """Yield the named pipes that a process has open. Pipes between processes have no name."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        target = str(descriptor.readlink())
        if target.startswith("/") and descriptor.is_fifo():
            yield target


def _freed(pid: int, thread: Path) -> bool:
    """Free a thread if it waits for a pipe. Returns whether it is opening a file."""
    with contextlib.suppress(OSError, ValueError):  # ignored because the thread may have continued, or ended
        return _free(pid, (thread / "syscall").read_text())
    return True


def _free(pid: int, doing: str) -> bool:
    """Free a thread that opens a pipe. `doing` is its system call. Returns whether it is opening a file."""
    number, *words = doing.split()
    at = _OPEN.get(int(number)) if number.isdigit() else None
    if at is None:
        return False
    arguments = [int(word, 16) for word in words[:2]]
    path = _text(pid, arguments[at])
    if not path.startswith("/"):
        base = ctypes.c_int(arguments[0] & 0xFFFFFFFF).value if at else AT_FDCWD
        path = str(Path(f"/proc/{pid}/{'cwd' if base == AT_FDCWD else f'fd/{base}'}").readlink() / path)
    pipe = _open_inside(pid, path)
    try:
        if stat.S_ISFIFO(os.fstat(pipe).st_mode):
            for how in (os.O_WRONLY, os.O_RDONLY):
                with contextlib.suppress(OSError):  # ignored because it may wait for the other end
                    os.close(os.open(f"/proc/self/fd/{pipe}", how | os.O_NONBLOCK | os.O_CLOEXEC))
    finally:
        os.close(pipe)
    return True


def _text(pid: int, address: int) -> str:
    """Return the file name at an address of the process. Raises OSError."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        return os.fsdecode((memory.read(4096) or b"").split(b"\0")[0])


def _open_inside(pid: int, path: str) -> int:
    """Return a descriptor of what a path means to the process. The path is resolved inside the process's root.
    Raises OSError."""
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        how = (ctypes.c_uint64 * 3)(os.O_PATH | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT)
        libc = ctypes.CDLL(None, use_errno=True)
        found = libc.syscall(OPENAT2, root, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
    finally:
        os.close(root)
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(found)
