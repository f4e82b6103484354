"""Check the lifecycle of a live agent: start, stop, restart, kill, recovery; with the seconds of each step."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

import docker
from docker.models.containers import Container

from pipeline import bridge
from pipeline.agents.compose import Project, folder_at
from pipeline.agents.workspace import AGENT_UID
from pipeline.bootstrap import engine
from pipeline.build import image
from pipeline.errors import Problem
from pipeline.reporting import Say
from pipeline.waiting import wait_until

WAIT_S = 30  # each step takes under two seconds on an idle machine
GRACE_S = 5


@dataclass(frozen=True)
class Step:
    """One step of the check: whether it passed, what was seen, and the seconds it took."""

    name: str
    passed: bool
    seen: str
    took_s: float


@dataclass
class Fixture:
    """An agent of compose.yaml with its own volumes, on which the steps act."""

    client: docker.DockerClient
    variant: image.Variant
    name: str = field(default_factory=lambda: f"magents-lifecycle-{uuid.uuid4().hex[:8]}")
    workspace: Path | None = None
    host: Path | None = None

    def open_bridge(self, say: Say) -> None:
        """Make a temporary workspace on this machine and grant it. A grant needs a folder, so a volume does not do."""
        if os.geteuid() not in (0, AGENT_UID):
            say(f"the image's user {AGENT_UID} cannot use folders of uid {os.geteuid()}; going on without the bridge")
            return
        if engine.kind() != engine.USUAL:
            say("this engine numbers users in its own way; going on without the bridge")
            return
        self.workspace = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        os.chown(self.workspace, AGENT_UID, AGENT_UID)
        self.host = bridge.for_agent(self.name, self.workspace, say)

    def start(self, command: str = "") -> str:
        """Start the agent and wait until it is healthy. `command` is its AGENT_COMMAND."""
        self._project(command).up()
        return "healthy"

    @property
    def container(self) -> Container:
        """Return the agent's container, running or not. Raises `Problem` when it is gone."""
        found = self._project().container(self.client)
        if found is None:
            raise Problem(f"the container of {self.name} is gone")
        return found

    def _project(self, command: str = "") -> Project:
        values = {"AGENT_COMMAND": command, "AGENT_UID": str(AGENT_UID), "AGENT_GID": str(AGENT_UID)}
        values |= {"AGENT_WORKSPACE": "workspace", "AGENT_BRIDGE": str(self.host or "/dev/null")}
        values |= {"AGENT_PORT": "0", "AGENT_DEV_PORT": "0", "AGENT_NAME": "lifecycle"}
        service: dict[str, object] = {"environment": {"AGENT_STOP_GRACE": str(GRACE_S)}}
        if self.workspace:
            service["volumes"] = [folder_at("/workspace", self.workspace)]
        return Project(self.name, self.variant.name, self.variant.reference, values, service)

    def clear(self) -> None:
        """Remove the container, the volumes, the grant with all its data, and the temporary workspace."""
        self._project().remove()
        if self.host:
            bridge.forget(self.name)
        if self.workspace:
            shutil.rmtree(self.workspace)


NO_BRIDGE = (125, 127)
"""Exit codes of the client when the bridge, or the host's Claude Code, is missing."""
PLACES = ("workspace", "shared", "agent")


