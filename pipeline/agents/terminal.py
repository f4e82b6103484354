"""Run Docker's command on an agent's container, with this process' own streams."""

from __future__ import annotations

import os
import subprocess

from pipeline.agents.ps import container_name
from pipeline.errors import NO_DOCKER_COMMAND, Problem

ATTACH = """/usr/bin/infocmp >/dev/null 2>&1 || TERM=xterm
case $COLORTERM in truecolor | 24bit) set -- -T RGB ;; esac
exec /usr/bin/tmux "$@" attach -t agent"""
"""tmux learns the terminal's name, where the image knows it, and whether the terminal says that it has true colour."""


def attaching(container: str) -> list[str]:
    """Return the command that shows an agent's tmux session on this process' terminal."""
    at_root = ["--workdir", "/"]  # a workspace that was removed cannot be entered; the session has its own directory
    terminal = ["--env", "TERM", "--env", "COLORTERM"]
    return ["docker", "exec", "-it", *at_root, *terminal, container, "/bin/sh", "-c", ATTACH, "attach"]


def attach(name: str) -> None:
    """Replace this process by the command that shows the agent's tmux session and handles the terminal."""
    command = attaching(container_name(name))
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        raise Problem(NO_DOCKER_COMMAND) from None


def run(name: str, command: list[str], *, on_terminal: bool) -> int:
    """Run a command in an agent's container. Returns its exit code."""
    flags = ["-it"] if on_terminal else ["-i"]
    try:
        return subprocess.call(["docker", "exec", *flags, container_name(name), *command])
    except FileNotFoundError:
        raise Problem(NO_DOCKER_COMMAND) from None
