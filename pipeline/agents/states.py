"""The states of an agent, and which one it is in: a pure function of what is known about its container and its calls.

Three sides know something: the engine about the container, the agent's own health about its command, the bridge about
the calls of its Claude. What the agent says of itself is text from a container, and decides about nothing else.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipeline.agents.logs import plain

STARTING = "starting"
WORKING = "working"
WAITING_FOR_PERSON = "waiting_for_person"
WAITING_FOR_QUOTA = "waiting_for_quota"
WAITING_FOR_TURN = "waiting_for_turn"
IDLE = "idle"
ASLEEP = "asleep"
FINISHED = "finished"
FAILED = "failed"
UNHEALTHY = "unhealthy"
STOPPED = "stopped"

MEANINGS = {
    STARTING: "its container starts, or is not ready for work yet",
    WORKING: "its Claude answers a prompt, or its command runs",
    WAITING_FOR_PERSON: "its Claude asked a question or for a permission, and waits for the answer",
    WAITING_FOR_QUOTA: "its Claude waits until the account may ask again",
    WAITING_FOR_TURN: "its call waits until others have ended",
    IDLE: "it waits for a prompt, or is a shell at which nothing of Claude runs",
    ASLEEP: "as idle; its Claude was ended to save memory, and any key goes on",
    FINISHED: "its command ended with 0, and the container stays",
    FAILED: "its command failed, or its container ended with another code than 0",
    UNHEALTHY: "it runs, its health says that something is broken, and no call tells more",
    STOPPED: "its container was stopped",
}
"""What each state means. The documents and the JSON Schema say the same."""

OF_CALL = {
    "waiting_for_person": WAITING_FOR_PERSON,
    "waiting_for_quota": WAITING_FOR_QUOTA,
    "waiting_for_turn": WAITING_FOR_TURN,
    "working": WORKING,
    "starting": WORKING,
    "idle": IDLE,
    "asleep": ASLEEP,
}
"""An agent's state by that of its call. Where it has several, the first one of this table counts."""

CONDITIONS = ("healthy", "degraded", "unhealthy", "starting", "none")
"""What can be said of an agent's health."""

LONGEST = 500
"""Letters that are shown of a text that comes from a container."""


@dataclass(frozen=True)
class Call:
    """What the bridge says of one call of the agent's Claude, as in the document of `bridge.status --json`."""

    kind: str
    state: str
    waits_for: str
    ahead: int | None
    until: float | None
    since: float
    session: str | None
    prompts: int
    nested: bool


@dataclass(frozen=True)
class Report:
    """What the agent said of itself at the engine's last probe. Empty where it has said nothing."""

    status: str = ""
    phase: str = ""
    state: str = ""
    detail: str = ""
    """Its command or shell, in words, or what is wrong with it."""
    restarts: int = 0
    """How often its command or shell was started again since the container started."""


@dataclass(frozen=True)
class Facts:
    """What the engine says of an agent's container. Times are Unix times in seconds; None where there is none."""

    status: str
    exit_code: int = 0
    health: str = "none"
    started: float | None = None
    finished: float | None = None
    has_command: bool = False
    """Whether it runs AGENT_COMMAND, not a shell."""
    report: Report = Report()

    def updated(self, report: Report) -> Facts:
        """Return the facts after the agent was asked itself. `report` is empty if it gave no answer."""
        if not report.status:
            return self
        health = "healthy" if report.status == "degraded" else report.status
        return dataclasses.replace(self, health=health, report=report)

    @property
    def condition(self) -> str:
        """What its health says: healthy, degraded, unhealthy, starting or none."""
        if self.status != "running" or self.health not in CONDITIONS:
            return "none"
        return "degraded" if self.health == "healthy" and self.report.status == "degraded" else self.health


@dataclass(frozen=True)
class State:
    """The state of an agent.

    `why` says more in words, for `waiting_for_person` for what. `is_final` means that nothing will change it by itself.
    """

    name: str
    since: float | None = None
    why: str = ""
    ahead: int | None = None
    is_final: bool = False

    @property
    def words(self) -> str:
        """The state for people."""
        name = self.name.replace("_", " ").replace("for person", "for a person").replace("for turn", "for a turn")
        more = [*([f"{self.ahead} ahead"] if self.ahead is not None else []), *([self.why] if self.why else [])]
        return f"{name}: {', '.join(more)}" if more else name


