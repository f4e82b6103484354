"""What an agent can only read of its workspace: the mounts of its container, and what a person chose and is told.

Which paths these are, and what stands in for missing ones: bridge/server/host/protected.py, for the bridge as well.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import docker
from docker.models.containers import Container

from agent.protected import astray
from bridge.server.operator import workspaces
from bridge.server.operator.api import OperatorError
from bridge.server.operator.workspaces import Choice, Protection
from pipeline import bridge
from pipeline.agents import ps
from pipeline.bootstrap.doctor import Finding
from pipeline.errors import Problem
from pipeline.reporting import Say

EVERY = "*"
"""In invoke.yaml, the paths of all agents; others stand below the name of an agent."""
HOOKS = ["--includes", "--null", "--show-scope", "--type=path", "--get-all", "core.hooksPath"]
ANSWER_S = 5


# What a person chose


def chosen(config: Mapping[str, Any], name: str, protect: Iterable[str], unprotect: Iterable[str]) -> Choice:
    """Return what counts for an agent: what invoke.yaml (`config`) says, and the words of a command, which win."""
    with _as_problem():
        asked = workspaces.choice(protect, unprotect)
        set_ = workspaces.choice(_listed(config, "protect", name), _listed(config, "unprotect", name))
    more = {*asked.more, *set_.more} - {*asked.fewer}
    return Choice(tuple(sorted(more)), tuple(sorted({*asked.fewer, *set_.fewer} - {*asked.more})))


def _listed(config: Mapping[str, Any], key: str, name: str) -> list[str]:
    by_name = config.get(key) or {}
    if not hasattr(by_name, "items"):
        raise Problem(f'{key} in invoke.yaml is {by_name!r}; allowed: lists of paths by name of agent, "*" for all', 64)
    lists = [by_name.get(EVERY) or [], by_name.get(name) or []]
    if not all(isinstance(paths, list) and all(isinstance(path, str) for path in paths) for paths in lists):
        raise Problem(f"{key} in invoke.yaml holds something else than lists of paths; name paths of the workspace", 64)
    return [path for paths in lists for path in paths]


def check(workspace: Path, choice: Choice) -> Choice:
    """Refuse what cannot be protected, before anything is made. Returns the choice with the person's own hooks."""
    with _as_problem():
        if (elsewhere := workspaces.linked(workspace)) and not choice.spares(workspaces.GIT):
            raise Problem(
                f"{workspace} is a worktree or a submodule of a repository that is elsewhere ({elsewhere}), so git "
                "would not work in the agent; add --clone to give the agent a repository of its own, or "
                "`--unprotect .git` to go on without git",
                64,
            )
        choice = Choice(tuple(sorted({*choice.more, *_hooks_of_person(str(workspace))})), choice.fewer)
        workspaces.check(workspace, choice)
    return choice


def _hooks_of_person(workspace: str) -> list[str]:
    """Return the directories of the workspace that the person's own git settings name for the hooks of everything.

    The workspace only decides which of the person's files count (`includeIf`). Where its own settings are broken, those
    that always count do.
    """
    if not os.path.lexists(f"{workspace}/{workspaces.GIT}"):
        return []
    found = []
    for scope in (
        ["-c", "safe.directory=*", "-C", workspace, "config"],
        ["config", "--system"],
        ["config", "--global"],
    ):
        try:
            done = subprocess.run(["git", *scope, *HOOKS], capture_output=True, cwd="/", timeout=ANSWER_S)
        except FileNotFoundError:
            return []
        except subprocess.TimeoutExpired:
            continue
        words = done.stdout.decode(errors="surrogateescape").split("\0")
        for whose, named in zip(words[::2], words[1::2], strict=False):
            path = workspaces.within(workspace, os.path.normpath(os.path.join(workspace, named)))  # noqa: PTH118 - text
            if whose in ("system", "global") and named and path not in (None, "."):
                found.append(path)
    return found


@contextmanager
def _as_problem() -> Iterator[None]:
    try:
        yield
    except OperatorError as error:
        raise Problem(str(error), error.code) from None


# The container


def prepare(workspace: Path, choice: Choice, say: Say) -> Protection:
    """Make stand-ins for what is missing in the workspace, and say so. Returns what to mount."""
    with _as_problem():
        found = workspaces.prepare(workspace, choice)
    if found.made:
        say(
            f"missing in {workspace} and protected, so empty ones stand in until `bin/invoke agents.down`: "
            f"{', '.join(found.made)}"
        )
    if workspaces.GIT in found.made:
        say(
            f"{workspace} is a folder in a repository, whose .git is above it, so git does not work in the agent; run "
            "`up` on the repository's own folder to have git"
        )
    return found


