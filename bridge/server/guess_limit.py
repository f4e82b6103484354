"""Limits how fast the clients of one grant can guess workspaces.

A client that names a wrong workspace is counted. Each wrong name delays the next answer.
"""

from __future__ import annotations

import time

FREE = 3
"""Wrong names without a delay. A container that was started with the wrong mount sends some."""

FIRST_S, MOST_S = 0.1, 5.0
"""Delay of the first wrong name beyond FREE, and the longest delay, seconds. It doubles in between."""

FORGET_S = 60.0
"""The count for the delay starts again after so many seconds without a wrong name."""


class GuessLimit:
    """The limit of one grant. All its clients wait equally long, so the time reveals nothing."""

    def __init__(self) -> None:
        self.count = 0
        """Number of wrong names since the server started."""
        self._lately = 0
        self._last = 0.0
        self._open_at = 0.0

    def wait(self, now: float | None = None) -> float:
        """Return the seconds until the next client of the grant is answered."""
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
