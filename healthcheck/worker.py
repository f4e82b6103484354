"""Helper threads for what may block: a disk that hangs takes its own thread with it and nothing else."""

from __future__ import annotations

import _thread
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

from agent.future import Future

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.loop import Loop

T = TypeVar("T")


class Worker:
    """One thread that does one job after another.

    Started at once rather than when needed, so that an exhausted pids limit cannot take the checks away. A plain
    `_thread`: the interpreter does not wait for it at the end.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        _thread.start_new_thread(self._work, ())

    def call(self, job: Callable[[], T]) -> Future[T]:
        """Do a job in the thread; its exception comes back through the future."""
        future: Future[T] = Future()

        def do() -> None:
            try:
                value = job()
            except Exception as error:  # whatever it is, the thread must live on
                failure = error
                self._loop.call_from_thread(lambda: future.fail(failure))
            else:
                self._loop.call_from_thread(lambda: future.set(value))

        self._jobs.put(do)
        return future

    def _work(self) -> None:
        while True:
            self._jobs.get()()
