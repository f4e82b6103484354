"""The protected paths of a workspace: what programs of the host would run by themselves. Agents can only read them.

Each is mounted read-only on itself, in the agent's container and in the namespace of Claude Code. A mount point cannot
be removed or renamed where it is mounted. So each directory between the workspace and a protected path is mounted on
itself as well, and what is missing needs a stand-in of ours:

    an empty directory    mode 1755, also in place of a file: git does not show it, and who looks for a file finds none
    a file                mode 0444, where git or Claude Code would complain about a directory. Those of Claude Code are
                          hidden from git by a .gitignore beside them, which is one of ours as well

A stand-in is known by that look alone, so that nothing has to be recorded, and what a killed process left is found. An
agent may write to the workspace meanwhile. So each step opens one name, without following links, below the workspace
that was pinned. git is never run in there: it only parses the text of settings.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import os
import stat
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from bridge.policy.terms import WORKSPACE, printable
from bridge.server.host.places import Place

PROTECTED: Mapping[str, bytes | None] = {
    ".git/hooks": None,
    ".git/config": b"",
    ".git/config.worktree": b"",
    ".git/info/attributes": b"",
    ".git/remotes": None,  # a file in one of these two is a remote: git would push to a repository of the agent's
    ".git/branches": None,
    ".git/commondir": b"./\n",  # names the directory with hooks and settings: itself, as libgit2 reads it, too
    ".husky": None,
    ".vscode": None,
    ".idea": None,
    ".devcontainer": None,
    ".devcontainer.json": None,
    ".envrc": None,
    ".claude/settings.json": b"{}\n",
    ".claude/settings.local.json": b"{}\n",
    ".mcp.json": None,
}
"""The protected paths, and the text of a stand-in; None for a directory. Those of git count for its submodules too."""

GIT = ".git"
BARE = "commondir"
"""Where .git is broken, git looks whether the workspace itself is a bare repository. With a directory of this name in
it (git wants a file) git ends there, and reads no settings."""
LOCK = b"an agent works in this repository and would prune what it cannot see; `bin/invoke agents.down` unlocks this\n"
"""The reason why the host's other worktrees are locked: git in a container would take them for removed ones."""

HIDDEN = (".claude/settings.json", ".claude/settings.local.json")
HIDING = ".claude/.gitignore"

MODE, FILE_MODE = 0o1755, 0o444
MAX_TEXT = 16 << 20
MAX_PATHS = 1000
MAX_DEPTH = 8
MAX_LEVELS = 16
LARGE = {"objects", "refs", "logs", "lfs", "annex"}
"""Directories of a repository with very many others, of which none is a submodule's."""
ANSWER_S = 10
UNANSWERED = f"git has not read the repository's settings within {ANSWER_S} s; type the same again"

_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


class ProtectionError(Exception):
    """A path cannot be protected. The text is one line, and names the path relative to the workspace."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """What the operator protects besides the usual paths, and what not. Paths are relative to the workspace."""

    more: tuple[str, ...] = ()
    fewer: tuple[str, ...] = ()

    @classmethod
    def of(cls, more: Iterable[str] = (), fewer: Iterable[str] = ()) -> Choice:
        """Check and shorten paths that a person wrote. Raises ProtectionError."""
        return cls(tuple(sorted({_path(name) for name in more})), tuple(sorted({_path(name) for name in fewer})))

    def spares(self, path: str) -> bool:
        """Say whether a path is not to be protected: it was named, or is below one that was."""
        return any(f"{path}/".startswith(f"{name}/") for name in self.fewer)


USUAL = Choice()
NOTHING = Choice(fewer=tuple(sorted({path.split("/")[0] for path in PROTECTED})))
"""For a workspace in which no program of the host works: a clone that is the agent's own."""


@dataclasses.dataclass(frozen=True)
class Protection:
    """The paths of one workspace that are there to be mounted."""

    paths: tuple[str, ...]
    """Those to be read-only. None is inside another one."""
    identities: Mapping[str, str]
    """Device and inode of each, and of each directory on the way there, outermost first."""
    made: tuple[str, ...]
    """Those for which stand-ins were made just now."""


