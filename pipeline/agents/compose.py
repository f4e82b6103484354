"""Run agents from compose.yaml, the only description of an agent's container.

Each agent is a Compose project of its own. Agents differ in the values for the template (compose.yaml), and in a second
file that is generated for what has no such value: names, labels, a folder as the workspace.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import docker
import docker.errors
from docker.models.containers import Container

from bridge.server.operator.workspaces import USUAL, Choice
from pipeline.agents import audit, protection, ps, settings
from pipeline.agents import host as hosts
from pipeline.agents.clone import STORE, Clone
from pipeline.agents.logs import plain
from pipeline.agents.workspace import Owner
from pipeline.build import derived, image
from pipeline.errors import NO_DOCKER_COMMAND, Problem
from pipeline.files import ROOT
from pipeline.reporting import Say
from pipeline.waiting import wait_until

TEMPLATE = ROOT / "compose.yaml"
PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
HASH_LABEL = "com.docker.compose.config-hash"
SHARED_VOLUME = "magents-shared"
HEALTHY_S = 60  # half a second on an idle machine; a hundred agents that start together need longer
PORT_TAKEN = re.compile("port is already allocated|address already in use")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
ANSWER_S = 5  # a disk that needs longer hangs
PAUSED = "paused"
NOT_CHOSEN = "0s"
PATIENCE_S = 15
PROBE = {
    "test": ["CMD", derived.PROBE, str(PATIENCE_S)],
    "interval": "150s",
    "timeout": "30s",
    "retries": 1,
    "start_interval": "0.4s",
}
"""How the engine asks for health, where neither the environment nor .env says it. Each time costs 70 ms: for a hundred
agents the image's 10 s would take most of a processor, and its 0.1 s at the start half of what a start needs. So the
engine asks seldom and once, and the probe in the container asks again and again for `PATIENCE_S`, while the supervisor,
which looks every 3 s, mends what it can. An agent that stays broken counts as unhealthy after less than three minutes.
"""
STOP_S = 30  # as the template's stop_grace_period
CONFLICT = 409
REMOVING = "already in progress"


@dataclass(frozen=True)
class Part:
    """The template's names for the parts of one variant."""

    agent: str
    """The agent's service, and its volume for /agent."""
    helper: str
    """The service that prepares the volumes."""
    values: str
    """The prefix of the values that only this variant has."""
    profile: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    """Services of the other variant that have no profile.

    They are disabled here, because Compose makes the volumes of all enabled services.
    """


PARTS = {
    "prod": Part("agent", "volumes", "AGENT"),
    "dev": Part("agent-dev", "volumes-dev", "AGENT_DEV", ("--profile", "dev"), ("agent", "volumes")),
}


