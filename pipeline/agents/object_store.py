"""The objects of a person's repository as an agent's clone shares them: files of the same content, never copies.

They are hard links in a directory of ours, which containers see read-only. So an agent cannot change them, and whatever
`gc` or `prune` do in the person's repository, the clone keeps what it needs. Git never changes such a file in place.
A file that cannot be linked (it is on another file system, or the agent could not read it) is copied.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.agents.host_git import Git, User
from pipeline.errors import Problem

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
TWO = re.compile(r"[0-9a-f]{2}")
LOOSE = re.compile(r"[0-9a-f]{38}|[0-9a-f]{62}")
PACKED = re.compile(r"[a-z]+-[0-9a-f]{40,64}\.(pack|idx|rev|bitmap|mtimes)")
LARGE_FILE = re.compile(r"[0-9a-f]{64}")
COPY_S = 1800
TRIES = 20
"""How often a repository may be repacked while its packs are linked."""


@dataclass
class Shared:
    """What was shared, in files, and what had to be copied, in bytes."""

    files: int = 0
    copied: int = 0


class ObjectStore:
    """Fills a directory with the objects of one repository, for one reader."""

    def __init__(self, target: Path, reader: User) -> None:
        self._target, self._reader = target, reader
        self._shared = Shared()

    def take(self, objects: Path) -> Shared:
        """Share what is in `objects`. Loose ones come first: a repack moves them into packs."""
        pack = self._begin()
        with _opened(objects) as source:
            for name in _names(source, TWO):
                self._folder(source, name, self._target / "objects" / name, LOOSE)
            for _ in range(TRIES):
                if self._folder(source, "pack", pack, PACKED):
                    break
            else:
                raise Problem(f"{objects} is being repacked all the time, so no clone was made; try again")
        return self._shared

    def take_reachable(self, repository: Git) -> Shared:
        """Copy what the repository's references reach, where it borrows objects from elsewhere.

        What it borrows may be all of another repository, which the agent must not see.
        """
        pack = self._begin()
        for each in (self._target, pack):
            os.chown(each, repository.user.uid, repository.user.gid)
        repository.run("pack-objects", "--all", "--quiet", str(pack / "pack"), limit_s=COPY_S)
        os.chown(pack, os.geteuid(), os.getegid())
        for each in pack.iterdir():
            self._shared.copied += each.stat().st_size
            each.chmod(0o444)
        return self._shared

    def _begin(self) -> Path:
        """Make the folders that every store has. Returns that for packs."""
        for each in ("objects", "objects/info", "objects/pack"):
            (self._target / each).mkdir()
            (self._target / each).chmod(0o755)  # whatever the umask is
        return self._target / "objects" / "pack"

    def close(self) -> None:
        """Let the reader see all of it, and no other user of this machine: its files are readable for all."""
        for folder, _, _ in os.walk(self._target):
            Path(folder).chmod(0o755)
        self._target.chmod(0o700)
        if os.geteuid() == 0:
            os.chown(self._target, self._reader.uid, self._reader.gid)

    def take_large_files(self, objects: Path) -> None:
        """Share the files of Git LFS, which finds them beside the objects."""
        if not objects.is_dir():
            return
        with _opened(objects) as source:
            for first in _names(source, TWO):
                with _opened(first, source) as below:
                    for second in _names(below, TWO):
                        self._folder(below, second, self._target / "lfs/objects" / first / second, LARGE_FILE)

    def _folder(self, above: int, name: str, target: Path, pattern: re.Pattern[str]) -> bool:
        """Share the files of one folder. Returns False if it changed meanwhile."""
        try:
            source = os.open(name, DIRECTORY, dir_fd=above)
        except FileNotFoundError:
            return True
        try:
            target.mkdir(parents=True, exist_ok=True)
            with _opened(target) as place:
                have = set(names_in(place))
                missing = [each for each in _names(source, pattern) if each not in have]
                taken = [self._file(source, each, place) for each in missing]
                return all(taken) and set(_names(source, pattern)) <= set(names_in(place))
        finally:
            os.close(source)

    def _file(self, source: int, name: str, place: int) -> bool:
        """Share one file. Returns False if it is gone."""
        try:
            found = os.lstat(name, dir_fd=source)
            if stat.S_ISREG(found.st_mode) and not (self._can_read(found) and self._link(source, name, place)):
                self._copy(source, name, place)
        except FileNotFoundError:
            return False
        return True

    def _link(self, source: int, name: str, place: int) -> bool:
        try:
            os.link(name, name, src_dir_fd=source, dst_dir_fd=place, follow_symlinks=False)
        except FileNotFoundError:
            raise
        except OSError:
            return False  # it is copied: another file system, another's file, or too many links
        self._shared.files += 1
        return True

    def _can_read(self, found: os.stat_result) -> bool:
        return found.st_uid == self._reader.uid or bool(found.st_mode & stat.S_IROTH)

    def _copy(self, source: int, name: str, place: int) -> None:
        fresh = f".{name}"
        reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
        with os.fdopen(reading, "rb") as one:
            writing = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o444, dir_fd=place)
            with os.fdopen(writing, "wb") as other:
                shutil.copyfileobj(one, other, 1 << 20)
                os.fchmod(other.fileno(), 0o444)
                self._shared.copied += other.tell()
        os.rename(fresh, name, src_dir_fd=place, dst_dir_fd=place)


@contextmanager
def _opened(path: str | Path, above: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, DIRECTORY, dir_fd=above)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _names(descriptor: int, pattern: re.Pattern[str]) -> list[str]:
    return [name for name in names_in(descriptor) if pattern.fullmatch(name)]


def names_in(descriptor: int) -> list[str]:
    """Return the names in an open directory, sorted."""
    with os.scandir(descriptor) as entries:
        return sorted(entry.name for entry in entries)
