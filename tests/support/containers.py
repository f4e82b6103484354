"""Live agents for tests. They are labelled, listen on loopback only, and are always removed.

The log is shown when a test fails. A log line with WARNING or ERROR fails the test, unless the test declared it:
`agent.expect("was cut off")`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import platform
import re
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import docker
from docker.errors import APIError, NotFound

from pipeline.agents.compose import Project
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker.models.containers import Container

LABEL = "io.magents.test"
SESSION = f"{platform.node()}:{os.getpid()}"
"""Says which process made a container. The next run may remove what a process that has ended left behind."""

HEALTH_PORT = "3999/tcp"
START_TIMEOUT_S = 30.0
TROUBLE = re.compile(r"\b(WARNING|ERROR)\b|Traceback")


@dataclass
class Agent:
    """One running container, and what tests need to use it."""

    container: Container
    expected: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        """Return the id that `docker` commands take."""
        return str(self.container.id)[:12]

    def expect(self, *patterns: str) -> Agent:
        """Declare log lines that would otherwise fail the test."""
        self.expected += patterns
        return self

    # -- asking -------------------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """Return the port on 127.0.0.1 where health answers."""
        self.container.reload()
        return int(self.container.ports[HEALTH_PORT][0]["HostPort"])

    def get(self, path: str = "/health", timeout: float = 5.0) -> tuple[int, Any]:
        """Fetch a page. Returns the status code, and the content as JSON, or as text where it is no JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.headers.get_content_type() == "application/json":
            return response.status, json.loads(body)
        return response.status, body.decode()

    def health(self) -> dict[str, Any]:
        """Return /health, or `{"status": "unreachable"}`, because health starts later than the container."""
        try:
            return dict(self.get()[1])
        except (OSError, KeyError, IndexError, TypeError, http.client.HTTPException):
            return {"status": "unreachable", "checks": {}, "agent": {}}

    def check(self, name: str) -> dict[str, Any]:
        """Return one check's row."""
        return dict(self.health()["checks"].get(name, {}))

    def run(self, *argv: str, user: str = "") -> str:
        """Run a command in the container, which must succeed; return its output."""
        code, output = self.try_run(*argv, user=user)
        assert code == 0, f"{argv} ended with {code}: {output}"
        return output

    def try_run(self, *argv: str, user: str = "") -> tuple[int, str]:
        """Run a command in the container; return code and output."""
        result = self.container.exec_run(list(argv), user=user)
        return int(result.exit_code), result.output.decode(errors="replace").strip()

    def sh(self, script: str, user: str = "") -> str:
        """Run a shell script in the container, which must succeed."""
        return self.run("bash", "-c", script, user=user)

    def has(self, path: str) -> bool:
        """Say whether a file exists in the container."""
        return self.try_run("test", "-e", path)[0] == 0

    def log(self) -> str:
        """Return all that was logged."""
        return str(self.container.logs().decode(errors="replace"))

    def state(self) -> dict[str, Any]:
        """Return the container's state as the engine shows it."""
        self.container.reload()
        return dict(self.container.attrs["State"])

    def process(self, pattern: str) -> int:
        """Return the pid, in the container, of the only process whose command line begins with `pattern`."""
        return int(self.run("pgrep", "-o", "-f", f"^{pattern}"))

    def tmux(self, *argv: str) -> str:
        """Send a command to the agent's tmux. Returns its output."""
        return self.run("tmux", *argv)

    # -- waiting ------------------------------------------------------------------------------------------

    def wait_healthy(self, timeout: float = START_TIMEOUT_S) -> Agent:
        """Wait until health says healthy or degraded."""
        self.wait_status("healthy", "degraded", timeout=timeout)
        return self

    def wait_status(self, *words: str, timeout: float = START_TIMEOUT_S) -> dict[str, Any]:
        """Wait for a status of /health. Returns the whole answer."""

        def answer() -> dict[str, Any] | None:
            health = self.health()
            return health if health["status"] in words else None

        return wait_until(answer, timeout, f"{self.id} to be {' or '.join(words)}, is {self.health()}")

    def wait_log(self, text: str, timeout: float = START_TIMEOUT_S) -> str:
        """Wait until a line is logged; return the log."""
        return wait_until(lambda: self.log() if text in self.log() else "", timeout, f"{text!r} in the log")

    def wait_exit(self, timeout: float = START_TIMEOUT_S) -> int:
        """Wait until the container ends by itself; return its exit code."""
        wait_until(lambda: self.state()["Status"] == "exited", timeout, f"{self.id} to end")
        return int(self.state()["ExitCode"])

    # -- ending -------------------------------------------------------------------------------------------

    def stop(self, timeout: int = 20) -> tuple[int, float]:
        """Stop as `docker stop` does; return the exit code and the seconds to the end of the container.

        The engine notes when the container ended. What it then does with networks and mounts is not the agent's time:
        it takes seconds on a busy machine.
        """
        began = datetime.now(UTC)
        self.container.stop(timeout=timeout)
        ended = datetime.fromisoformat(self.state()["FinishedAt"])
        return int(self.state()["ExitCode"]), (ended - began).total_seconds()

    def pause(self) -> None:
        """Pause as `docker pause` does.

        runc gives up ("unable to freeze") when a process of the container, such as a probe, is just being started on a
        busy machine. That is the engine's limit, so it is asked again.
        """

        def is_paused() -> bool:
            with contextlib.suppress(APIError):  # ignored because it is asked again
                self.container.pause()
            return bool(self.state()["Paused"])

        wait_until(is_paused, 15, "the engine to pause the container")

    def wait_probed(self) -> None:
        """Wait until the engine's health probe has just run; the next one is ten seconds away.

        For tests that pause a container. When a container is paused while a probe is being started in it, the engine
        never releases its lock on the container, and every list of containers waits for that lock.
        """

        def probed() -> list[str]:
            return [probe["End"] for probe in self.state()["Health"]["Log"]]

        before = probed()
        wait_until(lambda: probed() != before, 15, "a health probe")

    def shutdown_s(self) -> float:
        """Return the seconds of the last stop as the supervisor logged them. The engine's own time comes on top."""
        return float(re.findall(r"supervisor: stopped after ([0-9.]+) s", self.log())[-1])

    def unexpected(self) -> list[str]:
        """Return the problems in the log that no test declared."""
        lines = [line for line in self.log().splitlines() if TROUBLE.search(line)]
        return [line for line in lines if not any(re.search(p, line) for p in self.expected)]


