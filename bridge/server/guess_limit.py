"""Clients of one grant that name a workspace which is not the grant's: counted, and slower with each."""

from __future__ import annotations

import time

FREE = 3
"""Wrong names that cost nothing: a container that was started with the wrong mount, and its health check."""

FIRST_S, MOST_S = 0.1, 5.0
"""What the first one beyond them costs, and the most that any does. It doubles in between."""

FORGET_S = 60.0
"""Without a wrong name, until all is forgotten."""


class Guesses:
    """Of one grant. Right and wrong clients wait alike, so that the time tells nothing."""

    def __init__(self) -> None:
        self.count = 0
        """Wrong names since the server started."""
        self._lately = 0
        self._last = 0.0
        self._open_at = 0.0

    def wait(self, now: float | None = None) -> float:
        """Seconds until the next client of the grant is answered."""
        return max(0.0, self._open_at - (time.monotonic() if now is None else now))

    def wrong(self, now: float | None = None) -> None:
        """Take note of a wrong name."""
        now = time.monotonic() if now is None else now
        if now - self._last > FORGET_S:
            self._lately = 0
        self.count += 1
        self._lately += 1
        self._last = now
        if self._lately > FREE:
            self._open_at = now + min(MOST_S, FIRST_S * 2 ** min(self._lately - FREE - 1, 20))
