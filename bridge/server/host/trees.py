"""Walks through directories that a container has filled, at any depth, to count or to remove their contents.

Each step is relative to an open directory, because a path is limited to 4,095 bytes and a tree may be deeper. Also, a
program that renames directories meanwhile cannot lead the walk elsewhere. Links are not followed, and other devices
are not entered. Only a few descriptors are open at any depth: the walk goes up by "..", which must be the same
directory (device and inode) as on the way down. If it is another one, a directory was moved, and the walk starts
again.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

TRIES = 5
"""Number of walks. A program that still moves directories after that does it on purpose."""

MOVED = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
"""Errors when a listed directory is opened that no longer exists as a directory."""


class Walk:
    """A walk through a tree. Subclasses define what to do with the entries."""

    def begin(self) -> None:
        """Called before each walk: the first, and each one after a directory was moved."""

    def entry(self, fd: int, name: str, found: os.stat_result) -> None:
        """Handle an entry of the open directory `fd`, before the entries in it."""

    def left(self, fd: int, name: str) -> None:
        """Handle the directory `name` of the open directory `fd`, after all its entries."""

    def trouble(self, error: OSError) -> None:
        """Handle an error: something could not be read."""

    def run(self, path: str | os.PathLike[str]) -> bool:
        """Walk through everything below a directory. Returns False if directories were moved each time.

        Raises OSError if the top directory cannot be opened.
        """
        top = os.open(path, DIRECTORY)
        try:
            return any(self._through(top) for _ in range(TRIES))
        finally:
            os.close(top)

    def _through(self, top: int) -> bool:
        """Walk down and up again until all is done. Returns False if a directory was moved meanwhile."""
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
        """Handle the entries of one directory. Returns the names of its subdirectories."""
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
    """A directory that the walk is in or below."""

    def __init__(self, name: str, fd: int, below: list[str]) -> None:
        self.name = name
        self.identity = _identity(fd)
        self.below = below
        """Names of its subdirectories that the walk has not visited yet."""


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


class Removal(Walk):
    """Removes everything that it visits."""

    def __init__(self) -> None:
        self.first: OSError | None = None
        """The first error of the last walk."""

    def begin(self) -> None:
        """Start without an error."""
        self.first = None

    def entry(self, fd: int, name: str, found: os.stat_result) -> None:
        """Remove an entry that is not a directory."""
        if not stat.S_ISDIR(found.st_mode):
            os.unlink(name, dir_fd=fd)

    def left(self, fd: int, name: str) -> None:
        """Remove a directory, which is now empty."""
        os.rmdir(name, dir_fd=fd)

    def trouble(self, error: OSError) -> None:
        """Keep the first error, and go on."""
        self.first = self.first or error


def remove(path: Path) -> str:
    """Remove a directory with its contents. Returns why it could not be removed; empty if it is gone."""
    why = ""
    for _ in range(TRIES):  # some file systems omit names from a listing while others are removed
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