@dataclass(frozen=True)
class Project:
    """One agent's container as a Compose project made from the template."""

    name: str
    variant: str
    image: str
    values: Mapping[str, str] = field(default_factory=dict)
    """Values for the template's ${…}, by name.

    Compose takes all others from the environment and from .env beside the template.
    """
    service: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the agent's service beyond the template, in Compose's format."""
    volumes: Mapping[str, str] = field(default_factory=dict)
    """Volumes that outlive the project and must exist already: the engine's name by the template's name."""
    lock: int | None = None
    """The descriptor of a lock (`records.turn`). Compose holds it too, so that nobody else works on this agent while a
    Compose is at it whose caller was killed."""

    @property
    def part(self) -> Part:
        """The names of this variant's parts."""
        return PARTS[self.variant]

    def at_any_port(self) -> Project:
        """Return the same project, with a free port for health that the engine chooses."""
        return dataclasses.replace(self, values={**self.values, f"{self.part.values}_PORT": "0"})

    def up(self) -> None:
        """Create what is missing or changed, start it, and wait until it is healthy.

        Raises Compose's error as a `Problem`.
        """
        self._compose("up", "--detach", "--pull", "never", "--wait", "--wait-timeout", str(HEALTHY_S), self.part.agent)

    def matches(self, container: Container) -> bool:
        """Say whether Compose would keep the container unchanged. The image is not compared."""
        answer = self._compose("config", "--hash", self.part.agent).split()
        return answer == [self.part.agent, container.labels.get(HASH_LABEL)]

    def resolved(self) -> dict[str, Any]:
        """Return the agent's service with all values filled in, in Compose's format."""
        text = self._compose("config", "--format", "json").replace("$$", "$")  # Compose doubles it for a next reading
        service: dict[str, Any] = json.loads(text)["services"][self.part.agent]
        return service

    def remove(self) -> None:
        """Remove the containers at once, and the volumes that belong to the project."""
        self._compose("down", "--volumes", "--timeout", "0")

    def container(self, client: docker.DockerClient) -> Container | None:
        """Return the agent's container, running or not."""
        return self._find(client, self.part.agent)

    def remarks(self, client: docker.DockerClient) -> list[str]:
        """Return the output lines of the last run of the service that prepares the volumes."""
        helper = self._find(client, self.part.helper)
        if helper is None:
            return []
        said = helper.logs(since=datetime.fromisoformat(helper.attrs["State"]["StartedAt"]).timestamp())
        return plain(said.decode(errors="replace")).splitlines()

    def _find(self, client: docker.DockerClient, service: str) -> Container | None:
        labels = [f"{PROJECT_LABEL}={self.name}", f"{SERVICE_LABEL}={service}"]
        return next(iter(client.containers.list(all=True, filters={"label": labels})), None)

    def _compose(self, *arguments: str) -> str:
        files = ["--project-directory", str(ROOT), "--file", str(TEMPLATE), "--file", "-"]
        command = ["docker", "compose", "--progress", "quiet", "--project-name", self.name, *files, *self.part.profile]
        own = {f"{self.part.values}_IMAGE": self.image, "AGENT_INSPECTOR_PORT": "0"}
        try:
            with _file_of(self._second_file()) as second_file:
                done = subprocess.run(
                    [*command, *arguments],
                    stdin=second_file,
                    env={**_environment(), **own, **self.values},
                    capture_output=True,
                    text=True,
                    pass_fds=() if self.lock is None else (self.lock,),
                )
        except FileNotFoundError:
            raise Problem(NO_DOCKER_COMMAND) from None
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no reason given"]
            raise Problem(plain(lines[-1].removeprefix("Error response from daemon: ")))
        return done.stdout

    def _second_file(self) -> str:
        """Return the file that Compose merges into the template. It is JSON, which is also YAML."""
        # an engine has about 30 networks to give, and there may be a hundred agents
        service = {"network_mode": "bridge", **self.service}
        volumes = {key: {"name": name, "external": True} for key, name in self.volumes.items()}
        others = {name: {"profiles": ["other"]} for name in self.part.left_out}
        return json.dumps({"services": {self.part.agent: service, **others}, "volumes": volumes}).replace("$", "$$")


@contextmanager
def _file_of(text: str) -> Iterator[IO[bytes]]:
    """Make a file without a name that holds the text, in memory where the system can do that.

    A pipe will not do: when its writer is killed, Compose takes an empty file for a good one, and makes another agent.
    """
    in_memory = hasattr(os, "memfd_create")
    with os.fdopen(os.memfd_create("compose"), "w+b") if in_memory else tempfile.TemporaryFile() as file:
        file.write(text.encode())
        file.seek(0)
        yield file


def _environment() -> dict[str, str]:
    """Return this process' variables for Compose. One without a value counts as not set."""
    return {name: value for name, value in os.environ.items() if value or name not in image.CA_VARIABLES}


def folder_at(target: str, source: Path) -> dict[str, object]:
    """Return a bind mount of a folder of this machine. Its name may hold any characters."""
    return {"type": "bind", "source": str(source), "target": target, "bind": {"create_host_path": False}}


# Agents by name


@dataclass(frozen=True)
class Running:
    """A healthy agent, with what `up` prints about it."""

    name: str
    container: str
    image: str
    workspace: Path
    owner: Owner
    port: int
    status: str


