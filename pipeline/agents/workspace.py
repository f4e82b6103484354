"""The folder that an agent works in, and the user that the agent runs as: the folder's owner."""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path

from pipeline import bridge
from pipeline.bootstrap.engine import USUAL, Kind
from pipeline.errors import Problem

AGENT_UID = 1000
"""The image's user. Its group has the same number."""


DEFAULT_FOLDER = "workspace"
"""The folder beside compose.yaml that `up` works on when a person names none."""

MAPPED = 65536
"""Users that an engine with userns-remap has; /etc/subuid gives them."""


@dataclass(frozen=True)
class Owner:
    """The user and group that the agent runs as, as its container numbers them: the owner of its workspace."""

    uid: int
    gid: int
    on_host: int | None = None
    """The user's number on this machine, where it is another one."""

    @property
    def person(self) -> int:
        """The user's number on this machine."""
        return self.uid if self.on_host is None else self.on_host

    def __str__(self) -> str:
        return f"uid {self.uid}" if self.on_host is None else f"uid {self.uid}, which is uid {self.on_host} here"


def owner_of(workspace: Path, kind: Kind = USUAL, *, chown: bool, as_root: bool) -> Owner:
    """Return the owner of the workspace. Root as the owner is a `Problem` until a person has chosen what to do.

    A folder that agents of this kind of engine could not write to is a `Problem`, too.
    """
    _require_folder(workspace)
    facts = workspace.stat()
    if kind.is_podman:
        raise Problem(_what_podman_does(workspace, is_rootless=kind.person is not None))
    if kind.person is not None:
        return _owner_for_rootless(workspace, kind.person, chown=chown)
    if kind.first:
        return _owner_for_remap(workspace, kind.first)
    if facts.st_uid != 0 or as_root:
        return Owner(facts.st_uid, facts.st_gid)
    if not chown:
        refuse_of_root(workspace)
    _give(workspace, AGENT_UID)
    return Owner(AGENT_UID, AGENT_UID)


def refuse_of_root(workspace: Path) -> None:
    """Raise a `Problem` if a folder belongs to root: a person has to choose what to do."""
    if workspace.stat().st_uid == 0:
        raise Problem(
            f"workspace {workspace} belongs to root, and an agent does not run as root by accident; add --chown to "
            f"give it to uid {AGENT_UID}, or --as-root to run the agent as root"
        )


def _what_podman_does(workspace: Path, *, is_rootless: bool) -> str:
    facts = workspace.stat()
    user = (
        f"--userns keep-id:uid={AGENT_UID},gid={AGENT_UID}" if is_rootless else f"--user {facts.st_uid}:{facts.st_gid}"
    )
    return (
        "Podman answers in place of Docker, and its socket cannot build our image or tell an agent's health, so "
        f"nothing was started; type `podman run --detach {user} --publish 127.0.0.1:3999:3999 "
        f"--volume {shlex.quote(f'{workspace}:/workspace')} magents/agent`, or choose a Docker engine with DOCKER_HOST"
    )


def _owner_for_rootless(workspace: Path, person: int, *, chown: bool) -> Owner:
    """Return root, which is the person that runs the rootless engine. It can write to no other user's folder."""
    uid = workspace.stat().st_uid
    if uid == 0 and chown:
        _give(workspace, person)
    elif uid != person:
        raise Problem(
            f"workspace {workspace} belongs to uid {uid}, and this rootless engine is that of uid {person}, so its "
            f"agents could not write there; type `sudo chown -R {person}: {shlex.quote(str(workspace))}` and run the "
            "same command again, or name another folder with --workspace"
        )
    return Owner(0, 0, person)


def _owner_for_remap(workspace: Path, first: int) -> Owner:
    """Return the owner as containers of an engine with userns-remap number it."""
    facts = workspace.stat()
    uid, gid = facts.st_uid - first, facts.st_gid - first
    if not 0 <= uid < MAPPED:
        agent = first + AGENT_UID
        raise Problem(
            f"this engine renumbers users (userns-remap), so agents could not write to workspace {workspace} of uid "
            f"{facts.st_uid}; type `sudo chown -R {agent}:{agent} {shlex.quote(str(workspace))}` to give it to uid "
            f"{AGENT_UID} of its containers and run the same command again, or use an engine without userns-remap"
        )
    return Owner(uid, gid if 0 <= gid < MAPPED else uid, facts.st_uid)


def named(workspace: str) -> Path:
    """Return the folder that a person named, with links resolved.

    Raises a `Problem` when an agent could have made one of the links.
    """
    path = Path(workspace)
    with contextlib.suppress(RuntimeError):  # ignored because a folder may be called ~x, and no user
        path = path.expanduser()
    _require_folder(path)
    bridge.refuse_links_of_containers(path)
    return path.resolve()


def _require_folder(path: Path) -> None:
    if not os.path.isdir(path):  # noqa: PTH112 - false for a name that is too long, where Path raises
        raise Problem(f"workspace {path} is no folder; make it, or name another with --workspace", 64)
    try:
        str(path.resolve()).encode()
    except UnicodeEncodeError:
        raise Problem(
            f"the name of workspace {str(path)!a} is not UTF-8, and the engine's API knows no other names; "
            "rename the folder, or name another with --workspace",
            64,
        ) from None


def default_workspace(root: Path) -> Path:
    """Return the folder beside compose.yaml. It is made on first use and given to the image's user."""
    workspace = root / DEFAULT_FOLDER
    if not workspace.exists():
        workspace.mkdir()
        if os.geteuid() == 0:
            os.chown(workspace, AGENT_UID, AGENT_UID)
    return workspace


def _give(workspace: Path, uid: int) -> None:
    """Give a tree to `uid`. Links themselves are given, never their targets."""
    for folder, _, files, descriptor in os.fwalk(workspace, follow_symlinks=False):
        del folder
        os.chown(descriptor, uid, uid)
        for name in files:
            facts = os.lstat(name, dir_fd=descriptor)
            if stat.S_ISLNK(facts.st_mode) or facts.st_uid == 0:
                os.chown(name, uid, uid, dir_fd=descriptor, follow_symlinks=False)
