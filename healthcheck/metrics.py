"""Prometheus text, format 0.0.4."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from healthcheck.check import Metric, counter, gauge
from healthcheck.status import STATUSES, overall_status, results

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from healthcheck.check import Check
    from healthcheck.facts import AgentFacts

WORTH = {"pass": 1.0, "warn": 0.5, "fail": 0.0}


def exposition(agent: AgentFacts, checks: Sequence[Check], manifest: dict[str, Any], resident_kb: int) -> str:
    """Return all metrics as text."""
    families = [
        *_general(agent, checks, manifest),
        *(metric for check in checks for metric in check.metrics()),
        gauge("supervisor_resident_bytes", "Of supervisor and health.", resident_kb * 1024),
    ]
    return "".join(_text(family) for family in families)


def labels(pairs: dict[str, str]) -> str:
    """Return the labels of a line, escaped as the format requires."""
    if not pairs:
        return ""
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in pairs.items()) + "}"


def _general(agent: AgentFacts, checks: Sequence[Check], manifest: dict[str, Any]) -> Iterable[Metric]:
    found = results(checks, agent)
    status = overall_status(agent.phase, found)
    info = {
        "name": agent.name,
        "version": str(manifest.get("version", "unknown")),
        "variant": str(manifest.get("variant", "unknown")),
    }
    words = tuple(({"status": word}, float(word == status)) for word in STATUSES)
    rows = tuple(({"check": row.name, "required": str(row.required).lower()}, WORTH[row.status]) for row in found)
    yield Metric("agent_info", "gauge", "Who this is.", ((info, 1.0),))
    yield Metric("health", "gauge", "1 for the present status.", words)
    yield Metric("check", "gauge", "1 passes, 0.5 warns, 0 fails.", rows)
    yield counter("restarts_total", "How often what runs in the session was started again.", agent.restarts)
    yield gauge("uptime_seconds", "Since the container's start.", round(agent.uptime_s, 1))


def _text(family: Metric) -> str:
    name = f"magents_{family.name}"
    head = f"# HELP {name} {family.meaning}\n# TYPE {name} {family.kind}\n"
    return head + "".join(f"{name}{labels(pairs)} {value:.10g}\n" for pairs, value in family.rows)


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
