"""Listening sockets. A socket appears at its path when it is ready, and only its creator removes it."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path

from bridge.server.host.grants import SOCKET_NAME, StateError

BACKLOG = 128


class Listener:
    """A listening socket at a path."""

    def __init__(self, path: Path, sock: socket.socket) -> None:
        self.path = path
        self.socket = sock
        found = path.lstat()
        self._identity = (found.st_dev, found.st_ino)

    def is_there(self) -> bool:
        """Return whether the path still leads to this socket."""
        try:
            found = self.path.lstat()
        except OSError:
            return False
        return stat.S_ISSOCK(found.st_mode) and (found.st_dev, found.st_ino) == self._identity

    def close(self) -> None:
        """Stop listening. The path is removed if it still leads to this socket."""
        self.socket.close()
        if self.is_there():
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()


def listen(directory: Path, mode: int = 0o666, name: str = SOCKET_NAME) -> Listener:
    """Listen at directory/name, and replace a dead socket there. Raises StateError for anything else there, and
    OSError.

    1. Bind to a temporary name, with the final mode. 2. Listen. 3. Rename it. So a client that finds the name also
    finds a listening server.
    """
    path = directory / name
    _refuse_what_lives(path)
    temporary = directory / f".{name}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    # Uses a descriptor, because the temporary name is longer than the name whose length was checked.
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    before = os.umask(0o777 & ~mode)
    try:
        listener.bind(f"/proc/self/fd/{place}/{temporary.name}")
    finally:
        os.umask(before)
        os.close(place)
    listener.listen(BACKLOG)
    temporary.rename(path)
    return Listener(path, listener)


def _refuse_what_lives(path: Path) -> None:
    """Refuse to replace anything except a dead socket. Only a connection attempt shows whether a server listens.
    Raises StateError."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise StateError(f"{path} is not a socket; move it away")
    if found.st_uid != os.geteuid():
        raise StateError(f"{path} belongs to user {found.st_uid}; move it away")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.settimeout(2)
    try:
        probe.connect(str(path))
    except ConnectionRefusedError:
        return
    except OSError as error:
        raise StateError(f"{path} cannot be tried: {error}") from None
    finally:
        probe.close()
    raise StateError(f"another server listens at {path}")


def link(path: Path, target: Path) -> None:
    """Make a symbolic link at `path`, or replace another link there. Raises StateError for anything else there, and
    OSError."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        found = None
    if found and not stat.S_ISLNK(found.st_mode):
        raise StateError(f"{path} is not a link of the bridge's; move it away")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    temporary.symlink_to(target)
    temporary.rename(path)
