"""`agent`: what the agent should run is running. There is no probe, because the supervisor knows at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from healthcheck.check import FAIL, PASS, Check, Finding

if TYPE_CHECKING:
    from healthcheck.facts import AgentFacts

GOOD_STATES = ("running", "finished", "command")


class AgentCheck(Check):
    """Passes while the agent's command, or the shell in its place, runs."""

    name = "agent"
    required = True
    recoverable = True

    def evaluate(self, agent: AgentFacts) -> Finding:
        """Evaluate the agent's state."""
        if agent.state in GOOD_STATES and not agent.problem:
            return Finding(PASS, f"{agent.state}: {agent.what_runs} (pid {agent.pid})")
        return Finding(FAIL, f"{agent.state}: {agent.problem or agent.what_runs}")
