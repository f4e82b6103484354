"""Looking at the world at a steady pace and remembering what was seen, so that an HTTP request costs nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from agent.future import Future

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent.loop import Loop

T = TypeVar("T")


class ProbeError(Exception):
    """A look that failed, with the sentence to show."""


class Probe(Generic[T]):
    """One thing to look at every `every_s`; a look that exceeds `deadline_s` shows as hung until it returns."""

    def __init__(
        self, loop: Loop, name: str, look: Callable[[], Awaitable[T]], *, every_s: float, deadline_s: float
    ) -> None:
        self.name = name
        self.value: T | None = None
        self.trouble = ""
        self.looks = 0
        self.changed: Callable[[], None] = lambda: None
        self._loop = loop
        self._look = look
        self._every_s = every_s
        self._deadline_s = deadline_s
        self._seen_at = loop.now()
        self._again: Future[None] = Future()
        self.first_look: Future[None] = Future()

    @property
    def age_s(self) -> float:
        """Return how old the last result is."""
        return self._loop.now() - self._seen_at

    def look_again(self) -> None:
        """Look now, or once more when a look is under way."""
        self._again.set(None)

    async def keep_looking(self) -> None:
        """Look for ever; one look at a time, so that a hung one is never joined by a second."""
        while True:
            self._again = Future()
            look = self._loop.start(self._one_look())
            if not await self._loop.first_of(look, timeout_s=self._deadline_s):
                self._saw(None, f"hung: no answer in {self._deadline_s:g} s")
            self._saw(*await look)
            await self._loop.first_of(self._again, timeout_s=self._every_s)

    async def _one_look(self) -> tuple[T | None, str]:
        try:
            return await self._look(), ""
        except ProbeError as error:
            return None, str(error)
        except Exception as error:  # a check that is broken must not take the agent down
            return None, f"{self.name} cannot be looked at: {type(error).__name__}: {error}"

    def _saw(self, value: T | None, trouble: str) -> None:
        self.value, self.trouble = value, trouble
        self.looks += 1
        self._seen_at = self._loop.now()
        self.first_look.set(None)
        self.changed()
