"""A limit on clients of one grant that name a workspace which is not the grant's.

They are counted, and each makes the next answer slower.
"""

from __future__ import annotations

import time

FREE = 3
"""Wrong names that cost nothing: a container that was started with the wrong mount sends some."""

FIRST_S, MOST_S = 0.1, 5.0
"""Seconds that the first wrong name beyond them costs, and the most that any costs. It doubles in between."""

FORGET_S = 60.0
"""Without a wrong name for so long, all are forgotten."""


class GuessLimit:
    """The limit of one grant. Right and wrong clients wait alike, so the time reveals nothing."""

    def __init__(self) -> None:
        self.count = 0
        """Wrong names since the server started."""
        self._lately = 0
        self._last = 0.0
        self._open_at = 0.0

    def wait(self, now: float | None = None) -> float:
        """Seconds until the next client of the grant is answered."""
        return max(0.0, self._open_at - (time.monotonic() if now is None else now))

    def count_wrong(self, now: float | None = None) -> None:
        """Count a wrong name."""
        now = time.monotonic() if now is None else now
        if now - self._last > FORGET_S:
            self._lately = 0
        self.count += 1
        self._lately += 1
        self._last = now
        if self._lately > FREE:
            self._open_at = now + min(MOST_S, FIRST_S * 2 ** min(self._lately - FREE - 1, 20))