def prepare(workspace: Place, choice: Choice) -> Protection:
    """Make stand-ins for what is missing, and remove those of what is not protected. Returns what to mount.

    Raises ProtectionError or PlaceError.
    """
    with _Tree.of(workspace) as tree:
        for path in filter(choice.spares, PROTECTED):
            tree.remove(path, PROTECTED[path])
        wanted = _outermost(_wanted(tree, choice))
        missing = {path for path in wanted if tree.look(path) is None}
        paths = tuple(path for path, text in sorted(wanted.items()) if tree.have(path, text))
        points = sorted({str(part) for path in paths for part in (*PurePosixPath(path).parents[:-1], path)})
        identities = {path: tree.identity(path) for path in points}
        _hide(tree, choice)
        return Protection(paths, identities, tuple(path for path in paths if path in missing))


def check(workspace: Place, choice: Choice) -> None:
    """Refuse what cannot be protected. Nothing is made. Raises ProtectionError or PlaceError."""
    with _Tree.of(workspace) as tree:
        for path in _wanted(tree, choice):
            tree.look(path)


def linked(workspace: Place) -> str:
    """Return the repository elsewhere that a workspace belongs to (a worktree, a submodule); empty if to none."""
    with _Tree.of(workspace) as tree:
        kind, _, where = tree.read(GIT).decode(errors="replace").strip().partition(":")
        return printable(where.strip()) if kind == "gitdir" else ""


def unknown(workspace: Place, choice: Choice) -> list[str]:
    """Return what a person does not want protected, and what would not be. Raises ProtectionError or PlaceError."""
    with _Tree.of(workspace) as tree:
        known = [*PROTECTED, GIT, *_wanted(tree, Choice(choice.more), careful=False)]
    return [name for name in choice.fewer if not any(f"{path}/".startswith(f"{name}/") for path in known)]


def clear(workspace: Place, others: Iterable[str] = ()) -> None:
    """Remove the stand-ins in a workspace that nobody uses any more. `others` are paths that may have some as well.

    What cannot be removed stays: it is harmless, and the next call tries again. Raises PlaceError.
    """
    with _Tree.of(workspace) as tree:
        wanted = _wanted(tree, USUAL, careful=False)
        for path in sorted({*wanted, *others}, reverse=True):
            tree.remove(path, wanted.get(path))
        for text in _HIDING_TEXTS:
            tree.remove(HIDING, text)


def stand_ins(workspace: Place) -> set[str]:
    """Return the paths at which stand-ins are now. Raises PlaceError."""
    with _Tree.of(workspace) as tree:
        found = {path for path, text in _wanted(tree, USUAL, careful=False).items() if tree.is_stand_in(path, text)}
        return found | {HIDING for text in _HIDING_TEXTS if tree.is_stand_in(HIDING, text)}


def lost(folder: str, identities: Mapping[str, str], since: float) -> list[str]:
    """Return the paths of which a container that was started at `since` does not have the present ones.

    A program of the host that replaces a file takes the mounts of it away (git does so with its settings). One that was
    replaced before the start was mounted then. What cannot be looked at counts as unchanged.
    """
    found = []
    try:
        with _Tree(os.open(folder, _STEP | os.O_DIRECTORY), folder) as tree:
            for path, identity in identities.items():
                with contextlib.suppress(ProtectionError):
                    now = tree.look(path)
                    if now is None or (f"{now.st_dev}:{now.st_ino}" != identity and now.st_ctime >= since):
                        found.append(path)
    except OSError:
        return []
    return found


def _hide(tree: _Tree, choice: Choice) -> None:
    """Hide from git those stand-ins that it would show. Where the person has such a file, git shows them."""
    shown = [path for path in HIDDEN if not choice.spares(path) and tree.is_stand_in(path, PROTECTED[path])]
    wanted = _hiding(shown) if shown else None
    for text in _HIDING_TEXTS:
        if text != wanted:
            tree.remove(HIDING, text)
    if wanted and not any(path in choice.more for path in (".claude", HIDING)):
        tree.have(HIDING, wanted)


