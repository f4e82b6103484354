"""Listening sockets. Each appears at its path when it is ready, and only its maker removes it."""

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
        """Whether the path still leads to this socket."""
        try:
            found = self.path.lstat()
        except OSError:
            return False
        return stat.S_ISSOCK(found.st_mode) and (found.st_dev, found.st_ino) == self._identity

    def close(self) -> None:
        """Stop listening. The path is removed if it is still this socket's."""
        self.socket.close()
        if self.is_there():
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()


def listen(directory: Path, mode: int = 0o666, name: str = SOCKET_NAME) -> Listener:
    """Listen at directory/name, which takes the place of a dead socket there; StateError for anything else.

    1. bind under a temporary name, with the mode from the start; 2. listen; 3. rename into place: whoever
    finds the name finds a server behind it.
    """
    path = directory / name
    _refuse_what_lives(path)
    temporary = directory / f".{name}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    # By way of a descriptor: the temporary name is longer than the one that has to fit.
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
    """Refuse to replace anything but a dead socket. Only a connection shows whether a server listens."""
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
    """Make a symbolic link at `path`, in place of nothing or of another link; StateError for anything else."""
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
