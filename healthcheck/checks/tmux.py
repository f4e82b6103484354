"""`tmux`: the server answers, and the session `agent` is there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from healthcheck.check import FAIL, PASS, Check, Finding, Metric, gauge
from healthcheck.facts import SESSION
from healthcheck.probe import Probe

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from healthcheck.facts import AgentFacts, Pane

EVERY_S, DEADLINE_S = 3.0, 1.8
"""Interval and deadline together stay below 5 s, the limit within which health has to be right."""


class TmuxCheck(Check):
    """Lists the panes. `panes` is None where a command runs in place of the session."""

    name = "tmux"
    required = True
    recoverable = True

    def __init__(self, panes: Callable[[], Awaitable[list[Pane]]] | None) -> None:
        self._probe = Probe(self.name, panes, every_s=EVERY_S, deadline_s=DEADLINE_S) if panes else None
        self.probes = (self._probe,) if self._probe else ()

    @property
    def panes(self) -> list[Pane]:
        """Return the panes of the last observation; empty where there are none, or none is known."""
        return (self._probe.last.value if self._probe else None) or []

    @property
    def sessions(self) -> set[str]:
        """Return the names of the sessions in the last observation."""
        return {pane.session for pane in self.panes}

    def observe_again(self) -> None:
        """Observe now."""
        if self._probe:
            self._probe.observe_again()

    def evaluate(self, agent: AgentFacts) -> Finding:
        """Evaluate whether the session exists."""
        if agent.is_command or self._probe is None:
            return Finding(PASS, "not used: a command runs instead of the session")
        seen = self._probe.last
        if seen.value is None:
            return Finding(FAIL, seen.why_missing, seen.age_s)
        if SESSION not in self.sessions:
            return Finding(FAIL, f"session {SESSION} is missing; it is being started again", seen.age_s)
        count = len(self.sessions)
        return Finding(PASS, f"{count} session{'s' * (count != 1)}", seen.age_s)

    def metrics(self) -> Iterable[Metric]:
        """Count sessions and panes."""
        yield gauge("sessions", "tmux sessions.", len(self.sessions))
        yield gauge("panes", "tmux panes.", len(self.panes))

    def details(self) -> dict[str, Any]:
        """List sessions and their windows."""
        now = time.time()
        sessions: dict[str, dict[str, Any]] = {}
        for pane in self.panes:
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
                    "dead": pane.has_ended,
                }
            )
        return {"sessions": list(sessions.values())}