def up(
    client: docker.DockerClient,
    variant: image.Variant,
    name: str,
    workspace: Path,
    owner: Owner,
    say: Say,
    bridge: Path | None = None,
    host: hosts.Host | None = None,
    volume: str | None = None,
    choice: Choice = USUAL,
    clone: Clone | None = None,
    chosen: settings.Settings | None = None,
    fresh: Sequence[str] = (),
    lock: int | None = None,
) -> Running:
    """Make sure that the agent `name` runs and is healthy on `workspace`. An agent that already fits is not restarted.

    `bridge` is the directory of the agent's grant for the host's Claude Code. `host` is what else the host gives.
    `volume` is the engine's name for the volume at /agent, where it is not the usual one. `choice` says which paths of
    the workspace are protected. With `clone`, the agent works in that clone of `workspace`, where none is. `chosen` is
    what a person chose for the agent; `fresh` names those of its variables whose values are this shell's. `lock`: see
    `Project.lock`.
    """
    volume = volume or ps.volume_name(name)
    image.require(client, variant)
    before = ps.find(client, name)
    variables = settings.values(chosen.env, fresh, name, before) if chosen else {}
    lost = protection.lost(before) if before else []
    used = protection.used(before) if before else None
    project = _project(variant, name, workspace, owner, bridge, _port(before), volume)
    mounted = clone.workspace if clone else workspace
    found = None if clone else protection.prepare(workspace, choice, say)  # before the moment from which changes count
    project.service["labels"][audit.SINCE_LABEL] = audit.since_label(workspace, before)
    if found:
        project = _extended(project, protection.settings(workspace, found, choice, before))
    if clone:
        project = _in_clone(project, clone)
    if chosen:
        project = _as_chosen(project, chosen, variables)
    project = dataclasses.replace(project, lock=lock)
    project = _with_host(project, host or hosts.Host(), say)
    why = _why_restarted(before, mounted, lost) if before else ""
    if before and not why and _fits(client, before, project):
        say(f"agent {name} runs already")
    else:
        before = _replaceable(client, before, project, say)
        make_volumes(client, name, volume, workspace)
        if before and why and project.matches(before):
            say(why)
            before.restart(timeout=STOP_S)
        _start(client, project, name)
        is_new = before is not None and before.id != ps.require(client, name).id
        if is_new:
            say(f"agent {name} was replaced, since its image, workspace, user or settings changed; volumes stay")
        for line in project.remarks(client):
            say(line)
        if used:
            protection.tidy(client, [used])
    container = ps.require(client, name)
    if warning := ps.warning(container, "network"):
        say(warning)
    status = str(container.attrs["State"]["Health"]["Status"])
    port = ps.published_port(container)
    return Running(name, ps.container_name(name), variant.reference, workspace, owner, port, status)


def make_volumes(client: docker.DockerClient, name: str, volume: str, workspace: Path) -> None:
    """Make an agent's volumes. Those that are there stay as they are."""
    client.volumes.create(SHARED_VOLUME)
    client.volumes.create(volume, labels={ps.LABEL: name, ps.WORKSPACE_LABEL: str(workspace)})


def _why_restarted(container: Container, folder: Path, lost: list[str]) -> str:
    """Return why a running agent has to be restarted to have what is in `folder` now; empty if it has not."""
    name = container.labels[ps.LABEL]
    if container.status == PAUSED:  # after `unpause` the engine calls it unhealthy until its next probe
        return f"agent {name} was paused, and is restarted"
    if _has_another_folder(container, folder):
        return f"{folder} was replaced under agent {name}, which is restarted to get the new folder"
    if lost:
        return f"{', '.join(lost)} was replaced on this machine, so agent {name} is restarted to protect it again"
    return ""


def health(container: Container) -> str:
    """Return what the engine last saw of a container's health; empty before its first start."""
    return str(container.attrs["State"].get("Health", {}).get("Status", ""))


def _fits(client: docker.DockerClient, container: Container, project: Project) -> bool:
    is_healthy = container.status == "running" and health(container) == "healthy"
    same_image = container.attrs["Image"] == client.images.get(project.image).id
    return is_healthy and same_image and project.matches(container)


