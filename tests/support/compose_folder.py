"""A folder with a copy of compose.yaml, as people have it."""

from __future__ import annotations

import json
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

SERVICES = {"prod": "agent", "dev": "agent-dev"}


@dataclass(frozen=True)
class ComposeFolder:
    """A folder with compose.yaml, and the service of the variant under test."""

    folder: Path
    service: str
    environment: dict[str, str]

    def compose(self, *arguments: str) -> str:
        command = ["docker", "compose", "--profile", "dev", *arguments]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def up(self) -> None:
        self.compose("up", "--detach", "--wait", self.service)

    def sh(self, script: str) -> str:
        return self.compose("exec", "-T", self.service, "bash", "-c", script)

    def container(self) -> dict[str, object]:
        identity = self.compose("ps", "--all", "--quiet", self.service).strip()
        listed = subprocess.run(["docker", "inspect", identity], check=True, capture_output=True, text=True)
        found: dict[str, object] = json.loads(listed.stdout)[0]
        return found


def values(image: str) -> dict[str, str]:
    """Return values for a project of its own, at free ports."""
    return {
        "COMPOSE_PROJECT_NAME": f"magents-test-{uuid.uuid4().hex[:8]}",
        "AGENT_IMAGE": image,
        "AGENT_DEV_IMAGE": image,
        "AGENT_PORT": "0",
        "AGENT_DEV_PORT": "0",
        "AGENT_INSPECTOR_PORT": "0",
    }
