"""asyncio's event loop on a clock that stands still while the container is paused.

After a pause no deadline has passed and no result is old, so a resumed agent does not look as if it had hung.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

PAUSE_S = 1.0
"""A turn of the loop that takes this much longer than it was meant to wait shows that the container was paused."""


class PauseClockLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time()` does not count pauses. An unexpected error ends it."""

    def __init__(self) -> None:
        self.on_pause: Callable[[float], None] = lambda _seconds: None
        self._paused_s = 0.0
        self._turned_at = time.monotonic()
        self._failure: BaseException | None = None
        super().__init__(_Selector(self._after_wait))
        self.set_exception_handler(lambda _loop, context: self._fail(context))

    def time(self) -> float:
        """Return the seconds on a clock that does not count pauses."""
        return time.monotonic() - self._paused_s

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run the coroutine to its end and return its value.

        An error in a callback, or in a task that nobody awaits, ends the run with that error. A supervisor with a
        failed part is worse than one that is started again.
        """
        try:
            return self.run_until_complete(coroutine)
        except RuntimeError:
            if self._failure is None:
                raise
            raise self._failure from None

    def _fail(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if "socket" in context and isinstance(error, OSError):
            return  # ignored because asyncio accepts again after a second: descriptors or memory were exhausted
        self._failure = self._failure or error or RuntimeError(context["message"])
        self.stop()

    def _after_wait(self, timeout: float | None) -> None:
        """Detect a pause. It is measured from turn to turn, because it may come while the loop works."""
        now = time.monotonic()
        late, self._turned_at = now - self._turned_at - (timeout or 0.0), now
        if timeout is not None and late > PAUSE_S:
            self._paused_s += late
            self.on_pause(late)


class _Selector(selectors.EpollSelector):
    """An epoll selector that reports the end of each wait, and how long the wait was meant to be."""

    def __init__(self, after_wait: Callable[[float | None], None]) -> None:
        super().__init__()
        self._after_wait = after_wait

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(timeout)
        self._after_wait(timeout)
        return ready
