"""Wait for something to happen, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipeline.errors import Problem

PAUSE_S = 0.05


def wait_until(happened: Callable[[], bool], limit_s: float, otherwise: str) -> None:
    """Ask repeatedly. Raises a `Problem` with the text `otherwise` after `limit_s` seconds."""
    deadline = time.monotonic() + limit_s
    while not happened():
        if time.monotonic() > deadline:
            raise Problem(otherwise)
        time.sleep(PAUSE_S)
