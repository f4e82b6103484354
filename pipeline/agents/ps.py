"""The agents that `up` started on this machine, found by a label of their containers."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

import docker
import docker.errors
from docker.models.containers import Container

from pipeline.agents.logs import plain
from pipeline.bootstrap import inspections
from pipeline.errors import Problem

LABEL = "io.magents.agent"
WORKSPACE_LABEL = f"{LABEL}.workspace"
MODE_LABEL = f"{LABEL}.mode"
"""`clone` or `direct`."""
HEALTH_PORT = 3999


def container_name(name: str) -> str:
    """Return the name of the container for the agent `name`."""
    return f"magents-{name}"


def project_name(name: str) -> str:
    """Return the name of the Compose project for the agent `name`. No folder with a compose.yaml is called so."""
    return f"up-{container_name(name)}"


def volume_name(name: str) -> str:
    """Return the name that the volume of the agent `name` usually has."""
    return f"{container_name(name)}-agent"


def volume_of(container: Container) -> str:
    """Return the name of an agent's volume for /agent."""
    mounts = container.attrs["Mounts"]
    return next((str(each.get("Name", "")) for each in mounts if each["Destination"] == "/agent"), "")


def workspace_of(container: Container) -> str:
    """Return the folder of this machine that an agent works in; empty for a container that does not say it.

    Such a one was not made by `up`. It must not keep people from seeing and using the others.
    """
    return str(container.labels.get(WORKSPACE_LABEL, ""))


def is_taken(client: docker.DockerClient, name: str) -> bool:
    """Say whether a container has the name of the agent's, also one that is no agent."""
    return bool(client.containers.list(all=True, sparse=True, filters={"name": f"^/{container_name(name)}$"}))


def up_again(container: Container) -> str:
    """Return what a person types to run `up` for this agent."""
    return f"bin/invoke up --name {container.labels[LABEL]} --workspace {shlex.quote(workspace_of(container))}"


def find(client: docker.DockerClient, name: str) -> Container | None:
    """Return the container of the agent `name`, running or not."""
    try:
        found = client.containers.get(container_name(name))
    except docker.errors.NotFound:
        return None
    return found if LABEL in found.labels else None


def require(client: docker.DockerClient, name: str) -> Container:
    """Return the container of the agent `name`. When there is none, raises a `Problem` that lists the agents."""
    container = find(client, name)
    if container is None:
        raise _unknown(client, [name], "")
    return container


def refuse_unknown(client: docker.DockerClient, unknown: Sequence[str], done: str = "") -> None:
    """Raise a `Problem` for names that no agent has. `done` is what therefore was not done to others, if there are."""
    if unknown:
        raise _unknown(client, unknown, done)


def _unknown(client: docker.DockerClient, unknown: Sequence[str], done: str) -> Problem:
    there = ", ".join(names(client)) or "none"
    more = f", so nothing was {done}; leave that name out" if done else "; run `bin/invoke up`"
    return Problem(f"there is no agent {', '.join(unknown)} (there are: {there}){more}", 64)


def every(client: docker.DockerClient) -> list[Container]:
    """Return the containers of all agents, by name. One that is removed in the meantime is left out."""
    return sorted(inspections.containers(client, LABEL), key=lambda container: str(container.labels[LABEL]))


def names(client: docker.DockerClient) -> list[str]:
    """Return the names of all agents, sorted."""
    return [str(container.labels[LABEL]) for container in every(client)]


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
        name = container.labels[LABEL]
        raise Problem(
            f"agent {name} publishes no port for its health; run `bin/invoke agents.down {name}`, then "
            f"`{up_again(container)}`"
        )
    return int(bindings[0]["HostPort"])