def run_lifecycle(client: docker.DockerClient, variant: image.Variant, say: Say) -> Generator[Step, None, None]:
    """Run all steps, and yield each one when it has ended. An engine that is elsewhere is a `Problem`."""
    engine.refuse_elsewhere()
    image.require(client, variant)
    fixture = Fixture(client, variant)
    try:
        fixture.open_bridge(say)
        started = _timed("start", fixture.start)
        yield started
        if not started.passed:
            return
        container = fixture.container
        write = " && ".join(f"echo kept > /{place}/lifecycle" for place in PLACES)
        yield _timed("write to each volume", lambda: _run(container, write))
        yield _timed("ask the host's Claude Code for its version", lambda: _asks_claude(container, fixture))
        yield _timed("stop", lambda: _stopped(container, 0))
        yield _timed("start again", lambda: (container.start(), _until(container, "healthy"))[1])
        yield _timed("restart", lambda: (container.restart(timeout=GRACE_S + 5), _until(container, "healthy"))[1])
        yield _timed("kill the tmux server", lambda: _recovers(container, "pkill -KILL tmux"))
        yield _timed("kill the shell", lambda: _recovers(container, "pkill -KILL -f 'bash -l'"))
        yield _timed("kill the supervisor", lambda: _comes_back(container))
        yield _timed("kill the container", lambda: (container.kill(), _ended(container, 137))[1])
        container.remove()
        yield _timed("remove and create anew", fixture.start)
        read = " && ".join(f"grep -q kept /{place}/lifecycle" for place in PLACES)
        yield _timed("read from each volume", lambda: _run(fixture.container, read))
        fixture.start("trap '' TERM HUP; echo ready > /agent/ready; sleep 1000 & wait; wait")
        yield _timed("stop one that ignores signals", lambda: _stopped(fixture.container, 137))
    finally:
        fixture.clear()


def _timed(name: str, act: Callable[[], str]) -> Step:
    begun = time.monotonic()
    try:
        seen, passed = act(), True
    except Problem as problem:
        seen, passed = str(problem), False
    return Step(name, passed, seen, time.monotonic() - begun)


def _state(container: Container) -> dict[str, object]:
    container.reload()
    state: dict[str, object] = container.attrs["State"]
    return state


def _until(container: Container, health: str) -> str:
    def has_come() -> bool:
        found = _state(container).get("Health")
        return isinstance(found, dict) and found["Status"] == health

    _wait(has_come, health)
    return health


def _wait(happened: Callable[[], bool], what: str) -> None:
    wait_until(happened, WAIT_S, f"{what} was not seen within {WAIT_S} s")


def _run(container: Container, script: str) -> str:
    code, output = container.exec_run(["bash", "-c", script])
    if code:
        raise Problem(f"exit code {code}: {output.decode(errors='replace').strip()}")
    return "done"


def _asks_claude(container: Container, fixture: Fixture) -> str:
    """Ask for the version. A host without Claude Code is no failure, as long as the client reports it."""
    code, output = container.exec_run(["claude-code", "--version"])
    said = str(output.decode(errors="replace").split("\n")[0])
    if code and (code not in NO_BRIDGE or (fixture.host and bridge.host_has_claude())):
        raise Problem(f"exit code {code}: {said}")
    return said


def _stopped(container: Container, code: int) -> str:
    container.stop(timeout=GRACE_S + 10)
    return _ended(container, code)


def _ended(container: Container, code: int) -> str:
    _wait(lambda: _state(container)["Status"] == "exited", "the end")
    found = _state(container)["ExitCode"]
    if found != code:
        raise Problem(f"ended with {found} instead of {code}")
    return f"ended with {code}"


def _recovers(container: Container, script: str) -> str:
    """Kill a process that the supervisor restarts. The container must stay, and a session must answer again."""
    started = _state(container)["StartedAt"]
    container.exec_run(["bash", "-c", script])
    _wait(lambda: container.exec_run(["tmux", "has-session", "-t", "=agent"]).exit_code == 0, "a session")
    if _state(container)["StartedAt"] != started:
        raise Problem("the container was restarted instead")
    return "a new session, same container"


def _comes_back(container: Container) -> str:
    """Kill the supervisor from inside. The restart policy must start the container again."""
    started = _state(container)["StartedAt"]
    container.exec_run(["/bin/bash", "-c", "/usr/bin/pkill -KILL -f agent-entrypoint"], user="0:0", privileged=True)
    _wait(lambda: _state(container)["StartedAt"] != started, "a restart")
    return f"restarted, {_until(container, 'healthy')}"
