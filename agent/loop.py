"""An event loop for one thread: coroutines, timers, descriptors, signals, results from helper threads.

asyncio would do, but costs 100 ms at start and 7 MB; what runs here needs a fraction of it.
Rules: nothing in this file blocks except the poll; an exception in a task nobody awaits ends `run` with it,
because a supervisor with a dead limb is worse than one that is started anew.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import select
import signal
import time
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from agent.future import Cancelled, Future

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

PAUSE_S = 1.0
"""A turn that takes this much longer than its wait means that the container was paused."""

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT


class Task(Future[T]):
    """A coroutine being driven."""

    def __init__(self, loop: Loop, coroutine: Coroutine[Any, Any, T]) -> None:
        super().__init__()
        self._loop = loop
        self._coroutine = coroutine
        self._waiting: Future[Any] | None = None
        self._cancelled = False
        loop.call_soon(self._step)

    def cancel(self) -> None:
        """Throw `Cancelled` into the coroutine at its present await."""
        if not self.done and not self._cancelled:
            self._cancelled = True
            self._waiting = None
            self._loop.call_soon(self._step)

    def _step(self) -> None:
        if self.done:
            return
        throw, self._cancelled = self._cancelled, False
        try:
            future = self._coroutine.throw(Cancelled()) if throw else self._coroutine.send(None)
        except StopIteration as stop:
            self.set(stop.value)
        except Cancelled as cancelled:
            self.fail(cancelled)
        except Exception as error:
            if not self._callbacks:
                self._loop.crash(error)
            self.fail(error)
        else:
            self._wait_for(future)

    def _wait_for(self, future: Future[Any]) -> None:
        self._waiting = future

        def resume() -> None:
            if self._waiting is future:  # not so when cancelled meanwhile
                self._waiting = None
                self._loop.call_soon(self._step)

        future.on_done(resume)


class Timer:
    """A call that will be made at `when`, unless cancelled."""

    __slots__ = ("call", "when")

    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Make the timer do nothing."""
        self.call = None


class Loop:
    """The one loop of the process."""

    def __init__(self) -> None:
        self.on_pause: Callable[[float], None] = lambda _seconds: None
        self._poll = select.epoll()
        self._ready: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._watches: dict[int, Callable[[int], None]] = {}
        self._signals: deque[int] = deque()
        self._on_signal: dict[int, Callable[[], None]] = {}
        self._from_threads: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._paused_s = 0.0
        self._turned_at = time.monotonic()
        self._crash: Exception | None = None
        self.watch(self._wake, READABLE, lambda _events: self._drain_wake())

    # -- time ---------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Seconds on a clock that stands still while the container is paused."""
        return time.monotonic() - self._paused_s

    def call_later(self, delay_s: float, call: Callable[[], None]) -> Timer:
        """Call once, after `delay_s`."""
        timer = Timer(self.now() + delay_s, call)
        heapq.heappush(self._timers, (timer.when, next(self._order), timer))
        return timer

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` pass."""
        await self.first_of(timeout_s=seconds)

    async def first_of(self, *futures: Future[Any], timeout_s: float | None = None) -> bool:
        """Wait until one of `futures` is done; false when the time was over first."""
        gate: Future[bool] = Future()

        def open_gate() -> None:
            gate.set(True)

        timer = None if timeout_s is None else self.call_later(timeout_s, lambda: gate.set(False))
        for future in futures:
            future.on_done(open_gate)
        try:
            return await gate
        finally:
            if timer is not None:
                timer.cancel()
            for future in futures:
                future.forget(open_gate)

    # -- what happens -------------------------------------------------------------------------------------

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Task[T]:
        """Drive a coroutine from now on."""
        return Task(self, coroutine)

    def call_soon(self, call: Callable[[], None]) -> None:
        """Call in the next turn."""
        self._ready.append(call)

    def call_from_thread(self, call: Callable[[], None]) -> None:
        """Call in the loop's thread; the one method other threads may use."""
        self._from_threads.append(call)
        os.eventfd_write(self._wake, 1)

    def watch(self, fd: int, events: int, call: Callable[[int], None]) -> None:
        """Call with the events whenever `fd` is ready, until `unwatch`."""
        if fd in self._watches:
            self._poll.modify(fd, events)
        else:
            self._poll.register(fd, events)
        self._watches[fd] = call

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor; to be done before it is closed."""
        if self._watches.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def on_signal(self, signum: int, call: Callable[[], None]) -> None:
        """Call in the loop when a signal arrives. exec gives children the default action back."""
        self._on_signal[signum] = call
        signal.signal(signum, lambda number, _frame: self._signals.append(number))
        signal.set_wakeup_fd(self._wake_socket(), warn_on_full_buffer=False)

    def crash(self, error: Exception) -> None:
        """End `run` with this error."""
        self._crash = self._crash or error

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Turn until the coroutine has ended; return its value."""
        main = self.start(coroutine)
        main.on_done(lambda: None)  # its error is raised here, it is not a limb that died
        while not main.done:
            self._turn()
            if self._crash is not None:
                raise self._crash
        return main.result()

    # -- one turn -----------------------------------------------------------------------------------------

    def _turn(self) -> None:
        timeout = self._patience()
        events = self._poll.poll(-1 if timeout is None else timeout)
        now = time.monotonic()
        # measured from turn to turn: a pause may as well come in the middle of the work
        overslept, self._turned_at = now - self._turned_at - (timeout or 0.0), now
        if timeout is not None and overslept > PAUSE_S:
            self._paused_s += overslept
            self.on_pause(overslept)
        for fd, mask in events:
            call = self._watches.get(fd)
            if call is not None:  # not so when an earlier event of this turn unwatched it
                call(mask)
        self._run_signals()
        self._run_timers()
        for _ in range(len(self._ready)):
            self._ready.popleft()()

    def _patience(self) -> float | None:
        if self._ready or self._signals:
            return 0.0
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - self.now()) if self._timers else None

    def _run_signals(self) -> None:
        while self._signals:
            self._on_signal[self._signals.popleft()]()

    def _run_timers(self) -> None:
        now = self.now()
        while self._timers and self._timers[0][0] <= now:
            call = heapq.heappop(self._timers)[2].call
            if call is not None:
                call()

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # ignored because another turn has drained it
            os.eventfd_read(self._wake)
        while self._from_threads:
            self._from_threads.popleft()()

    def _wake_socket(self) -> int:
        """Make, once, the pipe for the interpreter's signal handler; it writes single bytes, no eventfd."""
        if not hasattr(self, "_signal_pipe"):
            reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            self._signal_pipe = writer
            self.watch(reader, READABLE, lambda _events: _drain(reader))
        return self._signal_pipe


def _drain(fd: int) -> None:
    with contextlib.suppress(BlockingIOError):  # ignored because empty is what was wanted
        while os.read(fd, 4096):
            pass