def compose_project(image: str, variant: str, **service: Any) -> Project:
    """Describe an agent of compose.yaml with its own volumes and any port. `service` is in Compose's format."""
    values = {"AGENT_PORT": "0", "AGENT_DEV_PORT": "0", "AGENT_NAME": "test"}
    labels = {LABEL: SESSION, **service.pop("labels", {})}
    return Project(f"magents-test-{uuid.uuid4().hex[:12]}", variant, image, values, {"labels": labels, **service})


class Agents:
    """Makes containers and volumes, and removes all of them."""

    def __init__(self, image: str, network: str | None = None) -> None:
        self._engine = docker.from_env()
        self._image = image
        self._agents: list[Agent] = []
        self._volumes: list[Any] = []
        self._network = network

    def volume(self, **options: Any) -> str:
        """Make a named volume. `tmpfs="size=16m"` makes one in memory."""
        tmpfs = options.pop("tmpfs", None)
        if tmpfs:
            options["driver_opts"] = {"type": "tmpfs", "device": "tmpfs", "o": tmpfs}
        made = self._engine.volumes.create(
            name=f"magents-test-{uuid.uuid4().hex[:12]}", labels={LABEL: SESSION}, **options
        )
        self._volumes.append(made)
        return str(made.name)

    def start(self, *argv: str, **options: Any) -> Agent:
        """Run a container detached. The options are the SDK's; ports are published on loopback."""
        options.setdefault("image", self._image)
        options.setdefault("ports", {HEALTH_PORT: ("127.0.0.1", None)})
        options["labels"] = {LABEL: SESSION, **options.get("labels", {})}
        container = self._engine.containers.create(command=list(argv) or None, **options)
        agent = Agent(container)
        self._agents.append(agent)
        container.start()
        return agent

    def healthy(self, *argv: str, **options: Any) -> Agent:
        """Run a container and wait until it is healthy."""
        return self.start(*argv, **options).wait_healthy()

    def once(self, *argv: str, **options: Any) -> tuple[int, str, str]:
        """Run a container to its end. Returns exit code, stdout, stderr. The caller checks problems on stderr."""
        agent = self.start(*argv, **options).expect("")
        code = agent.wait_exit(60)
        out = agent.container.logs(stdout=True, stderr=False).decode(errors="replace")
        err = agent.container.logs(stdout=False, stderr=True).decode(errors="replace")
        return code, out, err

    def remove(self, agent: Agent) -> None:
        """Remove a container with its anonymous volumes, after its log was checked."""
        with contextlib.suppress(NotFound):  # ignored because the test removed it itself
            agent.container.remove(force=True, v=True)

    def close(self, *, show: bool) -> None:
        """Remove everything. Raises when a log holds an undeclared problem."""
        troubles: list[str] = []
        for agent in self._agents:
            with contextlib.suppress(NotFound, APIError):  # ignored because the test removed it itself
                troubles += agent.unexpected()
                if show or agent.unexpected():
                    print(f"--- log of {agent.id}\n{agent.log()}--- state {agent.state()}")
            self.remove(agent)
        for volume in self._volumes:
            with contextlib.suppress(NotFound, APIError):  # ignored because the clean-up of the next run removes it
                volume.remove(force=True)
        self._engine.close()
        assert show or not troubles, f"unexpected in the log: {troubles}"


@contextlib.contextmanager
def agents(image: str) -> Iterator[Agents]:
    """Give an `Agents`; show the logs of its containers when the body fails."""
    made = Agents(image)
    try:
        yield made
    except BaseException:
        made.close(show=True)
        raise
    made.close(show=False)
