"""Start programs and notice their end.

This uses posix_spawn, a pidfd and two pipes, and not asyncio's subprocesses. With those, a wait ends only when every
process has closed the child's pipes, and each child needs a new thread, which cannot start when the pids limit is
reached.
"""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.waiting import first_of, new_future, set_once

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

OUTPUT_LIMIT = 4 * 1024 * 1024
"""In bytes. A runaway child must not fill the supervisor's memory; a tmux listing of 1,000 panes is 0.2 MB."""

IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
"""The interpreter ignores these signals, and a child would inherit that. So children get the default action back."""


class TooSlowError(Exception):
    """A child did not end within its deadline and was killed."""


@dataclass(frozen=True)
class Finished:
    """How a child ended. `code` is 128+n after signal n."""

    code: int
    out: str
    err: str


def exit_code(wait_status: int) -> int:
    """Return the exit code of a wait status as a shell reports it."""
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
    """Start a program from PATH and return its pid. Descriptors not given are /dev/null. Raises OSError."""
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


def gone(pid: int) -> asyncio.Future[None]:
    """Return a future that is done when the process has ended. The process need not be our child."""
    future: asyncio.Future[None] = new_future()
    _when_gone(pid, lambda: set_once(future, None))
    return future


def exit_of(pid: int) -> asyncio.Future[int]:
    """Return a future of the exit code of our own child. It reaps the child."""
    future: asyncio.Future[int] = new_future()
    _when_gone(pid, lambda: set_once(future, exit_code(os.waitpid(pid, 0)[1])))
    return future


async def run(argv: Sequence[str], deadline_s: float, stdout: int | None = None) -> Finished:
    """Run a program to its end and collect its output.

    Raises OSError when it cannot be started, and TooSlowError when it has to be killed after `deadline_s`.
    """
    with _Pipe() as out, _Pipe() as err:
        pid = spawn(argv, stdout=out.writer if stdout is None else stdout, stderr=err.writer)
        out.close_writer()
        err.close_writer()
        ended = exit_of(pid)
        if not await first_of(ended, timeout_s=deadline_s):
            os.kill(pid, signal.SIGKILL)
            await first_of(ended)
            raise TooSlowError(f"`{' '.join(argv[:2])}` gave no answer in {deadline_s:g} s")
        return Finished(ended.result(), out.rest(), err.rest())


def _when_gone(pid: int, call: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        call()
        return

    def ended() -> None:
        loop.remove_reader(fd)
        os.close(fd)
        call()

    loop.add_reader(fd, ended)


class _Pipe:
    """Collects a child's output at once, so that the child never waits for the supervisor."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._data = bytearray()
        self._reader, self.writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._reader, False)
        self._is_open = True
        self._loop.add_reader(self._reader, self._read)

    def __enter__(self) -> _Pipe:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close_writer()
        self._stop()

    def close_writer(self) -> None:
        """Close our copy of the writing end, so that only the child has it."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def rest(self) -> str:
        """Return all output. Does not wait for the end of file, which a grandchild could delay for ever."""
        while self._is_open and self._read():
            pass
        return self._data.decode(errors="replace")

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
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._reader)
            os.close(self._reader)
