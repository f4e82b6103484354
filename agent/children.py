"""Starting programs and noticing their end.

By posix_spawn, so that a failure to start arrives as an errno, and a thread in the parent is no danger.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.future import Future
from agent.loop import READABLE, Loop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OUTPUT_LIMIT = 4 * 1024 * 1024
"""A runaway child must not fill the supervisor's memory; a tmux listing of 1,000 panes is 0.2 MB."""

IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
"""The interpreter ignores these, and ignoring survives exec: children get the default action back."""


class TooSlowError(Exception):
    """A child did not end within its deadline and was killed."""


@dataclass(frozen=True)
class Finished:
    """How a child ended: `code` is 128+n after signal n."""

    code: int
    out: str
    err: str


def exit_code(wait_status: int) -> int:
    """Return the shell's reading of a wait status."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code


def spawn(
    argv: Sequence[str],
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    own_session: bool = False,
    environ: Mapping[str, str] | None = None,
) -> int:
    """Start a program found on PATH, /dev/null where no descriptor is given; return its pid."""
    actions: list[tuple[int, int, int] | tuple[int, int, str, int, int]] = []
    for number, fd in enumerate((stdin, stdout, stderr)):
        if fd is None:
            actions.append((os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0))
        else:
            actions.append((os.POSIX_SPAWN_DUP2, fd, number))
    return os.posix_spawnp(
        argv[0],
        list(argv),
        os.environ if environ is None else environ,
        file_actions=actions,
        setsigdef=IGNORED_BY_PYTHON,
        setsid=own_session,
    )


def gone(loop: Loop, pid: int) -> Future[None]:
    """Return a future that is done when the process is, whoever its parent may be."""
    future: Future[None] = Future()
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        future.set(None)
        return future

    def ended(_events: int) -> None:
        loop.unwatch(fd)
        os.close(fd)
        future.set(None)

    loop.watch(fd, READABLE, ended)
    return future


def exit_of(loop: Loop, pid: int) -> Future[int]:
    """Return a future of the exit code of a child of ours; reaps it."""
    future: Future[int] = Future()
    gone(loop, pid).on_done(lambda: future.set(exit_code(os.waitpid(pid, 0)[1])))
    return future


async def run(loop: Loop, argv: Sequence[str], deadline_s: float, stdout: int | None = None) -> Finished:
    """Run a program to its end and collect what it says; OSError when it cannot be started."""
    out_pipe, err_pipe = _Pipe(loop), _Pipe(loop)
    try:
        pid = spawn(argv, stdout=out_pipe.writer if stdout is None else stdout, stderr=err_pipe.writer)
        out_pipe.close_writer()
        err_pipe.close_writer()
        ended = exit_of(loop, pid)
        if not await loop.first_of(ended, timeout_s=deadline_s):
            os.kill(pid, signal.SIGKILL)
            await ended
            raise TooSlowError(f"`{' '.join(argv[:2])}` gave no answer in {deadline_s:g} s")
        return Finished(ended.result(), out_pipe.rest(), err_pipe.rest())
    finally:
        out_pipe.close()
        err_pipe.close()


class _Pipe:
    """Collects what a child writes, while it writes, so that it never waits for us."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._reader, self.writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._reader, False)
        self._data = bytearray()
        self._open = True
        loop.watch(self._reader, READABLE, self._on_readable)

    def close_writer(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def rest(self) -> str:
        """Return all that was written; not until end of file, which a grandchild could delay for ever."""
        while self._open and self._read():
            pass
        return self._data.decode(errors="replace")

    def close(self) -> None:
        self.close_writer()
        self._stop()

    def _on_readable(self, _events: int) -> None:
        self._read()

    def _read(self) -> bool:
        try:
            chunk = os.read(self._reader, 65536)
        except BlockingIOError:
            return False
        if len(self._data) < OUTPUT_LIMIT:
            self._data += chunk
        if not chunk:
            self._stop()
        return bool(chunk)

    def _stop(self) -> None:
        if self._open:
            self._open = False
            self._loop.unwatch(self._reader)
            os.close(self._reader)
