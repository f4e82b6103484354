"""Reads the files that flags name (`--mcp-config FILE`) inside the container.

The host's Claude must never open a path that the container chooses. So the text is sent with the call, and the
server's policy judges it as if it stood on the command line. Only the server parses arguments: this module sends the
text of every word that may be the value of such a flag, and the server ignores what it does not need. It is loaded
only if an argument begins like one of the flags.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import time

from bridge.protocol.frames import NUL

FLAGS = (b"--mcp-config", b"--settings", b"--system-prompt-file", b"--append-system-prompt-file", b"--agents")
"""The flags whose values may name a file. The policy's table has the same (a test compares them)."""

MAX_WORDS = 16
"""Words that are tried as names."""

MAX_TEXT = 96 * 1024
"""Bytes of one file. The text becomes an argument of the CLI, and Linux allows 128 KiB for one."""

MAX_TOTAL = 128 * 1024
"""Bytes of all files. With the project's files and CLAUDE.md, they have to fit into one call of 1 MiB."""

PIPE_S = 5.0
"""Seconds to wait for the text of a pipe, such as that of `<(jq ...)`."""

NULL = os.makedev(1, 3)


def flag_files(argv: list[bytes]) -> list[bytes]:
    """Return for each file: the word that names it, a line feed, the name of an error (`ENOENT`) or nothing, a line
    feed, and the text."""
    found: list[bytes] = []
    left = MAX_TOTAL
    for word in _words(argv)[:MAX_WORDS]:
        fault, text = b"", b""
        try:
            text = _read(word)
        except OSError as error:
            fault = errno.errorcode.get(error.errno or 0, "EIO").encode()
        if len(text) > min(MAX_TEXT, left):
            fault, text = b"EFBIG", b""
        left -= len(text)
        found.append(b"\n".join((word, fault, text)))
    return found


def _words(argv: list[bytes]) -> list[bytes]:
    """Return the words that may be values of the flags, each once."""
    found: dict[bytes, None] = {}
    is_value = False
    for word in argv:
        if word == b"--":
            break
        name, _, value = word.partition(b"=")
        if word.startswith(b"-"):
            is_value = name in FLAGS
            word = value
        if is_value and word and b"\n" not in word and word.lstrip()[:1] != b"{":
            found[word] = None
    return list(found)


def _read(path: bytes) -> bytes:
    """Return a file's text, at most one byte longer than MAX_TEXT; a NUL byte is written as NUL. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise OSError(errno.EISDIR, "it is a directory")
        is_null = stat.S_ISCHR(status.st_mode) and status.st_rdev == NULL
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode) or is_null):
            raise OSError(errno.ENXIO, "it is no file")
        return _all(fd).replace(b"\0", NUL)
    finally:
        os.close(fd)


def _all(fd: int) -> bytes:
    end = time.monotonic() + PIPE_S
    data = b""
    while len(data) <= MAX_TEXT:
        try:
            more = os.read(fd, MAX_TEXT + 1 - len(data))
        except BlockingIOError:
            if not select.select([fd], [], [], max(0.0, end - time.monotonic()))[0]:
                raise OSError(errno.ETIMEDOUT, "nobody writes to the pipe") from None
            continue
        if not more:
            break
        data += more
    return data
