"""Copies of the host's Claude's own files: the conversation that a hook is told of, long results of tools.

Claude's directory is on the host. What a hook or a command is told of is copied here first, into a directory of this
call that only its user can open. It is removed with the call.
"""

from __future__ import annotations

import os

# ruff: noqa: PTH103 - pathlib would cost the first command 5 ms

MAX_BACK = 60_000
"""Longest file that is sent back to the host, bytes."""


def directory() -> bytes:
    """Return a name for this call's directory. It is not made yet."""
    parent = os.environb.get(b"TMPDIR", b"")
    if not _is_plain(parent) or not os.path.isdir(parent):  # noqa: PTH112 - as above
        parent = b"/tmp"
    return b"%s/claude-code-%s" % (parent.rstrip(b"/"), os.urandom(8).hex().encode())


def _is_plain(path: bytes) -> bool:
    return path.startswith(b"/") and len(path) < 100 and path.translate(None, b"/._-").isalnum()


class Copies:
    """The directory, and the files that are on the way. `place` is its path."""

    def __init__(self, place: bytes) -> None:
        self._place = place

    def path(self, name: bytes) -> bytes:
        """Return the path of a copy, and make the directories for it. Raises OSError."""
        if b".." in name.split(b"/"):
            raise OSError(0, "the host names no file")
        path = self._place + b"/" + name
        os.makedirs(path.rpartition(b"/")[0], 0o700, exist_ok=True)
        return path

    def open(self, name: bytes, at: int) -> int:
        """Open a copy, to go on writing at this offset. Raises OSError."""
        descriptor = os.open(self.path(name), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.ftruncate(descriptor, at)
        os.lseek(descriptor, at, os.SEEK_SET)
        return descriptor

    def text(self, name: bytes) -> bytes | None:
        """Return what a command has written to a file; None if there is no file. Raises ValueError if it cannot be
        sent."""
        try:
            descriptor = os.open(self.path(name), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                data = os.read(descriptor, MAX_BACK + 1)
            finally:
                os.close(descriptor)
        except OSError:
            return None
        if len(data) > MAX_BACK or b"\0" in data:
            raise ValueError("too long, or no text")
        return data

    def remove(self) -> None:
        """Remove the directory, because the call is over."""
        for parent, directories, files in os.walk(self._place, topdown=False):
            for name in files:
                _quietly(os.unlink, os.path.join(parent, name))  # noqa: PTH118 - as above
            for name in directories:
                path = os.path.join(parent, name)  # noqa: PTH118 - as above
                _quietly(os.unlink if os.path.islink(path) else os.rmdir, path)  # noqa: PTH114 - as above
        _quietly(os.rmdir, self._place)


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def _quietly(remove: Callable[[bytes], None], path: bytes) -> None:
    try:
        remove(path)
    except OSError:
        return  # ignored because the container's own processes may use it
