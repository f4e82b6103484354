"""Helper threads for what may block: a disk that hangs blocks its own thread and nothing else."""

from __future__ import annotations

import _thread
import asyncio
import contextlib
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Worker:
    """One thread that does one job after another, for the running event loop.

    It starts at once and not at the first job (as a ThreadPoolExecutor does), so that an exhausted pids limit cannot
    stop the checks. It is a plain `_thread`, because the interpreter does not wait for those when it exits.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        _thread.start_new_thread(self._work, ())

    def call(self, job: Callable[[], T]) -> asyncio.Future[T]:
        """Do a job in the thread. Its result or exception comes through the future."""
        future: asyncio.Future[T] = self._loop.create_future()

        def do() -> None:
            try:
                value = job()
            except Exception as error:  # of any kind: the thread must go on
                self._in_loop(_fail, future, error)
            else:
                self._in_loop(_succeed, future, value)

        self._jobs.put(do)
        return future

    def _in_loop(self, finish: Callable[..., None], future: asyncio.Future[T], result: object) -> None:
        with contextlib.suppress(RuntimeError):  # ignored because the loop has been closed: nobody waits any more
            self._loop.call_soon_threadsafe(finish, future, result)

    def _work(self) -> None:
        while True:
            self._jobs.get()()


def _succeed(future: asyncio.Future[T], value: T) -> None:
    if not future.done():  # it is done when its waiter was cancelled
        future.set_result(value)


def _fail(future: asyncio.Future[T], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
