"""How all agents of this machine are: what the engine, their health and the bridge say, in one look.

The engine is asked over one connection, and the bridge once for all grants, so that a hundred agents take a tenth of a
second. What the engine's last probe saw may be a minute old. So an agent is asked itself where only it knows what it
does: when it runs a command and its Claude has no call.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import docker
from docker.models.containers import Container

from pipeline import bridge
from pipeline.agents import health, protection, ps, states
from pipeline.agents.states import Call, Facts, State
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
    """Return all agents, by name. The bridge is asked while the engine answers."""
    with ThreadPoolExecutor(1) as pool:
        grants = pool.submit(_grants)
        containers = ps.every(client)
        return _overviews(containers, grants.result())


def some(client: docker.DockerClient, names: Iterable[str], *, ask: bool = False) -> dict[str, Overview | None]:
    """Return the named agents; None for one that there is not. With `ask` each one is asked how it is now."""
    found = {name: ps.find(client, name) for name in names}
    there = [each for each in found.values() if each]
    seen = {each.name: each for each in _overviews(there, _grants(), ask=ask)}
    return {name: seen.get(name) for name in found}


def _overviews(containers: list[Container], grants: Mapping[str, Any], *, ask: bool = False) -> list[Overview]:
    calls = [states.calls_of(grants.get(_name(each), {}).get("calls", ())) for each in containers]
    facts = [states.facts_of(each.attrs) for each in containers]
    unsure = [
        number
        for number, container in enumerate(containers)
        if facts[number].status == "running"
        and (ask or (facts[number].has_command and not calls[number]))  # only the agent knows when a command ends
        and _port(container)
    ]
    if unsure:
        for number, page in zip(unsure, health.ask(_port(containers[each]) for each in unsure), strict=True):
            facts[number] = facts[number].updated(states.report_of(page))
    return [_overview(*each) for each in zip(containers, facts, calls, strict=True)]


def _grants() -> dict[str, Any]:
    """Return what the bridge says of each grant, and so of each agent. Where it does not answer, nothing is known."""
    try:
        grants: dict[str, Any] = bridge.status()["grants"]
    except Problem:
        return {}  # ignored because an agent also lives without a bridge; `bridge.status` says what is wrong
    return grants


def _name(container: Container) -> str:
    return str(container.labels[ps.LABEL])


def _overview(container: Container, facts: Facts, calls: tuple[Call, ...]) -> Overview:
    labels, port = container.labels, _port(container)
    is_running = facts.status == "running"
    return Overview(
        name=_name(container),
        state=states.state_of(facts, calls),
        image=str(container.attrs["Config"]["Image"]),
        variant=str(labels.get("io.magents.variant", "")),
        user=str(labels.get(f"{ps.LABEL}.user", "")),
        workspace=ps.workspace_of(container),
        mode=protection.mode(container),
        health=facts.condition,
        address=f"http://127.0.0.1:{port}/health" if is_running and port else "",
        container=str(container.id),
        restarts=int(container.attrs.get("RestartCount") or 0),
        command_restarts=facts.report.restarts,
        calls=calls,
    )


def _port(container: Container) -> int:
    """Return the port on which an agent's health answers; 0 where it has none."""
    try:
        return ps.published_port(container)
    except Problem:
        return 0  # ignored because one agent without a port must not hide the others; `up` says it


def document(agents: list[Overview]) -> dict[str, Any]:
    """Return the document of `agents.ps --json`."""
    return {"version": VERSION, "agents": [agent.as_json() for agent in agents]}
