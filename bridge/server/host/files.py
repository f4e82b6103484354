"""Creates the bridge's own files and directories, so that other users can neither plant nor read them."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from bridge.server.host.grants import StateError


def own_directory(path: Path, mode: int, or_else: int | None = None) -> None:
    """Make a directory, or check that an existing one is ours and set its mode. Does not follow links.

    `or_else` is another mode that is accepted. Raises StateError or OSError.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=mode)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise StateError(f"{path} is not a directory; move it away")
    if found.st_uid != os.geteuid():
        raise StateError(f"{path} belongs to user {found.st_uid}; move it away or choose another with --state")
    if stat.S_IMODE(found.st_mode) not in (mode, or_else):
        path.chmod(mode)


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace a file: readers see the old or the new one, and no other user can read it unless `mode` allows it.
    Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)
    temporary.replace(path)
