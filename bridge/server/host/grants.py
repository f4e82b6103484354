"""A grant: the directories of the host that its containers may use, and the user that Claude runs as."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import pwd
import re
from pathlib import Path

from bridge.policy.terms import WORKSPACE
from bridge.server.host.places import Identity, Place, PlaceError
from bridge.server.host.protected import USUAL, Choice

NUMBER = re.compile(r"[0-9]{1,9}")
"""The number of a user or group. It is well below the numbers with a special meaning for the kernel."""

SOCKET_NAME = "claude-bridge.sock"

MAX_EARLIER = 8
"""Replaced workspaces that a grant remembers."""

RESERVED = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc",
    "/proc",
    "/dev",
    "/sys",
    "/opt",
    "/claude",
    "/tmp",  # noqa: S108 - a name in the namespace
    "/home",
    "/run",
)
"""Paths of the namespace itself. A share there could replace a file of the CLI."""


class StateError(Exception):
    """The state directory or a grant cannot be used. The text is one line."""


@dataclasses.dataclass(frozen=True)
class Share:
    """A further directory of the host that the calls of one grant see."""

    source: Place
    target: str
    readonly: bool = False

    @classmethod
    def parse(cls, text: str) -> Share:
        """Parse HOSTDIR:CONTAINERDIR[:ro]. Raises StateError."""
        source, target, mode = parts_of_share(text)
        target = os.path.normpath("/" + target.lstrip("/"))
        if target == "/" or any((target + "/").startswith(taken + "/") for taken in (*RESERVED, WORKSPACE)):
            raise StateError(f"--share {text!r}: {target} belongs to the namespace itself; choose another directory")
        return cls(pinned(source), target, mode == "ro")


@dataclasses.dataclass(frozen=True)
class Grant:
    """Permission for clients of one socket to use the host's Claude on this workspace, as this user."""

    name: str
    place: Place
    user: tuple[int, int]
    """User and group that the CLI runs as. The operator chooses them; a later change of the workspace's owner has
    no effect."""
    shares: tuple[Share, ...] = ()
    earlier: tuple[Identity, ...] = ()
    """The directories that were granted at the workspace's path before, newest first. A container that was not
    restarted still has one of them."""
    choice: Choice = USUAL
    """Which paths of the workspace are protected."""
    of_agent: bool = False
    """Whether an agent's container has the same workspace. What ends the agent removes the stand-ins then."""

    @classmethod
    def of(
        cls, name: str, workspace: str | os.PathLike[str], shares: tuple[Share, ...] = (), user: str | None = None
    ) -> Grant:
        """Pin the workspace as it is now. Raises StateError.

        `user` is UID[:GID] or a name. Without it, Claude runs as the workspace's owner.
        """
        place = pinned(workspace)
        return cls(name, place, _user(place, user), shares)

    def after(self, known: Grant) -> Grant:
        """Return this grant with the memory of the one that it renews."""
        if known.workspace != self.workspace:
            return self
        before = dict.fromkeys((known.place.identity, *known.earlier))
        before.pop(self.place.identity, None)
        return dataclasses.replace(self, earlier=tuple(before)[:MAX_EARLIER])

    @property
    def workspace(self) -> str:
        """The workspace's path."""
        return self.place.path

    @property
    def places(self) -> list[tuple[Place, bool]]:
        """All directories of the grant, and whether its containers may write to them."""
        return [(self.place, True), *((share.source, not share.readonly) for share in self.shares)]

    @property
    def problem(self) -> str:
        """Why its calls would be refused now, for the operator; empty if they would not."""
        return next((str(error) for place, _ in self.places if (error := place.error())), "")

    @property
    def changed(self) -> str:
        """The same for the container, which has other paths for the directories."""
        named = [(self.place, f"the workspace of grant {self.name}")]
        named += [(share.source, f"the share {share.target} of grant {self.name}") for share in self.shares]
        return next((f"{name} {error.what}" for place, name in named if (error := place.error())), "")


