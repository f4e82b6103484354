"""A value that comes later, and how a task is told to leave its await."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Generic, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

T = TypeVar("T")


class Cancelled(BaseException):
    """Thrown into a task that somebody cancelled."""


class Future(Generic[T]):
    """A value that comes later."""

    def __init__(self) -> None:
        self.done = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[], None]] = []

    def set(self, value: T) -> None:
        """Give the value; a second one is ignored because the first has been acted on."""
        if not self.done:
            self._value = value
            self._finish()

    def fail(self, error: BaseException) -> None:
        """Raise `error` in whoever awaits."""
        if not self.done:
            self._error = error
            self._finish()

    def result(self) -> T:
        """Return the value or raise the error; only once done."""
        if self._error is not None:
            raise self._error
        return cast("T", self._value)

    def on_done(self, callback: Callable[[], None]) -> None:
        """Call back when done, at once if it already is."""
        if self.done:
            callback()
        else:
            self._callbacks.append(callback)

    def forget(self, callback: Callable[[], None]) -> None:
        """Undo `on_done`."""
        with contextlib.suppress(ValueError):  # ignored because it has then been called already
            self._callbacks.remove(callback)

    def __await__(self) -> Generator[Future[T], None, T]:
        if not self.done:
            yield self
        return self.result()

    def _finish(self) -> None:
        self.done = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()
