"""Run Docker's command on an agent's container, with this process' own streams."""

from __future__ import annotations

import os
import subprocess

from pipeline.agents.ps import container_name
from pipeline.errors import NO_DOCKER_COMMAND, Problem


def attach(name: str) -> None:
    """Replace this process by the command that shows the agent's tmux session and handles the terminal."""
    at_root = ["--workdir", "/"]  # a workspace that was removed cannot be entered; the session has its own directory
    try:
        os.execvp("docker", ["docker", "exec", "-it", *at_root, container_name(name), "tmux", "attach", "-t", "agent"])
    except FileNotFoundError:
        raise Problem(NO_DOCKER_COMMAND) from None


def run(name: str, command: list[str], *, on_terminal: bool) -> int:
    """Run a command in an agent's container. Returns its exit code."""
    flags = ["-it"] if on_terminal else ["-i"]
    try:
        return subprocess.call(["docker", "exec", *flags, container_name(name), *command])
    except FileNotFoundError:
        raise Problem(NO_DOCKER_COMMAND) from None
