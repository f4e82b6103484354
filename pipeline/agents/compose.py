"""Agents on this machine: containers of our images, told apart by name and found by label."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import docker
import docker.errors
from docker.models.containers import Container

from agent.shared import GROUP
from pipeline.agents.logs import plain
from pipeline.build import image
from pipeline.errors import Problem
from pipeline.reporting import Say

LABEL = "io.magents.agent"
DEFAULT_NAME = "default"
SHARED_VOLUME = "magents-shared"
AGENT_UID = 1000
HEALTH_PORT = 3999
HEALTHY_S = 60  # half a second on an idle machine; a hundred agents that start together need their time
STOP_S = 30  # as compose.yaml's stop_grace_period
GRACE_S = 25  # AGENT_STOP_GRACE: what the agent's programs get of it


@dataclass(frozen=True)
class Owner:
    """Whom the agent runs as: the owner of its workspace."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Running:
    """A healthy agent, as `up` tells it to a person."""

    name: str
    container: str
    image: str
    workspace: Path
    owner: Owner
    port: int
    status: str


def container_name(name: str) -> str:
    """Name the container of the agent `name`."""
    return f"magents-{name}"


def owner_of(workspace: Path, *, chown: bool, as_root: bool) -> Owner:
    """Say whom the agent runs as. A workspace of root's is an error until a person chose what to do about it."""
    if not workspace.is_dir():
        raise Problem(f"workspace {workspace} is no folder; make it, or name another with --workspace", 64)
    facts = workspace.stat()
    if facts.st_uid != 0 or as_root:
        return Owner(facts.st_uid, facts.st_gid)
    if not chown:
        raise Problem(
            f"workspace {workspace} belongs to root, and an agent does not run as root by accident; add --chown to "
            f"give it to uid {AGENT_UID}, or --as-root to run the agent as root"
        )
    _give(workspace, AGENT_UID)
    return Owner(AGENT_UID, AGENT_UID)


def default_workspace(root: Path) -> Path:
    """Return the folder beside compose.yaml, made on first use and given to the image's user."""
    workspace = root / "workspace"
    if not workspace.exists():
        workspace.mkdir()
        if os.geteuid() == 0:
            os.chown(workspace, AGENT_UID, AGENT_UID)
    return workspace


def _give(workspace: Path, uid: int) -> None:
    """Give a tree to `uid`, links themselves and never what they point at."""
    for folder, _, files, descriptor in os.fwalk(workspace, follow_symlinks=False):
        del folder
        os.chown(descriptor, uid, uid)
        for name in files:
            facts = os.lstat(name, dir_fd=descriptor)
            if stat.S_ISLNK(facts.st_mode) or facts.st_uid == 0:
                os.chown(name, uid, uid, dir_fd=descriptor, follow_symlinks=False)


# Starting


def up(
    client: docker.DockerClient,
    variant: image.Variant,
    name: str,
    workspace: Path,
    owner: Owner,
    say: Say,
    bridge: Path | None = None,
) -> Running:
    """Have the agent `name` running and healthy on `workspace`; one that runs like that already is left alone.

    `bridge` is the directory of its grant for the host's Claude Code.
    """
    image.require(client, variant)
    image_id = str(client.images.get(variant.reference).id)
    wanted = {LABEL: name, f"{LABEL}.workspace": str(workspace), f"{LABEL}.user": f"{owner.uid}:{owner.gid}"}
    wanted[f"{LABEL}.bridge"] = str(bridge or "")
    present = find(client, name)
    if present and _fits(present, wanted, image_id):
        if present.status != "running":
            present.start()
        else:
            say(f"agent {name} runs already")
    else:
        if present:
            say(f"agent {name} is replaced, since its image, workspace, user or bridge changed; its volumes stay")
            _remove(present)
        _prepare_volumes(client, variant, name, owner, say)
        present = _create(client, variant, name, workspace, owner, wanted)
        _start(present)
    status = wait_until_healthy(present, name)
    present.reload()
    return Running(name, container_name(name), variant.reference, workspace, owner, published_port(present), status)


def _fits(container: Container, wanted: dict[str, str], image_id: str) -> bool:
    same = all(container.labels.get(key) == value for key, value in wanted.items())
    return same and container.attrs["Image"] == image_id


def _prepare_volumes(client: docker.DockerClient, variant: image.Variant, name: str, owner: Owner, say: Say) -> None:
    """Give /agent to the agent's user and /shared to all agents, in a container of root's that ends at once."""
    try:
        remarks = client.containers.run(
            variant.reference,
            [f"{owner.uid}:{owner.gid}"],
            entrypoint=["/usr/local/bin/init-volumes"],
            user="0:0",
            volumes=_volumes(name),
            network_mode="none",
            labels={f"{LABEL}.init": name},
            stdout=False,
            stderr=True,
            remove=True,
        )
    except docker.errors.ContainerError as error:
        output = (error.stderr or b"").decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise Problem(f"the volumes of agent {name} could not be prepared: {output[-1]}") from error
    for remark in remarks.decode(errors="replace").splitlines():
        say(remark)


