"""Writes a moment for people, in the local time of whoever reads it."""

from __future__ import annotations

import time

SOON_S = 20 * 3600
"""Seconds up to which the time of day alone is clear."""


def moment(seconds: float) -> str:
    """Return a moment (seconds since the epoch) as `15:00 UTC`, or as `Tue 1 Dec 15:00 UTC` if it is far away."""
    local = time.localtime(seconds)
    far = abs(seconds - time.time()) > SOON_S
    day = f"{time.strftime('%a', local)} {local.tm_mday} {time.strftime('%b', local)} " if far else ""
    return day + time.strftime("%H:%M %Z", local)
