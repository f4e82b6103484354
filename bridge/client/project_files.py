"""Reads the project's settings, MCP servers, agents, commands and skills inside the container.

As with CLAUDE.md (claude_md.py), the host's Claude does not load them from the workspace itself. They are sent with
the call as text, and the server's policy decides which of them are used.
"""

from __future__ import annotations

# ruff: noqa: PTH112, PTH208 - pathlib costs the start of the client 5 ms
import os
import stat

WORKSPACE = b"/workspace"
SINGLE = (b".claude/settings.json", b".claude/settings.local.json")
SERVERS = b".mcp.json"
FOLDERS = (b".claude/agents", b".claude/commands", b".claude/skills")

MAX_FILE = 128 * 1024
MAX_TOTAL = 512 * 1024
"""Bytes of all files together: half of what a call may have."""
MAX_FILES = 256
MAX_DEPTH = 4


def project_files(cwd: bytes, workspace: bytes = WORKSPACE) -> list[bytes]:
    """Return each file as its name within the project, a line feed, and its text.

    If several directories have the same file, the one nearest to `cwd` is used; but each directory's .mcp.json is sent
    with the directory in its name, because the CLI uses them together. Files that hold a NUL byte, exceed
    MAX_FILE bytes, or cannot be opened in the container are left out.
    """
    if cwd != workspace and not cwd.startswith(workspace + b"/"):
        return []
    found: dict[bytes, bytes] = {}
    directory = cwd
    while True:
        for name in SINGLE:
            if name not in found:
                _take(directory, name, found)
        _take(directory, SERVERS, found, (directory + b"/" + SERVERS)[len(workspace) + 1 :])
        if os.path.isdir(directory + b"/.claude"):
            for folder in FOLDERS:
                _walk(directory, folder, found, MAX_DEPTH)
        if directory == workspace:
            break
        directory = directory.rpartition(b"/")[0]
    total = 0
    kept: list[bytes] = []
    for name, text in found.items():
        total += len(name) + len(text) + 16
        if total <= MAX_TOTAL and len(kept) < MAX_FILES:
            kept.append(name + b"\n" + text)
    return kept


def _walk(directory: bytes, folder: bytes, found: dict[bytes, bytes], depth: int) -> None:
    try:
        entries = sorted(os.listdir(directory + b"/" + folder))
    except OSError:
        return
    for entry in entries:
        name = folder + b"/" + entry
        if b"\n" in name or len(found) > MAX_FILES:
            continue
        if entry.endswith(b".md"):
            if name not in found:
                _take(directory, name, found)
        elif depth and os.path.isdir(directory + b"/" + name):
            _walk(directory, name, found, depth - 1)


def _take(directory: bytes, name: bytes, found: dict[bytes, bytes], sent: bytes = b"") -> None:
    try:
        fd = os.open(directory + b"/" + name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_FILE:
            text = os.read(fd, MAX_FILE)
            if b"\0" not in text:
                found[sent or name] = text
    except OSError:
        return
    finally:
        os.close(fd)