def _has_another_folder(container: Container, workspace: Path) -> bool:
    """Say whether a running agent still has a folder that was removed or moved away on this machine.

    The folders are compared by device and inode, which a virtual machine between this one and the agent would change.
    """
    if container.status != "running" or not BOOT_ID.exists():
        return False
    # Whole paths and a deadline, because the agent decides what is first on PATH, and may stop any process of its own.
    ask = ["/bin/sh", "-c", f"/bin/cat {BOOT_ID}; /usr/bin/stat -c %d:%i /workspace"]
    command = ["docker", "exec", "--workdir", "/", str(container.id), *ask]  # /workspace may be dead
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=ANSWER_S)
    except (subprocess.TimeoutExpired, FileNotFoundError):
        return False
    said = done.stdout.split()
    found = workspace.stat()
    same_kernel = said[:1] == [BOOT_ID.read_text().strip()]
    return same_kernel and len(said) == 2 and said[1] != f"{found.st_dev}:{found.st_ino}"


def _replaceable(
    client: docker.DockerClient, container: Container | None, project: Project, say: Say
) -> Container | None:
    """Return the container when Compose can compare and replace it. Any other is stopped gracefully and removed.

    Compose does not compare the engine's names for volumes.
    """
    if container is None:
        return None
    labels = container.labels
    found = (labels.get(PROJECT_LABEL), labels.get(SERVICE_LABEL), ps.volume_of(container))
    if found == (project.name, project.part.agent, project.volumes[project.part.agent]):
        return container
    say(
        f"{container.name} is of another workspace or variant, or of an earlier version of `up`: it is replaced; its "
        "volumes stay"
    )
    _remove(client, container)
    return None


def _project(
    variant: image.Variant, name: str, workspace: Path, owner: Owner, bridge: Path | None, port: str, volume: str
) -> Project:
    labels = {
        ps.LABEL: name,
        ps.WORKSPACE_LABEL: str(workspace),
        ps.MODE_LABEL: "direct",
        f"{ps.LABEL}.user": f"{owner.uid}:{owner.gid}",
        f"{ps.LABEL}.bridge": str(bridge or ""),
    }
    return Project(
        ps.project_name(name),
        variant.name,
        variant.reference,
        values={
            "AGENT_UID": str(owner.uid),
            "AGENT_GID": str(owner.gid),
            "AGENT_BRIDGE": str(bridge or "/dev/null"),
            f"{PARTS[variant.name].values}_PORT": port,
        },
        service={
            "container_name": ps.container_name(name),
            "hostname": name,
            "labels": labels,
            "environment": {"AGENT_NAME": name},
            "volumes": [folder_at("/workspace", workspace)],
        },
        volumes={"shared": SHARED_VOLUME, PARTS[variant.name].agent: volume},
    )


def _in_clone(project: Project, clone: Clone) -> Project:
    """Return the same project in a clone of its workspace, with the objects of the person's repository read-only."""
    store = {**folder_at(STORE, clone.store), "read_only": True}
    labels = {**project.service["labels"], ps.MODE_LABEL: "clone"}
    service = {**project.service, "labels": labels, "volumes": [folder_at("/workspace", clone.workspace), store]}
    return dataclasses.replace(project, service=service)


def _as_chosen(project: Project, chosen: settings.Settings, variables: Mapping[str, str]) -> Project:
    """Return the same project with what a person chose. The values reach Compose by a pipe and its environment."""
    values = {"AGENT_COMMAND": chosen.command, "AGENT_MEMORY": chosen.memory}
    project = dataclasses.replace(project, values={**project.values, **{k: v for k, v in values.items() if v}})
    project = _extended(project, {"environment": variables})
    limits = {"cpus": float(chosen.cpus)} if chosen.cpus else {}
    return dataclasses.replace(project, service={**project.service, **limits})


def _with_host(project: Project, host: hosts.Host, say: Say) -> Project:
    project = dataclasses.replace(project, values={**project.values, **host.values()})
    service = project.resolved()
    project = _extended(project, hosts.settings(service, host, say))
    if service.get("healthcheck", {}).get("interval", NOT_CHOSEN) != NOT_CHOSEN:
        return project
    return dataclasses.replace(project, service={**project.service, "healthcheck": PROBE})


def _extended(project: Project, added: Mapping[str, Any]) -> Project:
    """Add settings to those of the service: entries of a mapping, or of a list."""
    own = project.service
    both = {key: [*own[key], *more] if isinstance(more, list) else {**own[key], **more} for key, more in added.items()}
    return dataclasses.replace(project, service={**own, **both})


