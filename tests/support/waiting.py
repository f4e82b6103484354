"""The only module of the tests that sleeps."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

PACE_S = 0.05


def wait_until(predicate: Callable[[], T | None], timeout: float, what: str) -> T:
    """Return the first truthy answer of `predicate`; fail with `what` when there is none within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        answer = predicate()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s in vain for {what}; last answer: {answer!r}")
        time.sleep(PACE_S)


def stays(predicate: Callable[[], object], seconds: float, what: str) -> None:
    """Fail when `predicate` stops being true within `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert predicate(), f"{what} did not last {seconds:g} s"
        time.sleep(PACE_S)


def let_pass(seconds: float) -> None:
    """Let a chosen time pass, where the moment itself is tested (a signal in the middle of a start)."""
    time.sleep(seconds)


async def until(predicate: Callable[[], object], limit_s: float, what: str) -> None:
    """Wait on an event loop as `wait_until` does without one."""
    deadline = time.monotonic() + limit_s
    while not predicate():
        assert time.monotonic() < deadline, f"waited {limit_s:g} s in vain for {what}"
        await asyncio.sleep(PACE_S)


async def next_turn() -> None:
    """Let the event loop run once everything that is due."""
    await asyncio.sleep(0)


async def move_on(seconds: float) -> None:
    """Let time pass on a loop whose clock the test moves itself."""
    await asyncio.sleep(seconds)
