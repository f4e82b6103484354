"""The facts about the agent that the supervisor gives to health: plain data, made again for each evaluation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

STARTING, RUNNING, STOPPING, STOPPED = "starting", "running", "stopping", "stopped"
"""Phases of the container."""

SESSION = "agent"
"""The name of the agent's tmux session."""


@dataclass(frozen=True)
class AgentFacts:
    """The agent at one moment.

    `state` is `starting`, `running`, `restarting`, `finished` or `command`. `problem` is empty when there is none.
    `last_exit` and `stop` have the form of the page /status.
    """

    name: str
    phase: str
    state: str
    what_runs: str
    is_command: bool
    pid: int = 0
    problem: str = ""
    restarts: int = 0
    restart_policy: str = ""
    last_exit: dict[str, Any] | None = None
    stop: dict[str, Any] | None = None
    started_at: str = ""
    uptime_s: float = 0.0
    user: str = ""
    notes: tuple[str, ...] = ()
    cut_off: int = 0


@dataclass(frozen=True)
class Pane:
    """One pane of tmux. `attached` is the number of the session's clients; `activity` is a Unix time in seconds."""

    session: str
    attached: int
    window_index: int
    window_name: str
    window_active: bool
    activity: int
    pane: str
    pid: int
    command: str
    has_ended: bool


@dataclass(frozen=True)
class VolumeStatus:
    """The result of one observation of a volume. Sizes are in bytes. `problem` is empty when all is well."""

    path: str
    kind: str
    read_only: bool
    problem: str
    total: int = 0
    free: int = 0
    files: int = 0
    free_files: int = 0


@dataclass(frozen=True)
class Certificates:
    """What the host adds to the system's certificates. `problem` is empty when all is well."""

    added: int = 0
    problem: str = ""


@dataclass(frozen=True)
class Sources:
    """The sources of the checks.

    `panes` lists the panes of tmux and raises ProbeError; it is None where a command runs in place of the session.
    `volumes` holds one function for each path, which may block.
    `certificates` may block too.
    """

    panes: Callable[[], Awaitable[list[Pane]]] | None
    volumes: Mapping[str, Callable[[], VolumeStatus]]
    bridge_socket: str
    certificates: Callable[[], Certificates]
    task_master_version: str