def _port(before: Container | None) -> str:
    """Return the port on this machine for health: the present one, the usual one, or 0 for any free port.

    A port that is in use is not returned, unless the running agent itself uses it.
    """
    asked = str(ps.HEALTH_PORT)
    if before:
        bindings = before.attrs["HostConfig"]["PortBindings"].get(f"{ps.HEALTH_PORT}/tcp") or [{}]
        asked = bindings[0].get("HostPort") or "0"
        if before.status in ("running", PAUSED):
            return asked
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(asked)))
        except OSError:
            return "0"
    return asked


def _start(client: docker.DockerClient, project: Project, name: str) -> None:
    """Start the project. Raises a `Problem` that says which part failed."""
    try:
        try:
            project.up()
        except Problem as problem:
            if not PORT_TAKEN.search(str(problem)):
                raise
            project.at_any_port().up()  # another `up` took the port just now
    except Problem as problem:
        raise Problem(_what_failed(client, project, name, str(problem))) from problem


def _what_failed(client: docker.DockerClient, project: Project, name: str, error: str) -> str:
    """Explain the error by the output of the container that failed. Compose gives only its name."""
    if "didn't complete successfully" in error:
        return f"the volumes of agent {name} could not be prepared: {(project.remarks(client) or [error])[-1]}"
    container = project.container(client)
    if container is None or not re.search(r"healthy|exited", error):
        return f"agent {name} could not be started: {error}"
    last = plain(container.logs(tail=5).decode(errors="replace").strip())
    return f"agent {name} did not become healthy; its last words:\n{last}\nsee `bin/invoke agents.logs {name}`"


# The end of an agent


def down(client: docker.DockerClient, names: list[str], say: Say) -> None:
    """Stop agents gracefully and remove their containers; their volumes stay."""
    for name in names:
        container = ps.require(client, name)
        _remove(client, container)
        say(
            f"agent {name} is stopped and its container removed; volumes {ps.volume_of(container)} and {SHARED_VOLUME} "
            "stay"
        )


def remains(client: docker.DockerClient) -> list[str]:
    """Return the names of the agents of which a container is there, also one that only prepares the volumes."""
    prefix = ps.project_name("")
    found = client.containers.list(all=True, sparse=True, filters={"label": PROJECT_LABEL})
    projects = {str(each.attrs["Labels"][PROJECT_LABEL]) for each in found}
    return sorted({*ps.names(client), *(each.removeprefix(prefix) for each in projects if each.startswith(prefix))})


def end(client: docker.DockerClient, name: str) -> bool:
    """Stop an agent gracefully, and remove what Compose made for it. Returns whether its container was there."""
    container = ps.find(client, name)
    if container:
        _remove(client, container)
    _remove_project(client, ps.project_name(name))
    return container is not None


def _remove(client: docker.DockerClient, container: Container) -> None:
    """Stop an agent and remove it, and everything else that Compose made for it."""
    with _gone_is_fine(container):
        container.stop(timeout=STOP_S)
        container.remove(v=True)
    project = container.labels.get(PROJECT_LABEL)
    if project:
        _remove_project(client, project)


def _remove_project(client: docker.DockerClient, project: str) -> None:
    found = client.containers.list(
        all=True, sparse=True, filters={"label": f"{PROJECT_LABEL}={project}"}, ignore_removed=True
    )
    for other in found:
        with _gone_is_fine(other):
            other.remove(force=True, v=True)  # unnamed volumes alone; those with a name stay


@contextmanager
def _gone_is_fine(container: Container) -> Iterator[None]:
    """Go on where somebody else removed the container meanwhile, and wait where somebody still does."""
    try:
        yield
    except docker.errors.NotFound:
        return
    except docker.errors.APIError as error:
        if error.status_code != CONFLICT or REMOVING not in str(error.explanation):
            raise
        wait_until(lambda: _is_gone(container), STOP_S, f"{container.name} is being removed by somebody and stays")


def _is_gone(container: Container) -> bool:
    try:
        container.reload()
    except docker.errors.NotFound:
        return True
    return False
