"""Several agents that are started and stopped by the tasks as a person types them, on a bridge's state of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest.mock import patch

import docker
import yaml
from docker.models.containers import Container

from pipeline.agents import ending, ps
from pipeline.files import ROOT
from tests.support.bridge_host import OWNER, SECRET

COMMAND_S = 900
"""Seconds that a task may take: a hundred agents on a loaded machine."""


class Fleet:
    """Agents NAME-1, NAME-2, ... in folders of a directory. Without `cli`, the host has no Claude Code."""

    def __init__(
        self, client: docker.DockerClient, directory: Path, size: int, *, image: str = "", cli: Path | None = None
    ) -> None:
        self.client = client
        self.size = size
        self.name = f"fleet-{uuid.uuid4().hex[:6]}"
        self.workspaces = directory / "workspaces"
        self.workspaces.mkdir()
        os.chown(self.workspaces, OWNER, OWNER)
        directory.chmod(0o755)
        self.state = directory / "state"
        self.image = image
        configuration = directory / "bridge.yaml"
        config = {"claude": str(cli or "/nonexistent/claude"), "environment": {"ANTHROPIC_API_KEY": SECRET}}
        configuration.write_text(yaml.safe_dump(config))
        self.environment = {
            **os.environ,
            "CLAUDE_BRIDGE_STATE": str(self.state),
            "CLAUDE_BRIDGE_CONFIG": str(configuration),
        }

    @property
    def names(self) -> list[str]:
        """The agents' names."""
        return [f"{self.name}-{number}" for number in range(1, self.size + 1)]

    @property
    def up(self) -> list[str]:
        """The command that starts all of them."""
        image = ["--image", self.image] if self.image else []
        return ["agents.up", self.name, "--workspace", str(self.workspaces), "--count", str(self.size), *image]

    @property
    def down(self) -> list[str]:
        """The command that stops all of them."""
        return ["agents.down", *self.names]

    def begin(self, *words: str, given: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a task in a process of its own."""
        command = [sys.executable, "-m", "invoke", "--search-root", str(ROOT), *words]
        environment = {**self.environment, **(given or {})}
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            env=environment,
        )  # fmt: skip

    def run(
        self, *words: str, given: Mapping[str, str] | None = None, text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a task to its end, whatever its exit code is. `given` is added to its environment."""
        with self.begin(*words, given=given) as process:
            try:
                out, err = process.communicate(text, timeout=COMMAND_S)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def good(self, *words: str, given: Mapping[str, str] | None = None, text: str = "") -> str:
        """Run a task that must succeed. Returns its standard output."""
        done = self.run(*words, given=given, text=text)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def containers(self) -> list[Container]:
        """Return the agents' containers, by name."""
        found = self.client.containers.list(all=True, filters={"name": f"^/{ps.container_name(self.name)}-"})
        return sorted((each for each in found if ps.LABEL in each.labels), key=lambda each: str(each.name))

    def grants(self) -> list[str]:
        """Return the names of the grants."""
        registry = self.state / "registry"
        return sorted(path.name for path in registry.iterdir()) if registry.is_dir() else []

    def known(self) -> set[str]:
        """Return the agents that `agents.down --all` would end, also those that are half there."""
        with patch.dict(os.environ, self.environment):
            return set(self.names) & set(ending.every(self.client))

    def left(self) -> Iterator[str]:
        """Tell what is left of the agents, apart from volumes and records."""
        every = self.client.containers.list(all=True, sparse=True, ignore_removed=True)
        yield from (f"container {name}" for each in every for name in each.attrs["Names"] if self.name in name)
        yield from (f"network {each.name}" for each in self.client.networks.list() if self.name in str(each.name))
        yield from (f"grant {name}" for name in self.grants())
        yield from (f"stand-in {path}" for path in self.workspaces.glob("*/.mcp.json"))

    def remove(self) -> None:
        """Remove everything, whatever state it is in."""
        self.run("agents.down", "--volumes", "--yes", *self.names)
        self.run("bridge.down")
        for container in self.containers():
            container.remove(force=True)
        for volume in self.client.volumes.list(filters={"name": ps.container_name(self.name)}):
            volume.remove(force=True)
