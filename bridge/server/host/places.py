"""The directories of the host that a grant opens to containers. They are pinned when they are granted.

A place is a path, and the device, inode and owner that were found there. A program that can write to a directory
above it can later put something else at that path, such as a link. So a place is opened from the root down, one
name at a time, without following links. The directory found there must be the granted one. The server keeps it
open. Each call opens it in the same way and passes the descriptor on, never the path.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path

DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

MAX_LINKS = 40
"""Links in one path, the kernel's own limit."""

Identity = tuple[int, int]
"""Device and inode."""


class PlaceError(Exception):
    """A directory is not, or no longer, the granted one. The text is one line for the operator.

    `what` is the text without the path, which must not be shown to the container.
    """

    def __init__(self, path: str, what: str) -> None:
        super().__init__(f"{path} {what}; grant it anew")
        self.what = what


@dataclasses.dataclass(frozen=True)
class Place:
    """A directory as it was when it was granted."""

    path: str
    device: int
    inode: int
    owner: int
    """The owner's uid."""

    @classmethod
    def pin(cls, path: str | os.PathLike[str]) -> Place:
        """Pin a directory as it is now. Links in its path are resolved once. Raises PlaceError."""
        real = os.path.realpath(path)
        descriptor, _ = _walk(real)
        try:
            found = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        return cls(real, found.st_dev, found.st_ino, found.st_uid)

    @property
    def identity(self) -> Identity:
        """Device and inode. The client must see the same for its /workspace."""
        return self.device, self.inode

    def open(self) -> int:
        """Open the directory. Raises PlaceError unless it is the granted one, with the same owner."""
        descriptor, _ = _walk(self.path)
        found = os.fstat(descriptor)
        if (found.st_dev, found.st_ino, found.st_uid) == (self.device, self.inode, self.owner):
            return descriptor
        os.close(descriptor)
        if (found.st_dev, found.st_ino) != self.identity:
            raise PlaceError(self.path, "was replaced by another directory than the one that was granted")
        raise PlaceError(self.path, f"belonged to user {self.owner} when it was granted, and to {found.st_uid} now")

    def error(self) -> PlaceError | None:
        """Return why it cannot be used now; None if it can."""
        try:
            os.close(self.open())
        except PlaceError as error:
            return error
        return None

    def is_inside(self, other: Place) -> bool:
        """Return whether this place is below another one: by its path, by the directories above it, or through
        another mount."""
        if self.identity == other.identity:
            return False
        if self.path.startswith(other.path.rstrip("/") + "/"):
            return True
        try:
            descriptor, way = _walk(self.path)
        except PlaceError:
            return False  # it is gone, and not served until it is granted again
        os.close(descriptor)
        if other.identity in way:
            return True
        mine, theirs = _on_its_file_system(self.path), _on_its_file_system(other.path)
        return bool(mine and theirs and mine[0] == theirs[0] and mine[1].startswith(theirs[1].rstrip("/") + "/"))


def _walk(path: str) -> tuple[int, list[Identity]]:
    """Open an absolute path without following links. Returns its descriptor and the directories above it. Raises
    PlaceError."""
    way: list[Identity] = []
    at = os.open("/", DIRECTORY)
    for name in Path(path).parts[1:]:
        found = os.fstat(at)
        way.append((found.st_dev, found.st_ino))
        try:
            below = os.open(name, DIRECTORY, dir_fd=at)
        except OSError as error:
            raise PlaceError(path, f"is gone, or no directory any more ({error.strerror})") from None
        finally:
            os.close(at)
        at = below
    return at, way


def holders_of_links(path: str | os.PathLike[str]) -> Iterator[Place]:
    """Yield the directories that contain the links which are followed for a path. Raises PlaceError."""
    todo = list(reversed(Path(os.path.abspath(path)).parts[1:]))  # noqa: PTH100 - no link is followed
    at, links = Path("/"), 0
    while todo and links < MAX_LINKS:
        name = todo.pop()
        if name == "..":
            at = at.parent
            continue
        here = at / name
        if not here.is_symlink():
            at = here
            continue
        links += 1
        yield Place.pin(at)
        target = here.readlink()
        todo += reversed(target.parts[1:] if target.is_absolute() else target.parts)
        at = Path("/") if target.is_absolute() else at


def _on_its_file_system(path: str) -> tuple[str, str] | None:
    """Return a directory's file system and its path there, which is the same for all mounts. Returns None if it is
    unknown."""
    try:
        descriptor, _ = _walk(path)
    except PlaceError:
        return None
    try:
        facts = Path(f"/proc/self/fdinfo/{descriptor}").read_text().split()
        mount = facts[facts.index("mnt_id:") + 1]
        table = Path("/proc/self/mountinfo").read_bytes().decode(errors="surrogateescape")
        for line in filter(None, table.split("\n")):  # a directory's name may hold other signs that end lines
            number, _, device, root, point = line.split(" ")[:5]
            if number == mount:
                below = os.path.relpath(path, _unescaped(point))
                return device, os.path.normpath(os.path.join(_unescaped(root), below))  # noqa: PTH118 - pure text
    except (OSError, ValueError):
        return None
    finally:
        os.close(descriptor)
    return None


def _unescaped(text: str) -> str:
    """Return a path of mountinfo, in which blanks and other special characters are octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
