"""The agents that `up` started on this machine, found by a label of their containers."""

from __future__ import annotations

import json
from dataclasses import dataclass

import docker
import docker.errors
from docker.models.containers import Container

from pipeline.agents.logs import plain
from pipeline.errors import Problem

LABEL = "io.magents.agent"
DEFAULT_NAME = "default"
HEALTH_PORT = 3999


@dataclass(frozen=True)
class Listed:
    """One agent in a list for people. `health` is an address, empty where the agent does not run."""

    name: str
    state: str
    image: str
    user: str
    workspace: str
    health: str


def container_name(name: str) -> str:
    """Return the name of the container, and of the Compose project, for the agent `name`."""
    return f"magents-{name}"


def find(client: docker.DockerClient, name: str) -> Container | None:
    """Return the container of the agent `name`, running or not."""
    try:
        return client.containers.get(container_name(name))
    except docker.errors.NotFound:
        return None


def require(client: docker.DockerClient, name: str) -> Container:
    """Return the container of the agent `name`. When there is none, raises a `Problem` that lists the agents."""
    container = find(client, name)
    if container is None:
        raise Problem(
            f"there is no agent {name} (there are: {', '.join(names(client)) or 'none'}); run `bin/invoke up`"
        )
    return container


def every(client: docker.DockerClient) -> list[Container]:
    """Return the containers of all agents, by name."""
    found = client.containers.list(all=True, filters={"label": LABEL})
    return sorted(found, key=lambda container: str(container.labels[LABEL]))


def names(client: docker.DockerClient) -> list[str]:
    """Return the names of all agents, sorted."""
    return [str(container.labels[LABEL]) for container in every(client)]


def listing(client: docker.DockerClient) -> list[Listed]:
    """Return all agents, sorted by name."""
    return [_listed(container) for container in every(client)]


def _listed(container: Container) -> Listed:
    state = container.attrs["State"]
    health = state.get("Health", {}).get("Status", "")
    is_running = state["Status"] == "running"
    labels = container.labels
    return Listed(
        name=labels[LABEL],
        state=f"{state['Status']} ({health})" if health and is_running else state["Status"],
        image=container.attrs["Config"]["Image"],
        user=labels[f"{LABEL}.user"],
        workspace=labels[f"{LABEL}.workspace"],
        health=f"http://127.0.0.1:{published_port(container)}/health" if is_running else "",
    )


def warning(container: Container, check: str) -> str:
    """Return what a health check of a running container warns of; empty where it passed or was not seen yet."""
    probes = container.attrs["State"].get("Health", {}).get("Log") or [{}]
    try:
        found = json.loads(probes[-1].get("Output", ""))["checks"][check]
        status, detail = found["status"], str(found["detail"])
    except (ValueError, KeyError, TypeError):
        return ""  # ignored because an image of another version may have no such check
    return " ".join(plain(detail).split()) if status == "warn" and detail != "not seen yet" else ""


def published_port(container: Container) -> int:
    """Return the port of this machine on which the container's health answers."""
    bindings = container.attrs["NetworkSettings"]["Ports"].get(f"{HEALTH_PORT}/tcp") or []
    if not bindings:
        raise Problem(f"{container.name} publishes no port for its health; run `bin/invoke agents.down` and up again")
    return int(bindings[0]["HostPort"])
