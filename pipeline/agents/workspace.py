"""The folder that an agent works in, and the user that the agent runs as: the folder's owner."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from pipeline import bridge
from pipeline.errors import Problem

AGENT_UID = 1000
"""The image's user. Its group has the same number."""


@dataclass(frozen=True)
class Owner:
    """The user and group that the agent runs as: the owner of its workspace."""

    uid: int
    gid: int


def owner_of(workspace: Path, *, chown: bool, as_root: bool) -> Owner:
    """Return the owner of the workspace. Root as the owner is a `Problem` until a person has chosen what to do."""
    if not workspace.is_dir():
        raise Problem(f"workspace {workspace} is no folder; make it, or name another with --workspace", 64)
    facts = workspace.stat()
    if facts.st_uid != 0 or as_root:
        return Owner(facts.st_uid, facts.st_gid)
    if not chown:
        raise Problem(
            f"workspace {workspace} belongs to root, and an agent does not run as root by accident; add --chown to "
            f"give it to uid {AGENT_UID}, or --as-root to run the agent as root"
        )
    _give(workspace, AGENT_UID)
    return Owner(AGENT_UID, AGENT_UID)


def named(workspace: str) -> Path:
    """Return the folder that a person named, with links resolved.

    Raises a `Problem` when an agent could have made one of the links.
    """
    path = Path(workspace).expanduser()
    bridge.refuse_links_of_containers(path)
    return path.resolve()


def default_workspace(root: Path) -> Path:
    """Return the folder beside compose.yaml. It is made on first use and given to the image's user."""
    workspace = root / "workspace"
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
