"""Our own files on /agent, where the agent may have put something else: a pipe, a link, a directory.

Opening never waits and never follows a link. What is no plain file is moved aside with one line, and we go on.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Tell = Callable[[str], None]
    """Takes one line for people; called in whatever thread opens the file."""

KINDS = {
    stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a directory", stat.S_IFLNK: "a link",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFREG: "a file",
}  # fmt: skip


def open_plain(path: Path, flags: int, tell: Tell, mode: int = 0o644) -> int:
    """Open a plain file; what stands in its place is moved aside. FileNotFoundError where nothing is left to read."""
    flags |= os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
    make_way(path, tell)
    fd = os.open(path, flags, mode)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "no plain file", str(path))  # put there this very moment
    return fd


def make_way(path: Path, tell: Tell) -> None:
    """Move aside what stands in a plain file's place, if anything."""
    try:
        kind = stat.S_IFMT(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if kind != stat.S_IFREG:
        move_aside(path, f"{KINDS.get(kind, 'something')} and no file", tell)


def make_directory(path: Path, mode: int, tell: Tell, *, link: bool = True) -> None:
    """Have a directory of ours; a link to one will do unless `link` is false."""
    if os.path.lexists(path) and not (path.is_dir() and (link or not path.is_symlink())):
        kind = KINDS.get(stat.S_IFMT(path.lstat().st_mode), "something")
        move_aside(path, f"{kind} and no directory", tell)
    path.mkdir(exist_ok=True)
    if path.stat().st_uid == os.getuid():
        path.chmod(mode)


def move_aside(path: Path, why: str, tell: Tell) -> None:
    """Give what is in the way another name, beside its old one."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    other = path.with_name(f"{path.name}.aside-{stamp}-{time.monotonic_ns() % 1_000_000_000}")
    path.rename(other)
    tell(f"{path} is {why}; moved aside to {other.name}")
