"""Sockets that appear at once, complete, and are removed only by who made them."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path

from bridge.server.host.grants import SOCKET_NAME, StateError

BACKLOG = 128


class Published:
    """A listening socket at a path."""

    def __init__(self, path: Path, listener: socket.socket, adopted: bool = False) -> None:
        self.path = path
        self.listener = listener
        self._adopted = adopted
        found = path.lstat()
        self._identity = (found.st_dev, found.st_ino)

    def is_there(self) -> bool:
        """Whether the path still leads to this socket."""
        try:
            found = self.path.lstat()
        except OSError:
            return False
        return stat.S_ISSOCK(found.st_mode) and (found.st_dev, found.st_ino) == self._identity

    def withdraw(self) -> None:
        """Stop listening. The path is removed if it is still ours, and not the service manager's."""
        self.listener.close()
        if not self._adopted and self.is_there():
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()


def publish(directory: Path, mode: int = 0o666, name: str = SOCKET_NAME) -> Published:
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
    return Published(path, listener)


def _refuse_what_lives(path: Path) -> None:
    """A socket file proves nothing: only a connection tells whether someone listens."""
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


def adopt(environment: dict[str, str]) -> dict[Path, Published]:
    """The sockets that a service manager has opened for this process, by their paths."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return {}
    adopted = {}
    for fd in range(3, 3 + int(environment.get("LISTEN_FDS", "0"))):
        os.set_inheritable(fd, False)
        listener = socket.socket(fileno=fd)
        listener.setblocking(False)
        path = Path(listener.getsockname())
        adopted[path] = Published(path, listener, adopted=True)
    return adopted


def point(link: Path, target: Path) -> None:
    """Make a symbolic link, in place of nothing or of a link of our own kind."""
    try:
        found = link.lstat()
    except FileNotFoundError:
        found = None
    if found and not stat.S_ISLNK(found.st_mode):
        raise StateError(f"{link} is not a link of the bridge's; move it away")
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    temporary.symlink_to(target)
    temporary.rename(link)
