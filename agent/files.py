"""Reads and writes our own files on /agent, where the agent may have put a pipe, a link or a directory instead.

Opening never waits and never follows a link. What is not a plain file is moved aside and reported in one line.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Report = Callable[[str], None]
    """Takes one line for people. It is called in the thread that opens the file."""

KINDS = {
    stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a directory", stat.S_IFLNK: "a link",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFREG: "a file",
}  # fmt: skip


def open_plain(path: Path, flags: int, report: Report, mode: int = 0o644) -> int:
    """Open a plain file. Anything else at its path is moved aside. Raises FileNotFoundError, OSError."""
    flags |= os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
    make_way(path, report)
    fd = os.open(path, flags, mode)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "no plain file", str(path))  # it was put there after the check
    return fd


def replace(path: Path, text: str, report: Report, *, durable: bool = False) -> None:
    """Replace a file whole or not at all. `durable`: it is on the disk before this returns. Raises OSError."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fd = open_plain(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, report)
        with os.fdopen(fd, "wb") as file:
            file.write(text.encode())
            if durable:
                file.flush()
                os.fsync(fd)
        make_way(path, report)
        fresh.replace(path)
    except OSError:
        with contextlib.suppress(OSError):  # ignored because the first error is the one to report
            fresh.unlink()
        raise
    if durable:
        _sync_directory(path.parent)


def make_way(path: Path, report: Report) -> None:
    """Move aside anything at the path that is not a plain file."""
    try:
        kind = stat.S_IFMT(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if kind != stat.S_IFREG:
        move_aside(path, f"{KINDS.get(kind, 'something')} and no file", report)


def make_directory(path: Path, mode: int, report: Report, *, link: bool = True) -> None:
    """Make a directory of ours. A link to one is accepted unless `link` is false."""
    if os.path.lexists(path) and not (path.is_dir() and (link or not path.is_symlink())):
        kind = KINDS.get(stat.S_IFMT(path.lstat().st_mode), "something")
        move_aside(path, f"{kind} and no directory", report)
    path.mkdir(exist_ok=True)
    if path.stat().st_uid == os.getuid():
        path.chmod(mode)


def move_aside(path: Path, why: str, report: Report) -> None:
    """Rename what is in the way; it stays in the same directory."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    other = path.with_name(f"{path.name}.aside-{stamp}-{time.monotonic_ns() % 1_000_000_000}")
    path.rename(other)
    report(f"{path} is {why}; moved aside to {other.name}")


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