def _hiding(paths: Iterable[str]) -> bytes:
    names = [HIDING, *paths]
    return "".join(f"/{name.removeprefix('.claude/')}\n" for name in names).encode()


_HIDING_TEXTS = [_hiding(paths) for paths in (HIDDEN, HIDDEN[:1], HIDDEN[1:])]


# Which paths


def _wanted(tree: _Tree, choice: Choice, *, careful: bool = True) -> dict[str, bytes | None]:
    """Return the paths to protect, with the text of their stand-ins. Nothing is made.

    Unless it is `careful`, what is in the way (a link) is passed over.
    """
    found: dict[str, bytes | None] = {path: text for path, text in PROTECTED.items() if not path.startswith(f"{GIT}/")}
    try:
        if not choice.spares(GIT):
            for paths in _of_git(tree, careful=careful):
                found |= paths
    except ProtectionError:
        if careful:
            raise
    found |= {path: None for path in choice.more if path not in PROTECTED}
    wanted = {path: text for path, text in found.items() if not choice.spares(path)}
    if len(wanted) > MAX_PATHS:
        raise ProtectionError(f"{len(wanted)} paths of worktrees and submodules are too many to protect; prune some")
    return wanted


def _of_git(tree: _Tree, *, careful: bool) -> Iterator[dict[str, bytes | None]]:
    found = tree.look(GIT)
    if found is None:
        # An agent could make one here, and git would take it for the person's.
        above = any(os.path.lexists(folder / GIT) for folder in Path(tree.path).parents)
        yield dict.fromkeys((GIT, BARE)) if above else {}
        return
    if not stat.S_ISDIR(found.st_mode):
        yield {GIT: None}
        return
    if tree.is_stand_in(GIT, None):
        yield dict.fromkeys((GIT, BARE))
        return
    yield {BARE: None, **_of_repository(tree, GIT, "")}
    for name in tree.folders(f"{GIT}/worktrees"):
        with contextlib.nullcontext() if careful else contextlib.suppress(ProtectionError):
            yield _of_worktree(tree, f"{GIT}/worktrees/{name}")
    for module in _modules(tree, f"{GIT}/modules", MAX_LEVELS):
        values = _values(tree.read(f"{module}/config"))
        at = next((tree.inside(module, value) for key, value in values if key == "core.worktree"), None)
        yield _of_repository(tree, module, at)
        if at is not None and (file := tree.look(f"{at}/{GIT}")) and stat.S_ISREG(file.st_mode):
            yield {f"{at}/{GIT}": None}


def _of_repository(tree: _Tree, repository: str, at: str | None) -> dict[str, bytes | None]:
    """Return the paths of a repository. `at` is its working tree; None if that is elsewhere."""
    own = {path.removeprefix(f"{GIT}/"): text for path, text in PROTECTED.items() if path.startswith(f"{GIT}/")}
    paths = {f"{repository}/{path}": text for path, text in own.items()}
    for name in ("config", "config.worktree"):
        paths |= _named_by(tree, f"{repository}/{name}", at)
    return paths


def _of_worktree(tree: _Tree, folder: str) -> dict[str, bytes | None]:
    """Return the paths of a linked worktree. One that an agent made is none of the host's, and stays its own."""
    where = tree.read(f"{folder}/gitdir").decode(errors="surrogateescape").strip()
    if not where or (where.startswith(f"{WORKSPACE}/") and tree.path != WORKSPACE):
        return {}
    paths: dict[str, bytes | None] = {f"{folder}/commondir": b"../..\n", f"{folder}/gitdir": b""}
    paths[f"{folder}/config.worktree"] = b""
    file = tree.inside(folder, where)
    if os.path.isabs(where) or file is None:  # noqa: PTH117 - pure text
        paths[f"{folder}/locked"] = LOCK
    at = None
    if file and tree.is_file(file):  # the worktree is in the workspace
        paths[file] = None
        at = os.path.dirname(file) or "."  # noqa: PTH120 - pure text
        paths |= _named_by(tree, f"{GIT}/config", at)
    return paths | _named_by(tree, f"{folder}/config.worktree", at)