def parts_of_share(text: str) -> tuple[str, str, str | None]:
    """Return HOSTDIR, CONTAINERDIR and the mode. HOSTDIR may hold colons, CONTAINERDIR may not. Raises StateError."""
    found = re.fullmatch(r"(/.*):(/[^:]*)(?::(ro|rw))?", text, re.DOTALL)
    if not found:
        raise StateError(f"--share {text!r}: HOSTDIR:CONTAINERDIR[:ro] with two absolute paths is allowed")
    return found[1], found[2], found[3]


def pinned(path: str | os.PathLike[str]) -> Place:
    """Pin a directory as it is now. Raises StateError."""
    if not Path(path).is_dir():
        raise StateError(f"{path} is no directory")
    try:
        return Place.pin(path)
    except PlaceError as error:
        raise StateError(str(error)) from None


def _user(place: Place, named: str | None) -> tuple[int, int]:
    if named is None:
        if place.owner == 0:
            raise StateError(
                f"{place.path} belongs to root, and Claude does not run as root by accident; give it to the user that "
                "it should run as, or name one with --user (--user root for root itself)"
            )
        return _with_group(place.owner)
    name, colon, group = named.partition(":")
    if colon and not NUMBER.fullmatch(group):
        raise StateError(f"--user {named!r}: {group!r} is no group's number")
    if not NUMBER.fullmatch(name):
        try:
            name = str(pwd.getpwnam(name).pw_uid)
        except KeyError:
            text = f"--user {named!r}: no such user; UID, UID:GID or a name of this host is allowed"
            raise StateError(text) from None
    uid, own_group = _with_group(int(name))
    return uid, int(group or own_group)


def _with_group(uid: int) -> tuple[int, int]:
    """Return a user and the user's own group. The workspace's group is not used, because a container may have set
    it."""
    try:
        return uid, pwd.getpwuid(uid).pw_gid
    except KeyError:
        return uid, uid


class OpenPlaces:
    """The directories of a grant, kept open while it is served, so that their inode numbers are not reused."""

    def __init__(self, grant: Grant) -> None:
        self._held: list[int] = []
        for place, _ in grant.places:
            with contextlib.suppress(PlaceError):  # ignored because each call of the grant reports it
                self._held.append(place.open())

    def close(self) -> None:
        """Close the directories."""
        while self._held:
            os.close(self._held.pop())


def check_shares(grant: Grant) -> None:
    """Refuse shares that are inside each other or inside the workspace, on the host or in the container. Raises
    StateError.

    A container could put a link into the outer directory, so that the inner one would be mounted elsewhere.
    """
    targets = sorted(share.target + "/" for share in grant.shares)
    for outer, inner in itertools.pairwise(targets):
        if inner.startswith(outer):
            raise StateError(f"the share at {inner[:-1]} lies inside the one at {outer[:-1]}; choose another directory")
    for share in grant.shares:
        for place, writes in grant.places:
            if share.source.is_inside(place) and (writes or not share.readonly):
                raise StateError(f"the share {share.source.path} lies inside {place.path}; share one of them")
        if grant.place.is_inside(share.source) and not share.readonly:
            raise StateError(f"the workspace lies inside the share {share.source.path}; add :ro, or leave it out")


def check_against(grant: Grant, other: Grant) -> None:
    """Refuse a grant whose containers could replace directories of another grant, and the reverse. Raises
    StateError."""
    for mine, i_write in grant.places:
        for theirs, they_write in other.places:
            if not (i_write or they_write):
                continue
            for inner, outer in ((mine, theirs), (theirs, mine)):
                if inner.is_inside(outer):
                    raise StateError(
                        f"{mine.path} cannot be granted: {inner.path} lies inside {outer.path}, and grant {other.name} "
                        f"has {theirs.path}; grant separate directories, or revoke {other.name}"
                    )
