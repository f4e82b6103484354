"""The life of one agent, acted out on a live container: what held, and how long it took."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import docker
from docker.models.containers import Container

from pipeline import bridge
from pipeline.build import image
from pipeline.errors import Problem
from pipeline.reporting import Say

LABEL = "io.magents.lifecycle"
WAIT_S = 30  # each step takes under two seconds on an idle machine
GRACE_S = 5


@dataclass(frozen=True)
class Step:
    """One thing that was done to the container: whether it held, what was seen, and the seconds it took."""

    name: str
    held: bool
    seen: str
    took_s: float


@dataclass
class Stage:
    """A container with its volumes, which the steps act on."""

    client: docker.DockerClient
    variant: image.Variant
    name: str = field(default_factory=lambda: f"magents-lifecycle-{uuid.uuid4().hex[:8]}")
    workspace: Path | None = None
    host: Path | None = None

    def open_bridge(self, say: Say) -> None:
        """Take a folder of this machine's as the workspace, since a grant is for one, and grant it."""
        if os.geteuid() not in (0, AGENT_UID):
            say(f"the image's user {AGENT_UID} cannot use folders of uid {os.geteuid()}; going on without the bridge")
            return
        self.workspace = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        os.chown(self.workspace, AGENT_UID, AGENT_UID)
        self.host = bridge.for_agent(self.name, self.workspace, say)

    def start(self, command: list[str] | None = None, **environment: str) -> Container:
        """Run the image as `up` does, on this stage's volumes."""
        return self.client.containers.run(
            self.variant.reference,
            command,
            name=self.name,
            detach=True,
            labels={LABEL: self.name},
            environment={"AGENT_STOP_GRACE": str(GRACE_S), **environment},
            volumes=self._volumes(),
            restart_policy={"Name": "unless-stopped"},
            cap_drop=["ALL"],
        )

    def _volumes(self) -> dict[str, dict[str, str]]:
        mounts = {f"{self.name}-{place}": {"bind": f"/{place}", "mode": "rw"} for place in PLACES}
        if self.workspace:
            del mounts[f"{self.name}-workspace"]
            mounts[str(self.workspace)] = {"bind": "/workspace", "mode": "rw"}
        if self.host:
            mounts[str(self.host)] = {"bind": "/host", "mode": "ro"}
        return mounts

    def clear(self) -> None:
        """Remove the container, the volumes, and the grant with all that belongs to it."""
        for container in self.client.containers.list(all=True, filters={"label": f"{LABEL}={self.name}"}):
            container.remove(force=True)
        for place in PLACES:
            for volume in self.client.volumes.list(filters={"name": f"{self.name}-{place}"}):
                volume.remove()
        if self.host:
            bridge.forget(self.name)
        if self.workspace:
            shutil.rmtree(self.workspace)


AGENT_UID = 1000
NO_BRIDGE = (125, 127)
"""What the client answers where the bridge, or the host's Claude Code, is not there."""
PLACES = ("workspace", "shared", "agent")