def _modules(tree: _Tree, folder: str, depth: int) -> Iterator[str]:
    """Yield the repositories of submodules, whose names may hold slashes.

    An agent can remove all files of one but the protected ones, and can put some above one. So `config` tells it, and
    what is below it is looked through as well.
    """
    for name in tree.folders(folder) if depth else ():
        below = f"{folder}/{name}"
        if tree.is_file(f"{below}/config"):
            yield below
        if name not in LARGE or not tree.is_file(f"{folder}/config"):
            yield from _modules(tree, below, depth - 1)


def _named_by(tree: _Tree, config: str, at: str | None, depth: int = MAX_DEPTH) -> dict[str, bytes | None]:
    """Return the paths in the workspace that git's settings name: further settings, and the directory of hooks."""
    paths: dict[str, bytes | None] = {}
    for key, value in _values(tree.read(config)):
        if key == "core.hookspath" and value and at is not None and (path := tree.inside(at, value)) is not None:
            if path == ".":
                raise ProtectionError("core.hooksPath names the workspace itself; name a directory in it, or none")
            paths[path] = None
        if (key == "include.path" or (key.startswith("includeif.") and key.endswith(".path"))) and depth:
            path = tree.inside(os.path.dirname(config), value)  # noqa: PTH120 - pure text
            if path is not None:
                paths[path] = b""
            paths |= _named_by(tree, path or tree.full(os.path.dirname(config), value), at, depth - 1)  # noqa: PTH120
    return paths


