"""Walks through directories that a container has filled, at any depth, to count or to remove what is there.

Each step is relative to an open directory. A path may have 4,095 bytes and a tree may be deeper than that. It also
means that a program that renames directories meanwhile cannot lead the walk elsewhere. Links are not followed, and
other devices are not entered. A few descriptors are open at any depth: the walk goes up by "..", which must be the same
directory (device and inode) as on the way down. If it is another one, a directory was moved, and the walk begins anew.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

TRIES = 5
"""Walks. A program that still moves directories after so many does it on purpose."""

MOVED = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
"""Errors of opening a directory that was listed and is none any more."""


class Walk:
    """A walk through a tree. Subclasses define what is done with the entries."""

    def begin(self) -> None:
        """The first walk begins, or another one after a directory was moved."""

    def entry(self, fd: int, name: str, found: os.stat_result) -> None:
        """An entry of the open directory `fd`, before what is in it."""

    def left(self, fd: int, name: str) -> None:
        """All in the directory `name` of the open directory `fd` was gone through."""

    def trouble(self, error: OSError) -> None:
        """Something could not be looked at."""

    def run(self, path: str | os.PathLike[str]) -> bool:
        """Go through all below a directory; false when directories were moved each time. OSError for the top."""
        top = os.open(path, DIRECTORY)
        try:
            return any(self._through(top) for _ in range(TRIES))
        finally:
            os.close(top)

    def _through(self, top: int) -> bool:
        """Go down and up again until all is done; false when a directory was moved on the way."""
        self.begin()
        device = os.fstat(top).st_dev
        here = os.open(".", DIRECTORY, dir_fd=top)
        try:
            ways = [_Way("", here, self._entries(here, device))]
            while True:
                if ways[-1].below:
                    name = ways[-1].below.pop()
                    try:
                        below = os.open(name, DIRECTORY, dir_fd=here)
                    except OSError as error:
                        if error.errno in MOVED:
                            return False
                        self.trouble(error)
                        continue
                    os.close(here)
                    here = below
                    ways.append(_Way(name, here, self._entries(here, device)))
                    continue
                done = ways.pop()
                if not ways:
                    return True
                above = os.open("..", DIRECTORY, dir_fd=here)
                os.close(here)
                here = above
                if _identity(here) != ways[-1].identity:
                    return False
                self._left(here, done.name)
        except FileNotFoundError:
            return False  # "..": the directory was removed
        finally:
            os.close(here)

    def _entries(self, fd: int, device: int) -> list[str]:
        """Tell of the entries of one directory; the names of directories in it."""
        below: list[str] = []
        if os.fstat(fd).st_dev != device:
            return below
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    self._entry(fd, entry, below)
        except OSError as error:
            self.trouble(error)
        return below

    def _entry(self, fd: int, entry: os.DirEntry[str], below: list[str]) -> None:
        try:
            found = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                below.append(entry.name)
            self.entry(fd, entry.name, found)
        except FileNotFoundError:
            pass  # ignored because it was removed meanwhile
        except OSError as error:
            self.trouble(error)

    def _left(self, fd: int, name: str) -> None:
        try:
            self.left(fd, name)
        except FileNotFoundError:
            pass  # ignored because it was removed meanwhile
        except OSError as error:
            self.trouble(error)


class _Way:
    """A directory that the walk is in, or below."""

    def __init__(self, name: str, fd: int, below: list[str]) -> None:
        self.name = name
        self.identity = _identity(fd)
        self.below = below
        """Names of directories in it that are still to be gone through."""


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


class Removal(Walk):
    """Removes what it meets."""

    def __init__(self) -> None:
        self.first: OSError | None = None
        """What went wrong first on the last walk."""

    def begin(self) -> None:
        """Begin with no trouble."""
        self.first = None

    def entry(self, fd: int, name: str, found: os.stat_result) -> None:
        """Remove what is no directory."""
        if not stat.S_ISDIR(found.st_mode):
            os.unlink(name, dir_fd=fd)

    def left(self, fd: int, name: str) -> None:
        """Remove a directory that is empty now."""
        os.rmdir(name, dir_fd=fd)

    def trouble(self, error: OSError) -> None:
        """Go on with the others."""
        self.first = self.first or error


def remove(path: Path) -> str:
    """Remove a directory with all that is in it; why it is not gone, or nothing."""
    why = ""
    for _ in range(TRIES):  # because some file systems leave names out of a list while others are removed
        removal = Removal()
        try:
            is_through = removal.run(path)
            if is_through and removal.first is None:
                path.rmdir()
                return ""
        except FileNotFoundError:
            return ""
        except OSError as error:
            removal.first = error
        why = (removal.first and removal.first.strerror) or "directories were moved about meanwhile"
    return why
