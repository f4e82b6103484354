"""What a check is. Each lives in a file of its own in `healthcheck/checks/`, whose table lists them all."""

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
    """What a check found: `detail` says what to do where it does not pass."""

    status: str
    detail: str
    age_s: float = 0.0


@dataclass(frozen=True)
class Metric:
    """One family of Prometheus: rows of labels and values. `kind` is `gauge` or `counter`."""

    name: str
    kind: str
    meaning: str
    rows: tuple[tuple[dict[str, str], float], ...]


def gauge(name: str, meaning: str, value: float) -> Metric:
    """Return a family of one value without labels, which may fall."""
    return Metric(name, "gauge", meaning, (({}, value),))


def counter(name: str, meaning: str, value: float) -> Metric:
    """Return a family of one value without labels, which only grows."""
    return Metric(name, "counter", meaning, (({}, value),))


class Check:
    """One check: what it observes, what that means, what the pages show of it."""

    name: ClassVar[str]
    required: ClassVar[bool] = False
    """Makes the agent unhealthy when it fails; one that is not required warns at worst."""
    recoverable: ClassVar[bool] = False
    """The supervisor works on it when it fails, and ends the container when that fails for too long."""

    probes: Sequence[Probe[Any]] = ()

    def evaluate(self, agent: AgentFacts) -> Finding:
        """Return what the last observations mean."""
        raise NotImplementedError

    def metrics(self) -> Iterable[Metric]:
        """Return the numbers that /metrics shows beside the result."""
        return ()

    def details(self) -> dict[str, Any]:
        """Return what /status shows beside the result."""
        return {}


def size(count: float) -> str:
    """Return bytes for people."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
