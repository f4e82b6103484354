"""Do the same for many agents: several at a time, with a line for each as it is done."""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import TypeVar

from pipeline.errors import Problem
from pipeline.reporting import Say

START_AT_ONCE = min(16, 2 * (os.cpu_count() or 1))
"""Agents that start at the same time. Each needs a second of a processor; more of them only wait for each other."""
STOP_AT_ONCE = 16
"""Agents that stop at the same time. Most of that time is the grace for what runs in them."""
SHOWN = 5

T = TypeVar("T")


class Told:
    """What several agents' commands say. A line that differs only in the agent and in numbers is said once.

    `finish` says how many others said the like.
    """

    def __init__(self, say: Say) -> None:
        self._say = say
        self._lock = threading.Lock()
        self._first: dict[str, str] = {}
        self._count: Counter[str] = Counter()

    def of(self, name: str, *own: str) -> Say:
        """Return where the command for one agent says its lines. `own` is text that only its lines have."""

        def say(line: str) -> None:
            key = line
            for each in sorted((name, *own), key=len, reverse=True):
                key = key.replace(each, "")
            key = re.sub(r"\d+", "", key)
            with self._lock:
                self._count[key] += 1
                if key not in self._first:
                    self._first[key] = line if name in line else f"{name}: {line}"
                    self._say(self._first[key])

        return say

    def finish(self) -> None:
        """Say what was said more than once."""
        for key, line in self._first.items():
            if (more := self._count[key] - 1) > 0:
                self._say(f"likewise for {more} more agent{'s' * (more > 1)}: {line}")


def at_once(
    names: Sequence[str], work: Callable[[str], T], bound: int, done: Callable[[str, T | Problem], None]
) -> dict[str, T | Problem]:
    """Call `work` with each name, for at most `bound` at a time. `done` is told each result, or its `Problem`.

    When this process is interrupted, those that were not begun are left out.
    """
    results: dict[str, T | Problem] = {}
    with ThreadPoolExecutor(min(bound, len(names)) or 1) as pool:
        futures: dict[Future[T], str] = {pool.submit(work, name): name for name in names}
        try:
            for future in as_completed(futures):
                name = futures[future]
                try:
                    results[name] = future.result()
                except Problem as problem:
                    results[name] = problem
                done(name, results[name])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


def raise_failures(results: dict[str, T | Problem], what: str) -> list[T]:
    """Return the results in the order of names. Raises one `Problem` for all that failed: `what` they could not do."""
    failed = {name: found for name, found in results.items() if isinstance(found, Problem)}
    if len(results) == 1:
        for problem in failed.values():
            raise problem
    if failed:
        few = ", ".join(sorted(failed)[:SHOWN]) + (" ..." if len(failed) > SHOWN else "")
        raise Problem(
            f"{len(failed)} of {len(results)} agents could not be {what} ({few}), for the reasons above; type the same "
            "command again once that is mended",
            next(iter(failed.values())).code,
        )
    return [found for _, found in sorted(results.items()) if not isinstance(found, Problem)]
