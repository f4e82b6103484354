"""The pages: what /health, /live, /ready, /status and /metrics say."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from healthcheck.checks import all_checks, verdict
from healthcheck.metrics import exposition
from healthcheck.server import Page

if TYPE_CHECKING:
    from collections.abc import Callable

    from healthcheck.checks import Seen
    from healthcheck.server import Pages

MANIFEST = Path("/usr/share/magents/manifest.json")


class Reporter:
    """Makes the pages from what is known at the moment of asking."""

    def __init__(self, seen: Seen, manifest: dict[str, Any]) -> None:
        self._seen = seen
        self._manifest = manifest

    def pages(self) -> Pages:
        """Return all pages. What only probes need is there for everybody, without names and details."""
        return {
            "/health": Page(self.health, lambda: self._bare(self.health)),
            "/live": Page(self.live, lambda: self._bare(self.live)),
            "/ready": Page(self.ready, lambda: self._bare(self.ready)),
            "/status": Page(self.status),
            "/metrics": Page(self.metrics),
        }

    def health(self) -> tuple[int, dict[str, Any]]:
        """Say how it is, check by check."""
        life = self._seen.life
        checks = all_checks(self._seen)
        status = verdict(life.phase, checks)
        agent: dict[str, Any] = {"name": life.settings.name, "state": life.state}
        if not life.is_command:
            agent["session"] = "agent"
        agent["restarts"] = life.restarts
        return (200 if status in ("healthy", "degraded") else 503), {
            "status": status,
            "agent": agent,
            "checks": {check.name: check.as_json() for check in checks},
            "uptime_s": round(life.uptime_s(), 1),
            "version": self._manifest.get("version", "unknown"),
            "phase": life.phase,
        }

    def live(self) -> tuple[int, dict[str, Any]]:
        """Say that the supervisor's loop turns, which this answer proves."""
        return 200, {"status": "alive", "uptime_s": round(self._seen.life.uptime_s(), 1)}

    def ready(self) -> tuple[int, dict[str, Any]]:
        """Say whether work can be given to this agent."""
        code, health = self.health()
        if code == 200:
            return 200, {"status": "ready"}
        failing = [name for name, check in health["checks"].items() if check["status"] == "fail"]
        return 503, {"status": "not ready", "phase": health["phase"], "failing": failing}

    def status(self) -> tuple[int, dict[str, Any]]:
        """Tell everything, under the status code of /health."""
        code, health = self.health()
        life = self._seen.life
        health["agent"] |= {
            "runs": life.what_runs,
            "pid": life.pid,
            "trouble": life.trouble,
            "last_exit": life.last_exit,
            "restart": life.settings.restart,
            "started_at": life.started_at,
        }
        return code, health | {
            "user": {"uid": os.getuid(), "gid": os.getgid(), "name": life.user},
            "sessions": self._sessions(),
            "volumes": self._volumes(),
            "bridge": {"socket": life.settings.bridge_socket, **_seen(self._seen.bridge.value)},
            "memory": vars(self._seen.memory.value) if self._seen.memory.value else {},
            "notes": life.notes,
            "cut_off": life.cut_off,
            "stop": life.stop,
            "supervisor": {"pid": os.getpid(), "resident_kb": resident_kb()},
            "image": {k: v for k, v in self._manifest.items() if k != "packages"},
        }

    def metrics(self) -> tuple[int, str]:
        """Tell the numbers."""
        return 200, exposition(self._seen, self._manifest, resident_kb())

    @staticmethod
    def _bare(full: Callable[[], tuple[int, dict[str, Any]]]) -> tuple[int, dict[str, Any]]:
        code, told = full()
        return code, {"status": told["status"]}

    def _sessions(self) -> list[dict[str, Any]]:
        now = time.time()
        sessions: dict[str, dict[str, Any]] = {}
        for pane in self._seen.tmux.value or []:
            session = sessions.setdefault(
                pane.session, {"name": pane.session, "attached": pane.attached, "windows": []}
            )
            session["windows"].append(
                {
                    "index": pane.window_index,
                    "name": pane.window_name,
                    "pane": pane.pane,
                    "pid": pane.pid,
                    "command": pane.command,
                    "active": pane.window_active,
                    "idle_s": max(0, round(now - pane.activity)),
                    "dead": pane.exit_code is not None,
                }
            )
        return list(sessions.values())

    def _volumes(self) -> list[dict[str, Any]]:
        rows = []
        for path, probe in self._seen.volumes.items():
            look = probe.value
            row: dict[str, Any] = {"path": path, "trouble": probe.trouble}
            if look is not None:
                row |= {
                    "kind": look.kind,
                    "read_only": look.read_only,
                    "trouble": look.trouble,
                    "total_bytes": look.total,
                    "free_bytes": look.free,
                }
            rows.append(row)
        return rows


def read_manifest(path: Path = MANIFEST) -> dict[str, Any]:
    """Return what the image says of itself; empty outside an image."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}  # ignored because an image without it is still an agent
    return found if isinstance(found, dict) else {}


def resident_kb() -> int:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def _seen(value: str | None) -> dict[str, Any]:
    return {"answers": value is not None}
