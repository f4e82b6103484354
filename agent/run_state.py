"""The state of this run of the container: health shows it, state.json keeps it, the stop ladder uses it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agent.state_file import utc
from healthcheck.facts import STARTING, AgentFacts

if TYPE_CHECKING:
    from agent.settings import Settings


@dataclass
class RunState:
    """One run of the container. `phase` and `state` are those of `AgentFacts`."""

    settings: Settings
    argv: list[str]
    phase: str = STARTING
    state: str = "starting"
    problem: str = ""
    restarts: int = 0
    last_exit: dict[str, Any] | None = None
    pid: int = 0
    user: str = ""
    notes: list[str] = field(default_factory=list)
    cut_off: int = 0
    stop: dict[str, Any] | None = None
    started_at: str = field(default_factory=utc)
    started: float = field(default_factory=time.monotonic)

    @property
    def is_command(self) -> bool:
        """Say whether `docker run IMAGE COMMAND` was asked for instead of a session."""
        return bool(self.argv)

    @property
    def what_runs(self) -> str:
        """Return a description of what the agent runs."""
        if self.argv:
            return " ".join(self.argv)
        return self.settings.command or "a login shell"

    def uptime_s(self) -> float:
        """Return the seconds since the start, pauses included."""
        return time.monotonic() - self.started

    def ended(self, code: int, cause: str) -> None:
        """Record how the last command or shell ended."""
        self.last_exit = {"code": code, "cause": cause, "at": utc()}

    def facts(self) -> AgentFacts:
        """Return the facts that health evaluates and shows."""
        return AgentFacts(
            name=self.settings.name,
            phase=self.phase,
            state=self.state,
            what_runs=self.what_runs,
            is_command=self.is_command,
            pid=self.pid,
            problem=self.problem,
            restarts=self.restarts,
            restart_policy=self.settings.restart,
            last_exit=self.last_exit,
            stop=self.stop,
            started_at=self.started_at,
            uptime_s=self.uptime_s(),
            user=self.user,
            notes=tuple(self.notes),
            cut_off=self.cut_off,
        )

    def to_save(self) -> dict[str, Any]:
        """Return the values for state.json."""
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
