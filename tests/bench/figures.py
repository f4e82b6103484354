"""One figure: a measured value and its limit."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.errors import Problem


@dataclass(frozen=True)
class Figure:
    """A measured value with its limit and goal. With `more_is_better` the limit is a minimum."""

    name: str
    value: float
    unit: str
    limit: float
    goal: float | None = None
    more_is_better: bool = False

    @property
    def holds(self) -> bool:
        """Whether the value is within its limit."""
        return self.value >= self.limit if self.more_is_better else self.value <= self.limit


def sizes(usual: Sequence[int]) -> Sequence[int]:
    """Return how many of something are measured. BENCH_SIZES=1,3 in the environment chooses others."""
    chosen = os.environ.get("BENCH_SIZES", "")
    if not re.fullmatch(r"([1-9][0-9]{0,3}(,[1-9][0-9]{0,3})*)?", chosen):
        raise Problem(f"BENCH_SIZES is {chosen!r}; give whole numbers such as 1,5,10", 64)
    return [int(each) for each in chosen.split(",")] if chosen else usual


def seconds(command: Sequence[str]) -> float:
    """Return the wall time of one successful run of `command`."""
    begun = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - begun


def paired(one: Callable[[], float], other: Callable[[], float], pairs: int) -> tuple[float, float]:
    """Measure two things alternately. Returns the medians, after one warm-up of each."""
    one()
    other()
    taken = [(one(), other()) for _ in range(pairs)]
    return statistics.median(first for first, _ in taken), statistics.median(second for _, second in taken)