def stand_ins(workspace: Path) -> set[str]:
    """Return the paths at which stand-ins are now."""
    with _as_problem():
        return workspaces.stand_ins(workspace)


LABEL = f"{ps.LABEL}.protected"
OPEN_LABEL = f"{ps.LABEL}.unprotected"
VARIABLE = "AGENT_PROTECTED"


def settings(workspace: Path, protection: Protection, choice: Choice, before: Container | None) -> dict[str, Any]:
    """Return what an agent's service needs: the mounts, a variable for the programs in there, labels for this side.

    The label with the identities of what is mounted stays as it is while `before` has the same paths, so that a restart
    is enough to mount what is there now.
    """
    identities = dict(protection.identities)
    if before and before.labels.get(f"{ps.LABEL}.workspace") == str(workspace):
        earlier = _recorded(before)
        identities = earlier if earlier.keys() == identities.keys() else identities
    volumes = [
        {
            "type": "bind",
            "source": str(workspace / path),
            "target": f"/workspace/{path}",
            "read_only": path in protection.paths,
            "bind": {"create_host_path": False},
        }
        for path in protection.identities
    ]
    return {
        "environment": {VARIABLE: json.dumps(protection.paths) if protection.paths else ""},
        "labels": {LABEL: json.dumps(identities), OPEN_LABEL: json.dumps(choice.fewer)},
        "volumes": volumes,
    }


def _recorded(container: Container) -> dict[str, str]:
    found: dict[str, str] = json.loads(container.labels.get(LABEL, "{}"))
    return found


def lost(container: Container) -> list[str]:
    """Return the protected paths that a running agent can change after all, since they were replaced on this machine.

    The agent is not asked: this machine's kernel says what its container has mounted. Where that cannot be read (an
    engine in a virtual machine), the files here are compared with those that were mounted.
    """
    state, recorded = container.attrs["State"], _recorded(container)
    if state["Status"] != "running" or not recorded:
        return []
    try:
        table = Path(f"/proc/{state['Pid']}/mountinfo").read_bytes().decode(errors="surrogateescape")
    except OSError:
        table = ""
    if " /workspace " in table:
        found = astray(recorded, table)
    else:
        since = datetime.fromisoformat(state["StartedAt"]).timestamp()
        found = workspaces.lost(container.labels[f"{ps.LABEL}.workspace"], recorded, since)
    return [path for path in found if not any(path.startswith(f"{outer}/") for outer in found)]


def mode(container: Container) -> str:
    """Return how an agent has its workspace, in a few words."""
    if container.labels.get(ps.MODE_LABEL) == "clone":
        return "clone"
    if LABEL not in container.labels:
        return "direct, unprotected"
    words = ["direct"]
    if paths := json.loads(container.labels.get(OPEN_LABEL, "[]")):
        words.append(f"unprotected: {' '.join(paths)}")
    if paths := lost(container):
        words.append(f"lost: {' '.join(paths)}")
    return ", ".join(words)


def findings(client: docker.DockerClient) -> Iterator[Finding]:
    """Say which agents can change what they should not."""
    for container in ps.every(client):
        if paths := lost(container):
            what = f"{', '.join(paths)} was replaced on this machine, so this agent can change the new one"
            yield Finding(str(container.name), "warning", what, ps.up_again(container))


def tidy(client: docker.DockerClient, ended: Iterable[tuple[str, list[str]]]) -> None:
    """Remove the stand-ins in workspaces that no agent and no grant uses any more: pairs as of `used`."""
    paths: dict[str, set[str]] = {}
    for workspace, found in ended:
        paths.setdefault(workspace, set()).update(found)
    in_use = {other.labels.get(f"{ps.LABEL}.workspace") for other in ps.every(client)} if paths else set()
    for workspace in sorted({*paths} - in_use - {""}):
        bridge.tidy(Path(workspace), sorted(paths[workspace]))


def used(container: Container) -> tuple[str, list[str]]:
    """Return the workspace of an agent and its protected paths, for `tidy` after its end."""
    return container.labels.get(f"{ps.LABEL}.workspace", ""), list(_recorded(container))
