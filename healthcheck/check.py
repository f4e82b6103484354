"""The base class of checks. Each check has its own file in `healthcheck/checks/`, which holds the table of all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from healthcheck.facts import AgentFacts
    from healthcheck.probe import Probe

PASS, WARN, FAIL = "pass", "warn", "fail"


@dataclass(frozen=True)
class Finding:
    """The result of a check. `detail` says what to do when the check does not pass."""

    status: str
    detail: str
    age_s: float = 0.0


@dataclass(frozen=True)
class Metric:
    """One Prometheus metric family: rows of labels and values. `kind` is `gauge` or `counter`."""

    name: str
    kind: str
    meaning: str
    rows: tuple[tuple[dict[str, str], float], ...]


def gauge(name: str, meaning: str, value: float) -> Metric:
    """Return a family with one value and no labels, which may fall."""
    return Metric(name, "gauge", meaning, (({}, value),))


def counter(name: str, meaning: str, value: float) -> Metric:
    """Return a family with one value and no labels, which only grows."""
    return Metric(name, "counter", meaning, (({}, value),))


class Check:
    """One check: what it observes, how that is evaluated, and what the pages show of it."""

    name: ClassVar[str]
    required: ClassVar[bool] = False
    """A failure makes the agent unhealthy. A check that is not required warns at worst."""
    recoverable: ClassVar[bool] = False
    """The supervisor tries to repair a failure, and ends the container when that takes too long."""

    probes: Sequence[Probe[Any]] = ()

    def evaluate(self, agent: AgentFacts) -> Finding:
        """Evaluate the last observations."""
        raise NotImplementedError

    def metrics(self) -> Iterable[Metric]:
        """Return the metrics that /metrics shows beside the result."""
        return ()

    def details(self) -> dict[str, Any]:
        """Return what /status shows beside the result."""
        return {}


def size(count: float) -> str:
    """Return a number of bytes as text for people."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
