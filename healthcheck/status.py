"""The results of all checks, and the overall status."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from healthcheck.check import FAIL, PASS, WARN, Check
from healthcheck.facts import STARTING, STOPPING

if TYPE_CHECKING:
    from healthcheck.facts import AgentFacts

STATUSES = ("healthy", "degraded", "starting", "unhealthy", "stopping")


@dataclass(frozen=True)
class Result:
    """One result, as the pages show it."""

    name: str
    required: bool
    status: str
    detail: str
    age_s: float

    def as_json(self) -> dict[str, Any]:
        """Return the row as /health shows it."""
        return {
            "status": self.status,
            "required": self.required,
            "detail": self.detail,
            "age_s": round(max(0.0, self.age_s), 1),
        }


def results(checks: Iterable[Check], agent: AgentFacts) -> list[Result]:
    """Evaluate all checks, in the order of their table."""
    return [_result(check, agent) for check in checks]


def overall_status(phase: str, found: Iterable[Result]) -> str:
    """Return the overall status, one of STATUSES."""
    if phase in (STARTING, STOPPING):
        return phase
    found = list(found)
    if any(result.required and result.status == FAIL for result in found):
        return "unhealthy"
    return "healthy" if all(result.status == PASS for result in found) else "degraded"


def _result(check: Check, agent: AgentFacts) -> Result:
    finding = check.evaluate(agent)
    status = WARN if finding.status == FAIL and not check.required else finding.status
    return Result(check.name, check.required, status, finding.detail, finding.age_s)
