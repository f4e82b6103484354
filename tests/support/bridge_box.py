"""Containers of the real images that hold a grant, with all of Docker's restrictions."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.support.bridge_host import Place
from tests.support.containers import Agent, Agents

LOCKED_DOWN: dict[str, Any] = {
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "tmpfs": {"/tmp": "exec,mode=1777", "/run": "mode=1777"},
}


class Box:
    """A healthy container with a grant at /host and its workspace."""

    def __init__(
        self,
        agents: Agents,
        place: Place,
        mounts: dict[Path, str] | None = None,
        volumes_of_all: dict[Path, str] | None = None,
        **options: Any,
    ) -> None:
        """Start it. `mounts` are read-only; `volumes_of_all` can be written."""
        volumes = {str(place.mount): {"bind": "/host", "mode": "ro"}, str(place.workspace): {"bind": "/workspace"}}
        volumes |= {str(path): {"bind": target, "mode": "ro"} for path, target in (mounts or {}).items()}
        volumes |= {str(path): {"bind": target} for path, target in (volumes_of_all or {}).items()}
        self.place = place
        self.agent: Agent = agents.healthy(volumes=volumes, **LOCKED_DOWN, **options)

    def command(self, *argv: str) -> list[str]:
        """Return the command line that runs a command in the container with this process' streams."""
        return ["docker", "exec", "-i", self.agent.id, *argv]

    def run(self, *argv: str, stdin: bytes = b"", timeout: float = 90) -> subprocess.CompletedProcess[bytes]:
        """Run a command in the container and wait for its end."""
        return subprocess.run(self.command(*argv), input=stdin, capture_output=True, timeout=timeout, check=False)

    def processes(self) -> list[list[str]]:
        """Return the container's processes as the host's engine lists them, which adds no new process to them."""
        return list(self.agent.container.top()["Processes"])

    def begin(self, *argv: str) -> subprocess.Popen[bytes]:
        """Start a command in the container without waiting; the caller waits for it."""
        return subprocess.Popen(self.command(*argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)


def facts(process: subprocess.Popen[bytes], timeout: float = 120) -> Any:
    """Return the JSON that a process prints before it ends with 0."""
    out, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, out
    return json.loads(out)
