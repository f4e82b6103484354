"""Prometheus text, format 0.0.4."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from healthcheck.checks import all_checks, verdict

if TYPE_CHECKING:
    from healthcheck.checks import Seen

STATUSES = ("healthy", "degraded", "starting", "unhealthy", "stopping")
WORTH = {"pass": 1, "warn": 0.5, "fail": 0}


def exposition(seen: Seen, manifest: dict[str, Any], resident_kb: int) -> str:
    """Return all metrics as text."""
    life, checks = seen.life, all_checks(seen)
    status = verdict(life.phase, checks)
    lines: list[str] = []

    def family(name: str, kind: str, meaning: str, *rows: tuple[dict[str, str], float]) -> None:
        lines.append(f"# HELP magents_{name} {meaning}")
        lines.append(f"# TYPE magents_{name} {kind}")
        lines.extend(f"magents_{name}{labels(pairs)} {value:.10g}" for pairs, value in rows)

    info = {
        "name": life.settings.name,
        "version": str(manifest.get("version", "unknown")),
        "variant": str(manifest.get("variant", "unknown")),
    }
    family("agent_info", "gauge", "Who this is.", (info, 1))
    rows = [({"status": word}, float(word == status)) for word in STATUSES]
    family("health", "gauge", "1 for the present status.", *rows)
    rows = [({"check": c.name, "required": str(c.required).lower()}, WORTH[c.status]) for c in checks]
    family("check", "gauge", "1 passes, 0.5 warns, 0 fails.", *rows)
    family("restarts_total", "counter", "How often what runs in the session was started again.", ({}, life.restarts))
    family("uptime_seconds", "gauge", "Since the container's start.", ({}, round(life.uptime_s(), 1)))
    panes = seen.tmux.value or []
    family("sessions", "gauge", "tmux sessions.", ({}, len({p.session for p in panes})))
    family("panes", "gauge", "tmux panes.", ({}, len(panes)))
    looks = [probe.value for probe in seen.volumes.values() if probe.value is not None]
    family("volume_free_bytes", "gauge", "Free for the agent.", *(({"path": v.path}, v.free) for v in looks))
    family("volume_size_bytes", "gauge", "Size of its file system.", *(({"path": v.path}, v.total) for v in looks))
    memory = seen.memory.value
    if memory is not None:
        family("memory_used_bytes", "gauge", "Used by the container.", ({}, memory.used))
        family("memory_limit_bytes", "gauge", "0 where there is none.", ({}, memory.limit))
        family("oom_kills_total", "counter", "Processes killed for want of memory.", ({}, memory.oom_kills))
    family("supervisor_resident_bytes", "gauge", "Of supervisor and health.", ({}, resident_kb * 1024))
    return "\n".join(lines) + "\n"


def labels(pairs: dict[str, str]) -> str:
    """Return the label part of a line, escaped as the format asks."""
    if not pairs:
        return ""
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in pairs.items()) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