def state_of(facts: Facts, calls: Iterable[Call] = ()) -> State:
    """Return the state of an agent."""
    report = facts.report
    if facts.status != "running":
        return _not_running(facts)
    if report.phase == "stopping":
        return State(STOPPED, None, "it is being stopped")
    if facts.health == "starting" or report.phase == "starting":
        return State(STARTING, facts.started)
    if report.state == "restarting":
        return State(FAILED, None, report.detail)
    call = _foremost(calls)
    is_finished = report.state == "finished"
    if call and not (is_finished and call.state in (IDLE, ASLEEP)):
        return State(OF_CALL[call.state], call.since, call.waits_for, call.ahead)
    if is_finished:
        return State(FINISHED, is_final=True)
    if facts.health == "unhealthy":
        return State(UNHEALTHY, None, report.detail)
    return State(WORKING if facts.has_command else IDLE, facts.started)


def _not_running(facts: Facts) -> State:
    ended = f"its container ended with {facts.exit_code}"
    if facts.status == "restarting":
        if facts.exit_code:
            return State(FAILED, facts.finished, f"{ended}, and the engine starts it again", is_final=True)
        return State(STARTING, facts.finished)
    if facts.status in ("exited", "dead") and facts.exit_code:
        return State(FAILED, facts.finished, ended, is_final=True)
    if facts.status == "created":
        return State(STOPPED, None, "it was made and is not started")
    why = "" if facts.status == "exited" else f"its container is {facts.status}"
    return State(STOPPED, facts.finished, why, is_final=True)


def _foremost(calls: Iterable[Call]) -> Call | None:
    """Return the call that counts: the first by the table of states, and of those the one that is in it longest."""
    order = list(OF_CALL)
    known = [call for call in calls if call.state in OF_CALL]
    return min(known, key=lambda call: (order.index(call.state), call.since), default=None)


# Reading what others say


def facts_of(attrs: Mapping[str, Any]) -> Facts:
    """Return the facts from what the engine says of a container."""
    state = attrs["State"]
    health = state.get("Health") or {}
    probes = health.get("Log") or [{}]
    return Facts(
        status=str(state["Status"]),
        exit_code=int(state.get("ExitCode") or 0),
        health=str(health.get("Status") or "none"),
        started=_time(state.get("StartedAt")),
        finished=_time(state.get("FinishedAt")),
        has_command=any(each.startswith("AGENT_COMMAND=") and each[14:] for each in attrs["Config"].get("Env") or ()),
        report=report_of(str(probes[-1].get("Output", ""))),
    )


def report_of(output: str) -> Report:
    """Return what an agent said in the output of a probe. What has not the right form counts as not said."""
    try:
        page = json.loads(output)
        agent, check = page["agent"], page["checks"]["agent"]
        return Report(
            status=_text(page["status"]),
            phase=_text(page["phase"]),
            state=_text(agent["state"]),
            detail=_text(check["detail"]).removeprefix(f"{agent['state']}: "),
            restarts=_count(agent["restarts"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return (
            Report()
        )  # ignored because an image of another version may say something else, and one that starts nothing


def calls_of(said: Iterable[Mapping[str, Any]]) -> tuple[Call, ...]:
    """Return calls from the bridge's document. Its texts can hold words of a container."""
    try:
        return tuple(_call(each) for each in said)
    except KeyError:
        return ()  # ignored because a server of an earlier version, which says less, may still run


def _call(said: Mapping[str, Any]) -> Call:
    return Call(
        kind=str(said["kind"]),
        state=str(said["state"]),
        waits_for=_text(said["waits_for"]),
        ahead=said["ahead"],
        until=said.get("until"),
        since=float(said["since"]),
        session=said["session"] and _text(said["session"]),
        prompts=int(said["prompts"]),
        nested=bool(said["nested"]),
    )


def _time(text: object) -> float | None:
    """Return a time of the engine's. It has the year 1 for what has not happened."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found.timestamp() if found.year > 1 else None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return " ".join(plain(value[:LONGEST]).split())


def _count(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 31:
        raise TypeError
    return int(value)
