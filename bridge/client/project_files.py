"""Reads the project's settings, MCP servers, agents, commands, skills and output styles inside the container.

As with CLAUDE.md (claude_md.py), the host's Claude does not load them from the workspace itself. They are sent with
the call as text, and the server's policy decides which of them are used. Of a skill only SKILL.md is sent: its other
files are in the workspace, where Claude can read them.
"""

from __future__ import annotations

# ruff: noqa: PTH112, PTH208 - pathlib costs the start of the client 5 ms
import os
import stat

from bridge.protocol.frames import MAX_PROJECT, NUL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

WORKSPACE = b"/workspace"
SETTINGS = (b".claude/settings.json", b".claude/settings.local.json")
LOCAL_OF_REPOSITORY = b"repository/.claude/settings.local.json"
"""Under this name, the local settings of the repository's root are sent if it is not the call's directory."""
SERVERS = b".mcp.json"
FOLDERS = (b".claude/skills", b".claude/agents", b".claude/commands", b".claude/output-styles")

MAX_FILE = 128 * 1024
MAX_FILES = 1000
MAX_DEPTH = 8
MAX_LINK = 4096
"""Bytes of a file that only names a directory."""
MAX_ENTRIES = 10_000
"""Names in the folders that are looked at."""
MAX_NESTED = 400
MAX_NESTED_ENTRIES = 10_000
"""Directories below the call's directory that are searched, the uppermost first, and names in them. They take 10 ms."""
LATE = frozenset({b"vendor", b"target", b"dist", b"build", b"out", b"coverage"})
"""Directories with files that the project did not write, for the most part. They are searched after the others, as are
hidden ones and links."""
SKIPPED = frozenset({b".git", b".hg", b".svn", b"node_modules", b"venv", b".venv", b"__pycache__"})
"""Directories that are not searched: they hold what others wrote, in very many directories."""
OF_NESTED = frozenset({b"CLAUDE.md", b"CLAUDE.local.md", b"AGENTS.md", b".claude"})
MAX_NAMED = 5
"""Files that a sentence about a limit names. The others are counted."""


def project_files(cwd: bytes, below: Iterable[bytes] = (), workspace: bytes = WORKSPACE) -> list[tuple[str, bytes]]:
    """Return the fields of a call for the project's files.

    A field `file` is the file's name within the workspace, a line feed, and its text. A field `omitted` is a sentence
    about a limit. Settings are those of `cwd`, and the local ones of its repository, as in the CLI. Each directory's
    .mcp.json is sent with the directory in its name, because the CLI uses them together. Of everything else, the file
    nearest to `cwd` is used. Of the directories `below` it, only the skills count.
    """
    if cwd != workspace and not cwd.startswith(workspace + b"/"):
        return []
    found = _Found(workspace)
    for name in SETTINGS:
        found.take(cwd, name, name)
    above = directories_of(cwd, workspace)
    root = main_repository(above[-1], workspace)
    if root != cwd and os.path.lexists(root + b"/.git"):
        found.take(root, SETTINGS[1], LOCAL_OF_REPOSITORY, LOCAL_OF_REPOSITORY)
    directory = cwd
    while len(directory) >= len(workspace):
        name = (directory + b"/" + SERVERS)[len(workspace) + 1 :]
        found.take(workspace, name, name)
        directory = directory.rpartition(b"/")[0]
    for folder in FOLDERS:
        for directory in above:
            found.walk(directory, folder)
    for directory in below:
        found.walk(directory, FOLDERS[0])
    return found.fields()


def nested(cwd: bytes, workspace: bytes = WORKSPACE) -> tuple[list[bytes], list[tuple[str, bytes]]]:
    """Return the directories below `cwd` that have instructions or skills of their own, and a field `large` if there
    are too many to search. Then Claude is told to look for them itself."""
    if cwd != workspace and not cwd.startswith(workspace + b"/"):
        return [], []
    waiting, late, found = [cwd], list[bytes](), list[bytes]()
    left, entries = MAX_NESTED, MAX_NESTED_ENTRIES
    for queue in (waiting, late):
        for directory in queue:  # it grows meanwhile
            if not left or not entries:
                return found, [("large", b"1")]
            left -= 1
            entries, has_own, inner, inner_late = _searched(directory, entries, workspace)
            if has_own and directory != cwd:
                found.append(directory)
            waiting += inner if queue is waiting else []
            late += inner_late if queue is waiting else inner + inner_late
    return found, [] if entries else [("large", b"1")]


def _searched(directory: bytes, left: int, workspace: bytes) -> tuple[int, bool, list[bytes], list[bytes]]:
    """Look at up to `left` names in a directory. Returns how many are left then, whether the directory has instructions
    or skills of its own, and the directories in it that are searched, those to be searched late apart."""
    has_own, inner, late = False, list[bytes](), list[bytes]()
    try:
        with os.scandir(directory) as listed:
            for entry in listed:
                name = entry.name
                has_own = has_own or name in OF_NESTED
                if entry.is_symlink():
                    if entry.is_dir() and _leads_aside(entry.path, workspace):
                        late.append(entry.path)
                elif entry.is_dir() and name not in SKIPPED and b"\n" not in name:
                    (late if name in LATE or name.startswith(b".") else inner).append(entry.path)
                left -= 1
                if not left:
                    break
    except OSError:
        pass  # what it holds cannot be read
    return left, has_own, inner, late