def act_out(client: docker.DockerClient, variant: image.Variant, say: Say) -> Generator[Step, None, None]:
    """Go through an agent's life, giving each step as it is over."""
    image.require(client, variant)
    stage = Stage(client, variant)
    try:
        stage.open_bridge(say)
        container = stage.start()
        yield _timed("start", lambda: _until(container, "healthy"))
        write = " && ".join(f"echo kept > /{place}/lifecycle" for place in PLACES)
        yield _timed("write to each volume", lambda: _run(container, write))
        yield _timed("ask the host's Claude Code for its version", lambda: _asks_claude(container, stage))
        yield _timed("stop", lambda: _stopped(container, 0))
        yield _timed("start again", lambda: (container.start(), _until(container, "healthy"))[1])
        yield _timed("restart", lambda: (container.restart(timeout=GRACE_S + 5), _until(container, "healthy"))[1])
        yield _timed("kill the tmux server", lambda: _recovers(container, "pkill -KILL tmux"))
        yield _timed("kill the shell", lambda: _recovers(container, "pkill -KILL -f 'bash -l'"))
        yield _timed("kill the supervisor", lambda: _comes_back(container))
        yield _timed("kill the container", lambda: (container.kill(), _ended(container, 137))[1])
        container.remove()
        again = stage.start()
        yield _timed("remove and create anew", lambda: _until(again, "healthy"))
        read = " && ".join(f"grep -q kept /{place}/lifecycle" for place in PLACES)
        yield _timed("read from each volume", lambda: _run(again, read))
        again.remove(force=True)
        stubborn = stage.start(AGENT_COMMAND="trap '' TERM HUP; echo ready > /agent/ready; sleep 1000 & wait; wait")
        _until(stubborn, "healthy")
        yield _timed("stop one that ignores signals", lambda: _stopped(stubborn, 137))
    finally:
        stage.clear()


def _timed(name: str, act: Callable[[], str]) -> Step:
    begun = time.monotonic()
    try:
        seen, held = act(), True
    except Problem as problem:
        seen, held = str(problem), False
    return Step(name, held, seen, time.monotonic() - begun)


@contextmanager
def _limit(what: str) -> Iterator[Callable[[], None]]:
    """Give a call that fails once `WAIT_S` are over, and otherwise leaves the processor to others for a moment."""
    deadline = time.monotonic() + WAIT_S

    def pause() -> None:
        if time.monotonic() > deadline:
            raise Problem(f"{what} was not seen within {WAIT_S} s")
        time.sleep(0.05)

    yield pause


def _state(container: Container) -> dict[str, object]:
    container.reload()
    state: dict[str, object] = container.attrs["State"]
    return state


def _until(container: Container, health: str) -> str:
    with _limit(health) as pause:
        while True:
            found = _state(container).get("Health")
            if isinstance(found, dict) and found["Status"] == health:
                return health
            pause()


def _run(container: Container, script: str) -> str:
    code, output = container.exec_run(["bash", "-c", script])
    if code:
        raise Problem(f"exit code {code}: {output.decode(errors='replace').strip()}")
    return "done"


def _asks_claude(container: Container, stage: Stage) -> str:
    """Whether the host has it or not, the client says so in one way or the other."""
    code, output = container.exec_run(["claude-code", "--version"])
    said = str(output.decode(errors="replace").split("\n")[0])
    if code and (code not in NO_BRIDGE or (stage.host and bridge.host_has_claude())):
        raise Problem(f"exit code {code}: {said}")
    return said


def _stopped(container: Container, code: int) -> str:
    container.stop(timeout=GRACE_S + 10)
    return _ended(container, code)


def _ended(container: Container, code: int) -> str:
    with _limit("the end") as pause:
        while (state := _state(container))["Status"] != "exited":
            pause()
    if state["ExitCode"] != code:
        raise Problem(f"ended with {state['ExitCode']} instead of {code}")
    return f"ended with {code}"


def _recovers(container: Container, script: str) -> str:
    """Kill something that the supervisor keeps: the container stays, and a session answers again."""
    started = _state(container)["StartedAt"]
    container.exec_run(["bash", "-c", script])
    with _limit("a session") as pause:
        while container.exec_run(["tmux", "has-session", "-t", "=agent"]).exit_code:
            pause()
    if _state(container)["StartedAt"] != started:
        raise Problem("the container was restarted instead")
    return "a new session, same container"


def _comes_back(container: Container) -> str:
    """Kill the main process from inside: the restart policy brings the container back."""
    started = _state(container)["StartedAt"]
    container.exec_run(["bash", "-c", "pkill -KILL -f agent-entrypoint"], user="0:0", privileged=True)
    with _limit("a restart") as pause:
        while _state(container)["StartedAt"] == started:
            pause()
    return f"restarted, {_until(container, 'healthy')}"