@functools.lru_cache(maxsize=256)
def _values(text: bytes) -> tuple[tuple[str, str], ...]:
    """Return the keys and values of settings as git reads them. git gets the text alone, in no repository.

    Of settings that git cannot read, or where there is no git, nothing is known: no git of the host runs by them. A git
    that does not come to an end is an error: an agent can keep the machine busy. Raises ProtectionError.
    """
    if not text:
        return ()
    command = ["git", "config", "--file", "-", "--no-includes", "--null", "--list"]
    environ = {"PATH": os.environ.get("PATH", os.defpath), "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    try:
        done = subprocess.run(command, input=text, capture_output=True, cwd="/", env=environ, timeout=ANSWER_S)
    except FileNotFoundError:
        return ()
    except subprocess.TimeoutExpired:
        raise ProtectionError(UNANSWERED) from None
    if done.returncode < 0:
        raise ProtectionError(UNANSWERED)
    pairs = done.stdout.decode(errors="surrogateescape").split("\0") if done.returncode == 0 else []
    return tuple((key, value) for key, _, value in (pair.partition("\n") for pair in pairs if pair))


def within(workspace: str, path: str) -> str | None:
    """Return an absolute path relative to a workspace; None if it is outside. A link may lead to the workspace.

    On some systems /home is such a link. Links in the workspace count for nothing.
    """
    for top in (*reversed(Path(path).parents), Path(path)):
        with contextlib.suppress(OSError):
            if str(top) == workspace or os.path.samefile(top, workspace):  # noqa: PTH121 - top may be a long name
                return os.path.relpath(path, top)
    return None


def _outermost(wanted: Mapping[str, bytes | None]) -> dict[str, bytes | None]:
    """Leave out what is inside another path."""
    return {
        path: text
        for path, text in wanted.items()
        if not any(str(folder) in wanted for folder in PurePosixPath(path).parents[:-1])
    }


def _path(name: str) -> str:
    path = os.path.normpath(name)
    if (
        not name
        or path.startswith(("/", ".."))
        or path == "."
        or any(ord(sign) < 32 or sign == "\x7f" for sign in name)
    ):
        raise ProtectionError(f"{name!r} is no path in the workspace; name one relative to it, such as .vscode")
    return path


# The files of a workspace


class _Tree:
    """A workspace that is opened. Paths are relative to it, and no link in them is followed."""

    def __init__(self, descriptor: int, path: str) -> None:
        self._top = descriptor
        self.path = path

    @classmethod
    def of(cls, workspace: Place) -> _Tree:
        return cls(workspace.open(), workspace.path)

    def __enter__(self) -> _Tree:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._top)

    def full(self, folder: str, value: str) -> str:
        """Return the absolute path that a value in `folder` names."""
        return os.path.normpath(os.path.join(self.path, folder, os.path.expanduser(value)))  # noqa: PTH111, PTH118

    def inside(self, folder: str, value: str) -> str | None:
        """Return the path that a value in `folder` names; None if that is outside of the workspace."""
        return within(self.path, self.full(folder, value))

    @contextlib.contextmanager
    def _opened(self, path: str, flags: int = _STEP) -> Iterator[int]:
        """Open a path. "." is the workspace. Raises OSError, or ProtectionError for what is in the way."""
        at = os.open(".", _STEP | os.O_DIRECTORY, dir_fd=self._top)
        parts = [] if path == "." else path.split("/")
        try:
            for number, name in enumerate(parts, 1):
                is_last = number == len(parts)
                try:
                    below = os.open(name, flags if is_last else _STEP | os.O_DIRECTORY, dir_fd=at)
                except OSError as error:
                    if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                        raise
                    raise _in_the_way("/".join(parts[:number]), os.lstat(name, dir_fd=at)) from None
                os.close(at)
                at = below
            yield at
        finally:
            os.close(at)

    def look(self, path: str) -> os.stat_result | None:
        """Return what is there; None if nothing is. Raises ProtectionError for what is neither file nor directory."""
        try:
            with self._opened(path) as descriptor:
                found = os.fstat(descriptor)
        except FileNotFoundError:
            return None
        except PermissionError:
            raise _closed(path) from None
        except OSError as error:
            raise ProtectionError(f"{printable(path)} cannot be looked at: {error.strerror}") from None
        if not stat.S_ISDIR(found.st_mode) and not stat.S_ISREG(found.st_mode):
            raise _in_the_way(path, found)
        return found

    def identity(self, path: str) -> str:
        found = self.look(path)
        if found is None:
            raise ProtectionError(f"{printable(path)} was removed just now; type the same again")
        return f"{found.st_dev}:{found.st_ino}"

    def read(self, path: str) -> bytes:
        """Return the text of a file, also of one outside; empty if there is none. Raises ProtectionError.

        An agent can take a directory's permissions away, and give them back after this look. So that is an error.
        """
        try:
            if os.path.isabs(path):  # noqa: PTH117 - pure text
                return _text(os.open(path, _READ & ~os.O_NOFOLLOW))
            with self._opened(path, _READ) as descriptor:
                return _text(os.dup(descriptor))
        except PermissionError:
            if os.path.isabs(path):  # noqa: PTH117 - pure text
                return b""
            raise _closed(path) from None
        except (OSError, ValueError):
            return b""

    def is_file(self, path: str) -> bool:
        """Say whether a regular file is there. Raises ProtectionError."""
        try:
            with self._opened(path) as descriptor:
                return stat.S_ISREG(os.fstat(descriptor).st_mode)
        except PermissionError:
            raise _closed(path) from None
        except OSError:
            return False

    def folders(self, path: str) -> list[str]:
        """Return the names of the directories in a directory; none if it is something else. Raises ProtectionError."""
        try:
            with self._opened(path, _READ | os.O_DIRECTORY) as descriptor, os.scandir(descriptor) as entries:
                found = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except PermissionError:
            raise _closed(path) from None
        except (OSError, ProtectionError):
            return []
        return sorted(name for name in found if name.isprintable())

    # Stand-ins

    def have(self, path: str, text: bytes | None) -> bool:
        """Make sure that something is there. Returns False on a file system that nobody can write to."""
        if self.look(path) is not None:
            return True
        try:
            for folder in reversed(PurePosixPath(path).parents[:-1]):
                if self.look(str(folder)) is None:
                    self._make(str(folder), None)
            self._make(path, text)
        except FileExistsError:
            return self.look(path) is not None
        except OSError as error:
            if error.errno == errno.EROFS:
                return False
            raise ProtectionError(
                f"{printable(path)} is to be protected, but nothing can be made there ({error.strerror}); run the same "
                f"command as the owner of the workspace, or add --unprotect {printable(path)}"
            ) from None
        return True

    def _make(self, path: str, text: bytes | None) -> None:
        """Make a stand-in that belongs to the workspace's owner. Raises OSError or ProtectionError."""
        folder, _, name = path.rpartition("/")
        with self._opened(folder or ".") as at:
            if text is None:
                os.mkdir(name, MODE, dir_fd=at)
                made = os.open(name, _READ | os.O_DIRECTORY, dir_fd=at)
            else:
                with contextlib.suppress(FileNotFoundError):  # what a killed process left
                    os.unlink(f".{name}.magents", dir_fd=at)
                made = os.open(name if not text else f".{name}.magents", _NEW, FILE_MODE, dir_fd=at)
            try:
                found, owner = os.fstat(made), os.fstat(self._top)
                if found.st_uid != os.geteuid() or (text is None and os.listdir(made)):  # noqa: PTH208 - a descriptor
                    raise ProtectionError(f"{printable(path)} was replaced just now; type the same again")
                os.fchmod(made, MODE if text is None else FILE_MODE)
                if (found.st_uid, found.st_gid) != (owner.st_uid, owner.st_gid) and os.geteuid() == 0:
                    os.fchown(made, owner.st_uid, owner.st_gid)
                if text:  # git fails on one that is empty, so it appears with its text
                    os.write(made, text)
                    os.rename(f".{name}.magents", name, src_dir_fd=at, dst_dir_fd=at)
            finally:
                os.close(made)

    def is_stand_in(self, path: str, text: bytes | None) -> bool:
        """Say whether what is there has the look of a stand-in. `text` is that of a file; there may be a directory."""
        try:
            with self._opened(path, _READ) as descriptor:
                found = os.fstat(descriptor)
                if stat.S_ISDIR(found.st_mode):
                    return bool(found.st_mode & stat.S_ISVTX) and not os.listdir(descriptor)  # noqa: PTH208
                is_ours = stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) == FILE_MODE
                return is_ours and text is not None and _text(os.dup(descriptor)) == text
        except (OSError, ProtectionError):
            return False

    def remove(self, path: str, text: bytes | None) -> None:
        """Remove a stand-in, and the directories above it that are stand-ins then. Anything else stays."""
        while path and self.is_stand_in(path, text):
            folder, _, name = path.rpartition("/")
            with contextlib.suppress(OSError, ProtectionError), self._opened(folder or ".") as at:
                try:
                    os.rmdir(name, dir_fd=at)
                except NotADirectoryError:
                    os.unlink(name, dir_fd=at)
            path, text = folder, None


_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def _text(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        text = file.read(MAX_TEXT + 1) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
    if len(text) > MAX_TEXT:
        raise ProtectionError(f"settings of git's have more than {MAX_TEXT >> 20} MB, which is too much; shorten them")
    return text


def _closed(path: str) -> ProtectionError:
    name = printable(path)
    return ProtectionError(
        f"{name} cannot be read, so what is to be protected there is not known; open its folders with `chmod u+rwx`, "
        f"or add --unprotect {printable(path.split('/')[0])} to leave it to the agent"
    )


def _in_the_way(path: str, found: os.stat_result) -> ProtectionError:
    name = printable(path)
    what = "a link" if stat.S_ISLNK(found.st_mode) else "a file" if stat.S_ISREG(found.st_mode) else "a special file"
    return ProtectionError(
        f"{name} is {what}, so it cannot be protected, nor what is below it; move it away, or add --unprotect {name} "
        "to leave it to the agent"
    )
