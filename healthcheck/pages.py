"""The contents of the pages /health, /live, /ready, /status and /metrics."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from healthcheck.check import FAIL
from healthcheck.facts import SESSION
from healthcheck.metrics import exposition
from healthcheck.server import Page
from healthcheck.status import overall_status, results

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from healthcheck.check import Check
    from healthcheck.facts import AgentFacts
    from healthcheck.server import Pages

MANIFEST = Path("/usr/share/magents/manifest.json")


class Reporter:
    """Makes the pages from what is known when the request comes."""

    def __init__(self, facts: Callable[[], AgentFacts], checks: Sequence[Check], manifest: dict[str, Any]) -> None:
        self._facts = facts
        self._checks = checks
        self._manifest = manifest

    def pages(self) -> Pages:
        """Return all pages. Everybody can read what probes need, but without names and details."""
        return {
            "/health": Page(self.health, lambda: _bare(self.health)),
            "/live": Page(self.live, lambda: _bare(self.live)),
            "/ready": Page(self.ready, lambda: _bare(self.ready)),
            "/status": Page(self.status),
            "/metrics": Page(self.metrics),
        }

    def health(self) -> tuple[int, dict[str, Any]]:
        """Return the overall status and the result of each check."""
        return self._health(self._facts())

    def live(self) -> tuple[int, dict[str, Any]]:
        """Report that the supervisor's event loop runs. This answer proves it."""
        return 200, {"status": "alive", "uptime_s": round(self._facts().uptime_s, 1)}

    def ready(self) -> tuple[int, dict[str, Any]]:
        """Report whether this agent can be given work."""
        code, health = self.health()
        if code == 200:
            return 200, {"status": "ready"}
        failing = [name for name, check in health["checks"].items() if check["status"] == FAIL]
        return 503, {"status": "not ready", "phase": health["phase"], "failing": failing}

    def status(self) -> tuple[int, dict[str, Any]]:
        """Return everything, under the status code of /health."""
        agent = self._facts()
        code, page = self._health(agent)
        page["agent"] |= {
            "runs": agent.what_runs,
            "pid": agent.pid,
            "trouble": agent.problem,
            "last_exit": agent.last_exit,
            "restart": agent.restart_policy,
            "started_at": agent.started_at,
        }
        page["user"] = {"uid": os.getuid(), "gid": os.getgid(), "name": agent.user}
        for check in self._checks:
            page |= check.details()
        return code, page | {
            "notes": agent.notes,
            "cut_off": agent.cut_off,
            "stop": agent.stop,
            "supervisor": {"pid": os.getpid(), "resident_kb": resident_kb()},
            "image": {key: value for key, value in self._manifest.items() if key != "packages"},
        }

    def metrics(self) -> tuple[int, str]:
        """Return the numbers."""
        return 200, exposition(self._facts(), self._checks, self._manifest, resident_kb())

    def _health(self, agent: AgentFacts) -> tuple[int, dict[str, Any]]:
        found = results(self._checks, agent)
        status = overall_status(agent.phase, found)
        shown: dict[str, Any] = {"name": agent.name, "state": agent.state}
        if not agent.is_command:
            shown["session"] = SESSION
        shown["restarts"] = agent.restarts
        if agent.last_exit:
            shown["last_exit_at"] = agent.last_exit["at"]
        return (200 if status in ("healthy", "degraded") else 503), {
            "status": status,
            "agent": shown,
            "checks": {result.name: result.as_json() for result in found},
            "uptime_s": round(agent.uptime_s, 1),
            "version": self._manifest.get("version", "unknown"),
            "phase": agent.phase,
        }


def read_manifest(path: Path = MANIFEST) -> dict[str, Any]:
    """Return the image's manifest; empty outside an image."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}  # ignored because an agent can run in an image without a manifest
    return found if isinstance(found, dict) else {}


def resident_kb() -> int:
    """Return the resident memory of this process in kB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def _bare(full: Callable[[], tuple[int, dict[str, Any]]]) -> tuple[int, dict[str, Any]]:
    code, page = full()
    return code, {"status": page["status"]}
