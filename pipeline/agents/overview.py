"""How all agents of this machine are: what the engine, their health and the bridge say, in one look.

The engine is asked for all containers at once, and the bridge for all grants, so that a hundred agents take a tenth of
a second. The engine's probe looks at an agent every ten seconds; what only the agent itself knows is as old as that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import docker
from docker.models.containers import Container

from pipeline import bridge
from pipeline.agents import protection, ps, states
from pipeline.agents.states import Call, State
from pipeline.errors import Problem

VERSION = 1
"""The form of the JSON documents. It grows when a key is taken away or means something else, not when one is added."""


@dataclass(frozen=True)
class Overview:
    """One agent. `health` is healthy, degraded, unhealthy, starting or none; `address` is empty where none answers."""

    name: str
    state: State
    image: str
    variant: str
    user: str
    workspace: str
    mode: str
    health: str
    address: str
    container: str
    """The container's id."""
    restarts: int
    """How often the engine started the container again by itself."""
    command_restarts: int
    """How often the command or shell was started again since the container started."""
    calls: tuple[Call, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the agent as in the document of `agents.ps --json`."""
        return {
            "name": self.name,
            "state": self.state.name,
            "since": self.state.since,
            "waits_for": self.state.why if self.state.name.startswith("waiting_") else "",
            "why": self.state.why,
            "ahead": self.state.ahead,
            "image": self.image,
            "variant": self.variant,
            "user": self.user,
            "workspace": self.workspace,
            "mode": self.mode,
            "health": {"status": self.health, "address": self.address or None},
            "container": self.container,
            "restarts": self.restarts,
            "command_restarts": self.command_restarts,
            "calls": [dataclasses.asdict(call) for call in self.calls],
        }


def every(client: docker.DockerClient) -> list[Overview]:
    """Return all agents, by name."""
    grants = _grants()
    return [_overview(container, grants) for container in ps.every(client)]


def some(client: docker.DockerClient, names: Iterable[str]) -> dict[str, Overview | None]:
    """Return the named agents; None for one that there is not."""
    grants = _grants()
    found = {name: ps.find(client, name) for name in names}
    return {name: container and _overview(container, grants) for name, container in found.items()}


def _grants() -> dict[str, Any]:
    """Return what the bridge says of each grant, and so of each agent. Where it does not answer, nothing is known."""
    try:
        grants: dict[str, Any] = bridge.status()["grants"]
    except Problem:
        return {}  # ignored because an agent also lives without a bridge; `bridge.status` says what is wrong
    return grants


def _overview(container: Container, grants: dict[str, Any]) -> Overview:
    attrs, labels = container.attrs, container.labels
    name = str(labels[ps.LABEL])
    facts = states.facts_of(attrs)
    calls = states.calls_of(grants.get(name, {}).get("calls", ()))
    is_running = facts.status == "running"
    is_degraded = facts.health == "healthy" and facts.report.status == "degraded"
    return Overview(
        name=name,
        state=states.state_of(facts, calls),
        image=str(attrs["Config"]["Image"]),
        variant=str(labels.get("io.magents.variant", "")),
        user=str(labels[f"{ps.LABEL}.user"]),
        workspace=ps.workspace_of(container),
        mode=protection.mode(container),
        health="none" if not is_running else "degraded" if is_degraded else facts.health,
        address=_address(container) if is_running else "",
        container=str(container.id),
        restarts=int(attrs.get("RestartCount") or 0),
        command_restarts=facts.report.restarts,
        calls=calls,
    )


def _address(container: Container) -> str:
    try:
        return f"http://127.0.0.1:{ps.published_port(container)}/health"
    except Problem:
        return ""  # ignored because one agent without a port must not hide the others; `up` says it


def document(agents: list[Overview]) -> dict[str, Any]:
    """Return the document of `agents.ps --json`."""
    return {"version": VERSION, "agents": [agent.as_json() for agent in agents]}
