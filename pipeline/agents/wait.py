"""Wait until agents are in a state, for scripts: `agents.wait`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.agents import states
from pipeline.agents.overview import VERSION, Overview
from pipeline.errors import Problem

HEALTHY = "healthy"

UNTIL: Mapping[str, tuple[str, ...]] = {
    "idle": (states.IDLE, states.ASLEEP),
    "waiting": (states.WAITING_FOR_PERSON,),
    "finished": (states.FINISHED,),
    HEALTHY: (),
}
"""What can be waited for, and the states that count as it. `healthy` is what the agent's health says, in any state."""

GOOD = ("healthy", "degraded")
POLL_S = 0.5

NOT_STARTED_S = 5.0
"""How long a container may be made and not started while no command is at work on it."""

REACHED, UNREACHABLE, NOT_STARTED, TIMEOUT = 0, 1, 3, 124
"""Exit codes. That of a timeout is the one of `timeout`."""

RESULTS = {REACHED: "reached", UNREACHABLE: "unreachable", NOT_STARTED: "not_started", TIMEOUT: "timeout"}

Look = Callable[[], Mapping[str, Overview | None]]
"""Looks at the agents that are waited for. None stands for one that there is not."""


@dataclass(frozen=True)
class Outcome:
    """How the waiting ended: the exit code, and the agents at the last look."""

    code: int
    until: str
    waited_s: float
    agents: Mapping[str, Overview | None]

    def as_json(self) -> dict[str, Any]:
        """Return the document of `agents.wait --json`."""
        return {
            "version": VERSION,
            "result": RESULTS[self.code],
            "until": self.until,
            "waited_s": round(self.waited_s, 1),
            "agents": [
                {"name": name, "reached": is_reached(agent, self.until), "agent": agent and agent.as_json()}
                for name, agent in self.agents.items()
            ],
        }

    def sentence(self) -> str:
        """Return one line for people."""
        missing = {name: agent for name, agent in self.agents.items() if not is_reached(agent, self.until)}
        told = "; ".join(f"{name} {_how(agent)}" for name, agent in missing.items())
        if self.code == REACHED:
            return f"{self.until}: {', '.join(self.agents)}"
        if self.code == TIMEOUT:
            return f"not {self.until} after {self.waited_s:.0f} s: {told}"
        if self.code == NOT_STARTED:
            again = " ".join(name for name, agent in missing.items() if agent and not agent.state.was_started)
            return f"not {self.until}, and no command starts it: {told}; run `bin/invoke agents.up {again}`"
        return f"not {self.until}, and waiting does not change that: {told}"


def check(until: str, timeout: str) -> float | None:
    """Refuse what cannot be waited for. Returns the time limit in seconds; None for none."""
    if until not in UNTIL:
        raise Problem(f"--until is {until!r}; it can be {', '.join(UNTIL)}", 64)
    if not timeout:
        return None
    try:
        limit_s = float(timeout)
    except ValueError:
        limit_s = -1
    if not 0 <= limit_s < float("inf"):
        raise Problem(f"--timeout is {timeout!r}; give a number of seconds, for example `--timeout 60`", 64)
    return limit_s


def wait(look: Look, until: str, limit_s: float | None, is_busy: Callable[[str], bool]) -> Outcome:
    """Wait until all agents are in the state, or one can no longer come to it, or the time is over.

    `is_busy` says whether a command is at work on an agent, which may be about to start it.
    """
    began = time.monotonic()
    unstarted: dict[str, float] = {}
    while True:
        agents = look()
        waited_s = time.monotonic() - began
        left = [name for name, agent in agents.items() if agent and not agent.state.was_started and not is_busy(name)]
        unstarted = {name: unstarted.get(name, waited_s) for name in left}
        is_left = any(waited_s - since >= NOT_STARTED_S for since in unstarted.values())
        code = _judge(agents.values(), until, is_left, is_over=limit_s is not None and waited_s >= limit_s)
        if code is not None:
            return Outcome(code, until, waited_s, agents)
        time.sleep(POLL_S if limit_s is None else max(0.0, min(POLL_S, limit_s - waited_s)))


def _judge(agents: Iterable[Overview | None], until: str, is_left: bool, *, is_over: bool) -> int | None:
    """Return the exit code, or None to go on."""
    missing = [agent for agent in agents if not is_reached(agent, until)]
    if not missing:
        return REACHED
    if any(agent is None or agent.state.is_final for agent in missing):
        return UNREACHABLE
    if is_left:
        return NOT_STARTED
    return TIMEOUT if is_over else None


def is_reached(agent: Overview | None, until: str) -> bool:
    """Say whether an agent is in the state that is waited for."""
    if agent is None:
        return False
    return agent.health in GOOD if until == HEALTHY else agent.state.name in UNTIL[until]


def _how(agent: Overview | None) -> str:
    if agent is None:
        return "is gone"
    return f"is {agent.state.words}"
