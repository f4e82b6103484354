"""The two sides of a comparison: the CLI plain on a host, and the same CLI over the bridge.

Both run as the same user, in the same directory, /workspace, over the same programs. Each has an API of its own.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tests.support import agent_sdk
from tests.support.bridge_host import OWNER, SECRET, BridgeHost, Place, bridge_host
from tests.support.fake_messages_api import FakeMessagesApi, Part, Request, echo

HOME = "/home/claude"
AS_OWNER = ("setpriv", f"--reuid={OWNER}", f"--regid={OWNER}", "--clear-groups")
PROGRAMS = ("bwrap", "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib",
            "--symlink", "usr/lib64", "/lib64", "--ro-bind", "/etc", "/etc", "--proc", "/proc",
            "--dev", "/dev")  # fmt: skip
"""Starts a program in a namespace with the programs of this machine."""
VARIABLES = {"PATH": "/usr/bin:/bin", "HOME": HOME, "USER": "claude", "SHELL": "/bin/bash", "LANG": "C.UTF-8"}
QUIET = {
    "CLAUDE_CODE_MAX_RETRIES": "0",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_INSTALLATION_CHECKS": "1",
}


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of the CLI, or of another program. `stdin` None is /dev/null. `part` is how the model answers."""

    argv: tuple[str, ...]
    program: str = "claude"
    cwd: str = "/workspace"
    stdin: bytes | None = None
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    part: Part = echo


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a call did: its exit code, its output, and what the model was told."""

    code: int
    stdout: bytes
    stderr: bytes
    requests: list[Request]


class Side(Protocol):
    """Runs calls in one project. The conversations of earlier calls are there."""

    workspace: Path

    def run(self, call: Call) -> Outcome:
        """Run one call to its end."""


class _Side:
    def __init__(self, workspace: Path, api: FakeMessagesApi) -> None:
        self.workspace = workspace
        self._api = api

    def run(self, call: Call) -> Outcome:
        self._api.part = call.part
        self._api.requests.clear()
        stdin: dict[str, Any] = {"stdin": subprocess.DEVNULL} if call.stdin is None else {"input": call.stdin}
        done = subprocess.run(self.words(call), capture_output=True, timeout=60, check=False, **stdin)
        return Outcome(done.returncode, done.stdout, done.stderr, list(self._api.requests))

    def words(self, call: Call) -> list[str]:
        raise NotImplementedError


class Plain(_Side):
    """The CLI as a person has it: on the host, in a project that it trusts, with a home of its own."""

    def __init__(self, cli: Path, workspace: Path, home: Path, api: FakeMessagesApi) -> None:
        super().__init__(workspace, api)
        self._cli = cli
        self._home = home
        trust = home / ".claude.json"
        inside = [path.relative_to(workspace) for path in workspace.rglob("*") if path.is_dir()]
        places = [str(Path("/workspace", path)) for path in (Path(), *inside)]
        trust.write_text(json.dumps({"projects": {place: {"hasTrustDialogAccepted": True} for place in places}}))
        os.chown(trust, OWNER, OWNER)

    def words(self, call: Call) -> list[str]:
        words = [*PROGRAMS, "--perms", "0755", "--dir", "/home", "--perms", "0755", "--dir", "/opt"]
        words += ["--perms", "0755", "--dir", "/opt/bin"]
        words += ["--perms", "1777", "--tmpfs", "/tmp", "--ro-bind", str(self._cli), "/opt/claude"]
        words += ["--bind", str(self.workspace), "/workspace", "--bind", str(self._home), HOME]
        words += ["--unshare-pid", "--die-with-parent", "--chdir", call.cwd, "--clearenv"]
        own = {"ANTHROPIC_BASE_URL": self._api.url, "ANTHROPIC_API_KEY": SECRET}
        for name, value in {**VARIABLES, "PATH": "/opt/bin:/usr/bin:/bin", **QUIET, **own, **call.env}.items():
            words += ["--setenv", name, value]
        words += ["--symlink", "../claude", "/opt/bin/claude", *_sdk()]
        return [*words, "--", *AS_OWNER, call.program, *call.argv]


class Bridged(_Side):
    """The CLI over the bridge, from a container with the same programs."""

    def __init__(self, place: Place, api: FakeMessagesApi) -> None:
        super().__init__(place.workspace, api)
        self._place = place

    def words(self, call: Call) -> list[str]:
        options = ["--ro-bind", "/etc", "/etc", "--perms", "0755", "--dir", "/home", "--perms", "0777", "--tmpfs", HOME]
        options += ["--perms", "1777", "--tmpfs", "/tmp", "--clearenv"]
        for name, value in {**VARIABLES, "PATH": "/app:/usr/bin:/bin", **call.env}.items():
            options += ["--setenv", name, value]
        return self._place.box(*AS_OWNER, call.program, *call.argv, options=(*options, *_sdk()), cwd=call.cwd)


def _sdk() -> list[str]:
    """Return the options that bind both Agent SDKs and the programs for them."""
    return ["--ro-bind", str(agent_sdk.installed()), agent_sdk.MOUNT]


@contextmanager
def bridge(directory: Path, cli: Path) -> Iterator[tuple[BridgeHost, FakeMessagesApi]]:
    """Run a bridge server with this CLI and an API of its own."""
    with FakeMessagesApi() as api:
        environment = {"ANTHROPIC_BASE_URL": api.url, "CLAUDE_CODE_MAX_RETRIES": "0"}
        with bridge_host(directory, claude=str(cli), environment=environment) as host:
            yield host, api


def in_workspace(directory: Path) -> list[str]:
    """Return the words that run a program of this machine in a directory, as the user of both sides."""
    return [*PROGRAMS, "--bind", str(directory), "/workspace", "--chdir", "/workspace", "--", *AS_OWNER]


def give(directory: Path) -> Path:
    """Give a directory and all below it to the user of both sides."""
    for path in (directory, *directory.rglob("*")):
        os.chown(path, OWNER, OWNER, follow_symlinks=False)
    return directory
