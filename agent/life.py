"""The facts of this life: what health shows, what state.json keeps, what the stop ladder needs to know."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agent.state import utc

if TYPE_CHECKING:
    from agent.settings import Settings

STARTING, RUNNING, STOPPING, STOPPED = "starting", "running", "stopping", "stopped"
"""Phases of the container. The agent's states: `starting`, `running`, `restarting`, `finished`, `command`."""


@dataclass
class Life:
    """One run of the container."""

    settings: Settings
    argv: list[str]
    phase: str = STARTING
    state: str = "starting"
    trouble: str = ""
    restarts: int = 0
    last_exit: dict[str, Any] | None = None
    pid: int = 0
    user: str = ""
    notes: list[str] = field(default_factory=list)
    cut_off: int = 0
    stop: dict[str, Any] | None = None
    started_at: str = field(default_factory=utc)
    born: float = field(default_factory=time.monotonic)

    @property
    def is_command(self) -> bool:
        """Say whether `docker run IMAGE COMMAND` was asked for instead of a session."""
        return bool(self.argv)

    @property
    def what_runs(self) -> str:
        """Return in words what the agent is."""
        if self.argv:
            return " ".join(self.argv)
        return self.settings.command or "a login shell"

    def uptime_s(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.born

    def ended(self, code: int, cause: str) -> None:
        """Note how what ran ended."""
        self.last_exit = {"code": code, "cause": cause, "at": utc()}

    def facts(self) -> dict[str, Any]:
        """Return what state.json keeps."""
        return {
            "phase": self.phase,
            "name": self.settings.name,
            "state": self.state,
            "runs": self.what_runs,
            "started_at": self.started_at,
            "restarts": self.restarts,
            "last_exit": self.last_exit,
            "cut_off": self.cut_off,
            "stop": self.stop,
        }
