"""Observes something at a regular interval and keeps the result, so that an HTTP request does not have to wait."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


class ProbeError(Exception):
    """An observation failed. The text is shown to people."""


@dataclass(frozen=True)
class Observation(Generic[T]):
    """The last result: a value, or None and the problem. The problem is empty when nothing was observed yet."""

    value: T | None
    problem: str
    age_s: float

    @property
    def why_missing(self) -> str:
        """Return the text to show in place of a value."""
        return self.problem or "not seen yet"


class Probe(Generic[T]):
    """Observes every `every_s` seconds. An observation that exceeds `deadline_s` shows as hung until it returns."""

    def __init__(self, name: str, observe: Callable[[], Awaitable[T]], *, every_s: float, deadline_s: float) -> None:
        self.name = name
        self.changed: Callable[[], None] = lambda: None
        self.first = asyncio.Event()
        """Set when the first result exists."""
        self._observe = observe
        self._every_s = every_s
        self._deadline_s = deadline_s
        self._value: T | None = None
        self._problem = ""
        self._clock = asyncio.get_running_loop().time
        self._observed_at = self._clock()
        self._again = asyncio.Event()

    @property
    def last(self) -> Observation[T]:
        """Return the last result."""
        return Observation(self._value, self._problem, self._clock() - self._observed_at)

    def observe_again(self) -> None:
        """Observe now, or once more when an observation is in progress."""
        self._again.set()

    async def keep_observing(self) -> None:
        """Observe for ever, one observation at a time, so that none is added to one that hangs."""
        while True:
            self._again.clear()
            observation = asyncio.ensure_future(self._once())
            try:
                done, _ = await asyncio.wait({observation}, timeout=self._deadline_s)
                if not done:
                    self._remember(None, f"hung: no answer in {self._deadline_s:g} s")
                self._remember(*await observation)
            finally:
                observation.cancel()
            with contextlib.suppress(TimeoutError):  # ignored because this is the usual case: the interval has passed
                async with asyncio.timeout(self._every_s):
                    await self._again.wait()

    async def _once(self) -> tuple[T | None, str]:
        try:
            return await self._observe(), ""
        except ProbeError as error:
            return None, str(error)
        except Exception as error:  # an error in a check must not end the agent
            return None, f"{self.name} cannot be looked at: {type(error).__name__}: {error}"

    def _remember(self, value: T | None, problem: str) -> None:
        self._value, self._problem = value, problem
        self._observed_at = self._clock()
        self.first.set()
        self.changed()
