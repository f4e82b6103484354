"""Reads the project's CLAUDE.md files, what they import, and its rules inside the container.

The host's Claude does not load these files itself, because it would follow the workspace's symbolic links on the
host. Here a link leads to a file of the container. The texts are sent with the call. The rules of which file applies,
and of what is an import, are the CLI's own. (pathlib and re are not used: each costs the client 5 ms.)
"""

from __future__ import annotations

# ruff: noqa: PTH122 - pathlib costs the start of the client 5 ms
import os

from bridge.client.project_files import WORKSPACE, Omitted, directories_of, main_repository, read
from bridge.protocol.frames import MAX_MEMORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

NAMES = ((b"CLAUDE.md", b"project"), (b".claude/CLAUDE.md", b"project"), (b"AGENTS.md", b"agents"),
         (b".claude/AGENTS.md", b"agents"))  # fmt: skip
LOCAL = (b"CLAUDE.local.md", b"local")
RULES = b".claude/rules"

MAX_DEPTH = 5
"""Levels of imports, the file itself included. The same as in the CLI."""
MAX_FILES = 300
MAX_RULES_DEPTH = 8

SUFFIXES = frozenset(
    (
        b".md .txt .text .json .yaml .yml .toml .xml .csv .html .htm .css .scss .sass .less .js .ts .tsx .jsx "
        b".mjs .cjs .mts .cts .py .pyi .pyw .rb .erb .rake .go .rs .java .kt .kts .scala .c .cpp .cc .cxx .h "
        b".hpp .hxx .cs .swift .sh .bash .zsh .fish .ps1 .bat .cmd .env .ini .cfg .conf .config .properties "
        b".sql .graphql .gql .proto .vue .svelte .astro .ejs .hbs .pug .jade .php .pl .pm .lua .r .dart .ex "
        b".exs .erl .hrl .clj .cljs .cljc .edn .hs .lhs .elm .ml .mli .f .f90 .f95 .for .cmake .make "
        b".makefile .gradle .sbt .rst .adoc .asciidoc .org .tex .latex .lock .log .diff .patch"
    ).split()
)
"""Suffixes of the files that the CLI imports. Files without a suffix are imported, too."""


def project_memory(
    cwd: bytes,
    below: Iterable[bytes] = (),
    workspace: bytes = WORKSPACE,
    is_excluded: Callable[[bytes], bool] = lambda _: False,
) -> list[tuple[str, bytes]]:
    """Return the fields of a call for the instructions that apply to `cwd` or to the directories `below` it.

    A field `memory` is a kind (project, local, agents or rule), the directory that it applies to, a path and a text,
    with a line feed after each of the first three. A field `omitted` is a sentence about a limit. Directories outside
    of the workspace give nothing, nor do files whose path `is_excluded`.
    """
    if cwd != workspace and not cwd.startswith(workspace + b"/"):
        return []
    found = _Found(cwd, is_excluded)
    tree = directories_of(cwd, workspace)[-1]
    repository = main_repository(tree, workspace)
    directory = workspace
    for step in [b"", *cwd[len(workspace) :].split(b"/")[1:]]:
        directory = directory + b"/" + step if step else directory
        # A worktree within its repository has the repository's files itself, except for those that are not checked in.
        found.directory(directory, _is_in(directory, repository) and not _is_in(directory, tree))
    for directory in below:
        found.nested(directory)
    return found.fields()


class _Found:
    """The instructions that are found, in the CLI's order."""

    def __init__(self, cwd: bytes, is_excluded: Callable[[bytes], bool]) -> None:
        self._cwd = cwd
        self._is_excluded = is_excluded
        self._parts: list[bytes] = []
        self._seen: set[bytes] = set()
        self._left = MAX_MEMORY
        self._omitted = Omitted()

    def fields(self) -> list[tuple[str, bytes]]:
        """Return the fields of the call."""
        return [("memory", part) for part in self._parts] + self._omitted.fields()

    def directory(self, directory: bytes, only_local: bool = False) -> None:
        """Add the instructions of one directory."""
        if not only_local:
            for name, kind in NAMES:
                self._add(kind, directory, directory + b"/" + name, MAX_DEPTH)
            self._rules(directory, os.path.realpath(directory + b"/" + RULES), MAX_RULES_DEPTH)
        self._add(LOCAL[1], directory, directory + b"/" + LOCAL[0], MAX_DEPTH)

    def nested(self, directory: bytes) -> None:
        """Add the instructions of a directory below the call's. A file that another one of these has too is told with
        both."""
        above = self._seen
        self._seen = set(above)
        self.directory(directory)
        self._seen = above

    def _rules(self, base: bytes, folder: bytes, depth: int) -> None:
        try:
            with os.scandir(folder) as entries:
                found = [(entry.name, entry.path, entry.is_symlink(), entry.is_dir()) for entry in entries]
        except OSError:
            return
        for name, path, is_link, is_directory in found:
            real = os.path.realpath(path) if is_link else path
            if is_link and not self._is_within(real):
                continue  # the CLI asks before it reads rules of another place
            if is_directory and depth:
                self._rules(base, real, depth - 1)
            elif name.endswith(b".md"):
                self._add(b"rule", base, real, MAX_DEPTH)

    def _add(self, kind: bytes, base: bytes, path: bytes, depth: int) -> None:
        """Add a file, and after it the files that it imports."""
        if depth == 0 or path in self._seen or not _is_text(path) or b"\n" in path or self._is_excluded(path):
            return
        real = os.path.realpath(path)
        if (real != path and real in self._seen) or (depth < MAX_DEPTH and not self._is_within(real)):
            return
        text = read(path, MAX_MEMORY)
        if text is None:
            return
        self._seen |= {path, real}
        if not text.strip():
            return
        part = b"%s\n%s\n%s\n%s" % (kind, base, path, text)
        if len(part) > self._left:
            self._omitted.add(path, f"the instructions of a call may have {MAX_MEMORY} bytes together")
        elif len(self._parts) >= MAX_FILES:
            self._omitted.add(path, f"a call carries {MAX_FILES} files of instructions")
        else:
            self._left -= len(part) + 16
            self._parts.append(part)
            for imported in self._imports(text, real):
                self._add(kind, base, imported, depth - 1)

    def _imports(self, text: bytes, path: bytes) -> Iterator[bytes]:
        """Yield the paths that a file imports. `path` has no links. Those outside of the call's directory need an
        approval in the CLI, which a call cannot ask for."""
        if b"@" not in text:
            return
        from bridge.client.imports import imports

        for imported in imports(text, path):
            if self._is_within(imported):
                yield imported

    def _is_within(self, path: bytes) -> bool:
        return path.startswith(self._cwd + b"/")


def _is_in(path: bytes, directory: bytes) -> bool:
    return (path + b"/").startswith(directory + b"/")


def _is_text(path: bytes) -> bool:
    suffix = os.path.splitext(path)[1].lower()
    return not suffix or suffix in SUFFIXES
