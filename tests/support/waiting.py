"""Waiting for something to become true, which is what tests do instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable

PAUSE_S = 0.05  # short beside anything that a container does, long enough to leave the processor to it


def wait_until(predicate: Callable[[], object], timeout: float, what: str) -> None:
    """Return once `predicate()` is true; fails after `timeout` seconds, saying that `what` did not come true."""
    deadline = time.monotonic() + timeout
    while not predicate():
        assert time.monotonic() < deadline, f"after {timeout} s it is still not so that {what}"
        time.sleep(PAUSE_S)
