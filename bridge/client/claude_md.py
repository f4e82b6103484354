"""Reads the project's CLAUDE.md files inside the container.

The host's Claude does not load these files itself, because it would follow the workspace's symbolic links on the
host. Here a link leads to a file of the container. The text is sent with the call. (pathlib is not used: it costs
the client 5 ms.)
"""

from __future__ import annotations

import os
import stat

from bridge.protocol.frames import MAX_MEMORY

WORKSPACE = b"/workspace"
NAMES = (b"CLAUDE.md", b".claude/CLAUDE.md", b"CLAUDE.local.md")

MAX_DEPTH = 5
"""Levels of nested imports, the same as in the CLI."""


def project_memory(cwd: bytes, workspace: bytes = WORKSPACE) -> bytes:
    """Return the text of the CLAUDE.md files that apply to `cwd`, the outermost first.

    Directories outside of the workspace give no text. The result is cut at MAX_MEMORY bytes.
    """
    if cwd != workspace and not cwd.startswith(workspace + b"/"):
        return b""
    parts: list[bytes] = []
    seen: set[bytes] = set()
    directory = workspace
    for step in [b"", *cwd[len(workspace) :].split(b"/")[1:]]:
        directory = directory + b"/" + step if step else directory
        for name in NAMES:
            _read(directory + b"/" + name, parts, seen, MAX_DEPTH)
    return b"\n".join(parts)[:MAX_MEMORY]


def _read(path: bytes, parts: list[bytes], seen: set[bytes], depth: int) -> None:
    """Add a file, and after it the files that it imports."""
    if depth == 0 or path in seen or len(seen) > 200:
        return
    seen.add(path)
    text = _text(path)
    if text is None:
        return
    parts.append(b"Contents of %s (project instructions):\n\n%s\n" % (path, text))
    if b"@" in text:
        for imported in _imports(text, path):
            _read(imported, parts, seen, depth - 1)


def _text(path: bytes) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(fd, MAX_MEMORY) if stat.S_ISREG(os.fstat(fd).st_mode) else None
    except OSError:
        return None
    finally:
        os.close(fd)


def _imports(text: bytes, path: bytes) -> list[bytes]:
    """Return the paths that follow an @ outside of code blocks, relative to the file."""
    found = []
    in_code = False
    base = path.rpartition(b"/")[0]
    for line in text.split(b"\n"):
        if line.lstrip().startswith(b"```"):
            in_code = not in_code
        elif not in_code and b"@" in line:
            words = [word[1:].rstrip(b".,;:)") for word in line.split() if word.startswith(b"@")]
            found += [os.path.normpath(base + b"/" + word if word[:1] != b"/" else word) for word in words if word]
    return found