def _volumes(name: str) -> dict[str, dict[str, str]]:
    """Return the volumes that `_prepare_volumes` prepares; with copying, an empty one gets the image's owners anew."""
    return {
        SHARED_VOLUME: {"bind": "/shared", "mode": "rw,nocopy"},
        f"magents-{name}-agent": {"bind": "/agent", "mode": "rw,nocopy"},
    }


def _create(
    client: docker.DockerClient,
    variant: image.Variant,
    name: str,
    workspace: Path,
    owner: Owner,
    labels: dict[str, str],
) -> Container:
    bridge = labels[f"{LABEL}.bridge"]
    mounts = {str(workspace): {"bind": "/workspace", "mode": "rw"}}
    if bridge:
        mounts[bridge] = {"bind": "/host", "mode": "ro"}
    return client.containers.create(
        variant.reference,
        name=container_name(name),
        hostname=name,
        user=f"{owner.uid}:{owner.gid}",
        group_add=[str(GROUP)],
        environment={"AGENT_NAME": name, "AGENT_STOP_GRACE": str(GRACE_S)},
        labels=labels,
        volumes=_volumes(name) | mounts,
        ports={f"{HEALTH_PORT}/tcp": ("127.0.0.1", _port())},
        restart_policy={"Name": "unless-stopped"},
        cap_drop=["ALL"],
        cap_add=["NET_RAW"] if variant.name == "dev" else [],
        security_opt=[] if variant.name == "dev" else ["no-new-privileges:true"],
        pids_limit=4096,
        log_config={"type": "json-file", "config": {"max-size": "10m", "max-file": "3"}},
        stop_signal="SIGTERM",
        tty=False,
    )


def _port() -> int | None:
    """Return the usual port where it is free on this machine, else None: the engine takes any."""
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", HEALTH_PORT))
        except OSError:
            return None
    return HEALTH_PORT


def _start(container: Container) -> None:
    try:
        container.start()
    except docker.errors.APIError as error:
        _remove(container)
        raise Problem(f"the agent could not be started: {error.explanation}") from error


def wait_until_healthy(container: Container, name: str) -> str:
    """Wait for the engine to call the container healthy; returns the agent's own word for it."""
    for state in _health_states(container):
        if state == "healthy":
            return state
        if state in {"exited", "unhealthy"}:
            break
    last = plain(container.logs(tail=5).decode(errors="replace").strip())
    raise Problem(f"agent {name} did not become healthy; its last words:\n{last}\nsee `bin/invoke agents.logs {name}`")


def _health_states(container: Container) -> Iterator[str]:
    """Give the container's state again and again until `HEALTHY_S` are over."""
    deadline = time.monotonic() + HEALTHY_S
    while time.monotonic() < deadline:
        container.reload()
        state = container.attrs["State"]
        yield "exited" if state["Status"] == "exited" else state.get("Health", {}).get("Status", "starting")
        time.sleep(0.1)


def published_port(container: Container) -> int:
    """Return the port of this machine at which the container's health answers."""
    bindings = container.attrs["NetworkSettings"]["Ports"].get(f"{HEALTH_PORT}/tcp") or []
    if not bindings:
        raise Problem(f"{container.name} publishes no port for its health; run `bin/invoke agents.down` and up again")
    return int(bindings[0]["HostPort"])


# Those that are there


def find(client: docker.DockerClient, name: str) -> Container | None:
    """Return the container of the agent `name`, running or not."""
    try:
        return client.containers.get(container_name(name))
    except docker.errors.NotFound:
        return None


def require(client: docker.DockerClient, name: str) -> Container:
    """Return the container of the agent `name`; a `Problem` names those that are there."""
    container = find(client, name)
    if container is None:
        names = ", ".join(listed.labels[LABEL] for listed in every(client)) or "none"
        raise Problem(f"there is no agent {name} (there are: {names}); run `bin/invoke up`")
    return container


def every(client: docker.DockerClient) -> list[Container]:
    """Return the containers of all agents, by name."""
    found = client.containers.list(all=True, filters={"label": LABEL})
    return sorted(found, key=lambda container: str(container.labels[LABEL]))


def down(client: docker.DockerClient, names: list[str], say: Say) -> None:
    """Stop agents gracefully and remove their containers; their volumes stay."""
    for name in names:
        container = require(client, name)
        _remove(container)
        say(f"agent {name} is stopped and its container removed; volumes magents-{name}-agent and {SHARED_VOLUME} stay")


def _remove(container: Container) -> None:
    container.stop(timeout=STOP_S)
    container.remove()


def run_docker(*arguments: str) -> None:
    """Become Docker's command, which knows how to handle a terminal."""
    try:
        os.execvp("docker", ["docker", *arguments])
    except FileNotFoundError:
        raise Problem("Docker's command is not installed; run `bin/invoke engine.up`") from None


def exec_code(name: str, command: list[str], *, terminal: bool) -> int:
    """Run a command in an agent's container with this process' streams; returns its exit code."""
    flags = ["-it"] if terminal else ["-i"]
    return subprocess.call(["docker", "exec", *flags, container_name(name), *command])
