"""Keeps what the CLI remembers between calls: private/NAME/KEY/ of the state directory.

NAME is the grant's. KEY stands for the path of its workspace. So another workspace under the same name starts with
no conversations, and a workspace that is removed and made again at the same path goes on with its own.

The directories private, NAME and KEY belong to the server. Only what is in KEY belongs to the grant's user, so
nobody can put a link in the place of one of these names.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from pathlib import Path

from bridge.server.host.files import own_directory
from bridge.server.host.grants import Grant, StateError

KEPT = ("projects", "todos", "tasks", "plans", "file-history", "paste-cache", "agent-memory")
"""Directories of the CLI's configuration that are kept. Nothing in them is ever executed."""

HISTORY = "history.jsonl"
"""The prompts that people typed, one JSON object a line. The CLI appends to it. Its lock is a directory beside it."""

MAX_HISTORY = 1024 * 1024
"""Bytes of the history above which a call begins with the newer half. The CLI shows the last hundred prompts."""


def directory(private: Path, grant: Grant) -> Path:
    """Return the directory of a grant and its workspace, with everything in it. Raises StateError or OSError."""
    place = _made(private, grant.name, grant.workspace)
    for path in (place / name for name in KEPT):
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        if path.is_symlink() or not path.is_dir():
            raise StateError(f"{path} is not the directory that it should be; move it away")
        if (path.stat().st_uid, path.stat().st_gid) != grant.user:
            os.chown(path, *grant.user, follow_symlinks=False)
    _prepare_history(place / HISTORY, grant.user)
    return place


MAX_LOOKED = 1024 * 1024
"""Bytes of a conversation in which a prompt is looked for. The first prompt is near the beginning."""


def has_conversation(place: Path, session: str) -> bool:
    """Return whether a conversation with a prompt is kept in this directory, so that the CLI can resume it."""
    for path in list(place.glob(f"projects/*/{session}.jsonl")):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                if stat.S_ISREG(os.fstat(descriptor).st_mode) and b'"type":"user"' in file.read(MAX_LOOKED):
                    return True
    return False


def adopt(private: Path, name: str, workspace: str) -> None:
    """Give the conversations of an earlier version, which has kept them in private/NAME, to the grant's workspace.

    What the workspace has already is left alone. Raises StateError or OSError.
    """
    above = private / name
    if any((above / kind).exists() for kind in KEPT):
        place = _made(private, name, workspace)
        for kind in KEPT:
            if (above / kind).is_dir() and not (above / kind).is_symlink() and not (place / kind).exists():
                (above / kind).rename(place / kind)


def names(private: Path, workspace: str) -> list[str]:
    """Return the names of the grants, also of ended ones, that keep conversations on a workspace. Raises OSError."""
    return sorted(above.name for above in private.iterdir() if (above / _key(workspace)).is_dir())


def move(private: Path, old: tuple[str, str], new: tuple[str, str]) -> None:
    """Give the conversations of a name and workspace to another name and workspace, unless that has some.

    Raises StateError or OSError.
    """
    source, target = (private / name / _key(workspace) for name, workspace in (old, new))
    if source.is_dir() and not target.exists():
        own_directory(target.parent, 0o711)
        source.rename(target)


def _key(workspace: str) -> str:
    return hashlib.sha256(os.fsencode(workspace)).hexdigest()[:16]


def _made(private: Path, name: str, workspace: str) -> Path:
    above = private / name
    if os.geteuid() == 0 and above.is_dir() and not above.is_symlink():
        os.chown(above, 0, 0, follow_symlinks=False)  # an earlier version gave it to the grant's user
    place = above / _key(workspace)
    for path in (above, place):
        own_directory(path, 0o711)
    return place


def _prepare_history(path: Path, user: tuple[int, int]) -> None:
    """Create the history, and shorten it if it is too long. Calls that run append to the same file."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise StateError(f"{path} is not the file that it should be; move it away")
        if (found.st_uid, found.st_gid) != user:
            os.fchown(fd, *user)
        if found.st_size > MAX_HISTORY:
            newer = os.pread(fd, MAX_HISTORY // 2, found.st_size - MAX_HISTORY // 2)
            os.ftruncate(fd, 0)
            os.write(fd, newer.partition(b"\n")[2])
    finally:
        os.close(fd)