def _leads_aside(link: bytes, workspace: bytes) -> bool:
    """Return whether a link leads to another directory of the workspace, and not to one that it is in."""
    real = os.path.realpath(link)
    return real.startswith(workspace + b"/") and not link.startswith(real + b"/") and b"\n" not in link


def directories_of(cwd: bytes, workspace: bytes) -> list[bytes]:
    """Return `cwd` and the directories above it, up to the root of its git repository or the workspace."""
    found = [cwd]
    while found[-1] != workspace and not os.path.lexists(found[-1] + b"/.git"):
        found.append(found[-1].rpartition(b"/")[0])
    return found


def main_repository(top: bytes, workspace: bytes) -> bytes:
    """Return the root of the repository that the worktree `top` belongs to, or `top` if it is none of the workspace."""
    link = read(top + b"/.git", MAX_LINK) or b""
    if link.startswith(b"gitdir:") and len(link) <= MAX_LINK:
        own = _joined(top, link.removeprefix(b"gitdir:"))
        common = read(own + b"/commondir", MAX_LINK)
        root = _joined(own, common).removesuffix(b"/.git") if common else top
        if (root + b"/").startswith(workspace + b"/") and os.path.isdir(root + b"/.git"):
            return root
    return top


def _joined(directory: bytes, path: bytes) -> bytes:
    return os.path.normpath(os.path.join(directory, path.strip()))  # noqa: PTH118 - pathlib costs 5 ms


def read(path: bytes, most: int) -> bytes | None:
    """Return the text of a regular file, or its first `most` + 1 bytes. Returns None if there is none to read.

    A NUL byte is written as NUL, because a record cannot hold one.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        parts = []
        while most >= 0 and (part := os.read(fd, most + 1)):
            parts.append(part)
            most -= len(part)
        return b"".join(parts).replace(b"\0", NUL)
    except OSError:
        return None
    finally:
        os.close(fd)


class Omitted:
    """Files that were left out, by the limit."""

    def __init__(self) -> None:
        self._names: dict[str, list[bytes]] = {}

    def add(self, name: bytes, why: str) -> None:
        """Add a file's name. `why` says which limit it exceeds."""
        self._names.setdefault(why, []).append(name.replace(b"\n", b"?").replace(b"\0", b"?"))

    def fields(self) -> list[tuple[str, bytes]]:
        """Return a field with a sentence for each limit."""
        return [("omitted", _sentence(names, why)) for why, names in self._names.items()]


def _sentence(names: list[bytes], why: str) -> bytes:
    more = len(names) - MAX_NAMED
    named = b", ".join(name[-80:] for name in names[:MAX_NAMED])
    verb = b"is" if len(names) == 1 else b"are"
    return named + (b" and %d more" % more if more > 0 else b"") + b" %s left out: " % verb + why.encode()


class _Found:
    """The files that are found, and those that exceed a limit."""

    def __init__(self, workspace: bytes) -> None:
        self._workspace = workspace
        self._files: dict[bytes, bytes] = {}
        self._left = MAX_PROJECT
        self._entries = MAX_ENTRIES
        self._omitted = Omitted()

    def fields(self) -> list[tuple[str, bytes]]:
        """Return the fields of the call."""
        return [("file", file) for file in self._files.values()] + self._omitted.fields()

    def take(self, directory: bytes, name: bytes, sent: bytes, key: bytes = b"") -> None:
        """Take a file of a directory, unless a nearer directory had one of this name, or with this key."""
        key = key or name
        if key in self._files:
            return
        text = read(directory + b"/" + name, MAX_FILE)
        if text is None:
            return
        size = len(sent) + len(text) + 16
        if b"\n" in name:
            self._omitted.add(sent, "their names hold a line feed")
        elif len(text) > MAX_FILE:
            self._omitted.add(sent, f"a file may have {MAX_FILE} bytes")
        elif len(self._files) >= MAX_FILES:
            self._omitted.add(sent, f"a call carries {MAX_FILES} files")
        elif size > self._left:
            self._omitted.add(sent, f"the files of a call may have {MAX_PROJECT} bytes together")
        else:
            self._left -= size
            self._files[key] = sent + b"\n" + text

    def walk(self, directory: bytes, folder: bytes) -> None:
        """Take the documents of a folder."""
        prefix = directory[len(self._workspace) + 1 :]
        prefix += b"/" if prefix else b""
        if folder == FOLDERS[0]:
            for entry in self._list(directory + b"/" + folder):
                name = folder + b"/" + entry + b"/SKILL.md"
                self.take(directory, name, prefix + name)
        else:
            self._walk(directory, folder, prefix, MAX_DEPTH)

    def _walk(self, directory: bytes, folder: bytes, prefix: bytes, depth: int) -> None:
        for entry in self._list(directory + b"/" + folder):
            name = folder + b"/" + entry
            if entry.endswith(b".md") and not os.path.isdir(directory + b"/" + name):
                self.take(directory, name, prefix + name)
            elif os.path.isdir(directory + b"/" + name):
                if depth:
                    self._walk(directory, name, prefix, depth - 1)
                else:
                    self._omitted.add(prefix + name, f"folders in folders may have {MAX_DEPTH} levels")

    def _list(self, directory: bytes) -> list[bytes]:
        try:
            entries = sorted(os.listdir(directory))
        except OSError:
            return []
        if len(entries) > self._entries:
            self._omitted.add(directory, f"the folders of a call may have {MAX_ENTRIES} names")
            return []
        self._entries -= len(entries)
        return entries
