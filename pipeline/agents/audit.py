"""`agents.audit`: what in a workspace runs by itself on this machine and has changed since `up`.

The agent may write there meanwhile. So no link is followed, only regular files are read, and each folder is opened
from the one above it. A file counts as changed by the time of its inode (ctime), which an agent cannot set. A folder
that is moved keeps the times of the files in it, so the folders that make a file run count as well.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import docker
from docker.models.containers import Container

from pipeline.agents import protection, ps
from pipeline.agents.self_running import TABLE, git_entries, place_of, reason
from pipeline.bootstrap.doctor import Finding
from pipeline.errors import Problem

SINCE_LABEL = f"{ps.LABEL}.since"
CLONE = "clone"
DEEPEST = 100  # levels of folders, each of which holds a descriptor; no project is as deep
MOST = 1_000_000  # files and folders
LONGEST_S = 60.0
LONGEST_OF_DOCTOR_S = 5.0
LONGEST_CONTENT = 1 << 20  # bytes; a longer file counts by its name
CLOCK_S = 1.0  # a file's time may be a few milliseconds behind the clock

UNREAD_OF_GIT = {"objects", "lfs"}
PACKAGES = re.compile(r"node_modules|\.?venv|site-packages|\.tox|\.nox", re.IGNORECASE)
MADE = "git runs hooks and what its configuration names for whoever is in this repository, which was made since `up`"
LINK = "git writes through it to what it leads to, with words that others choose"
ANY_HOOK = "post-checkout"  # a name for which a folder of hooks counts
RANKS = {row.who: rank for rank, row in reversed(list(enumerate(TABLE)))}
USED = "programs that use the project run what is installed there: {count} of its files changed"


VERSION = 1
"""The form of the document. It grows when a key is taken away or means something else, not when one is added."""


@dataclass(frozen=True)
class Found:
    """One place that runs by itself: the path in the workspace, who runs it, and when it was changed."""

    path: str
    who: str
    changed: float
    rank: int = field(default=0, compare=False)
    """The lower, the worse."""


@dataclass(frozen=True)
class Audit:
    """What runs by itself and has changed since a time, worst first. `unread` says what was not looked at."""

    workspace: Path
    since: float
    found: list[Found]
    unread: list[str]

    def document(self, agent: str) -> dict[str, Any]:
        """Return the document of `agents.audit --json`."""
        return {"version": VERSION, "agent": agent, **asdict(self), "workspace": str(self.workspace)}


def since_label(workspace: Path, before: Container | None) -> str:
    """Return the label that notes when the first `up` on a workspace was, and which repository was there.

    A container that is made anew on the same workspace keeps it.
    """
    kept = before.labels.get(SINCE_LABEL) if before and ps.workspace_of(before) == str(workspace) else ""
    return kept or f"{time.time():.3f} {_repository_of(workspace)}"


def of_agent(container: Container, longest_s: float = LONGEST_S) -> Audit:
    """Look through the workspace of an agent."""
    name, workspace = container.labels[ps.LABEL], ps.workspace_of(container)
    if container.labels.get(ps.MODE_LABEL) == CLONE:
        raise Problem(
            f"agent {name} works in a clone and cannot write to {workspace}, so nothing of it runs there; "
            f"`bin/invoke agents.diff {name}` shows what came from it"
        )
    since, _, repository = container.labels.get(SINCE_LABEL, "").partition(" ")
    if not repository:
        raise Problem(
            f"agent {name} was started by an earlier version, which did not note when; run `{ps.up_again(container)}`, "
            "and what changes from then on is found"
        )
    return of_folder(Path(workspace), float(since), repository, longest_s)


def of_folder(workspace: Path, since: float, repository: str, longest_s: float = LONGEST_S) -> Audit:
    """Look through a folder. `repository` says which one was there at that time, as `_repository_of` does."""
    has_another = _repository_of(workspace) != repository
    walk = _Walk(since - CLOCK_S, time.monotonic() + longest_s, has_another_repository=has_another)
    try:
        descriptor = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise Problem(f"workspace {workspace} cannot be read: {error.strerror}; is it still there?") from None
    try:
        walk.all(descriptor)
    finally:
        os.close(descriptor)
    ours = protection.stand_ins(workspace) if walk.found else ()
    found = sorted((one for one in walk.found if one.path not in ours), key=lambda one: (one.rank, one.path))
    return Audit(workspace, since, found, [text.format(count=count) for text, count in walk.unread.items()])


def findings(client: docker.DockerClient) -> Iterator[Finding]:
    """Say which running agents have such places in their workspaces."""
    for container in ps.every(client):
        labels = container.labels
        if container.status != "running" or SINCE_LABEL not in labels or labels.get(ps.MODE_LABEL) == CLONE:
            continue
        name = labels[ps.LABEL]
        try:
            found = of_agent(container, LONGEST_OF_DOCTOR_S).found
        except Problem as problem:
            yield Finding(str(container.name), "warning", str(problem), f"bin/invoke agents.audit {name}")
            continue
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            what = f"{quoted(found[0].path)}{more} would run on this machine by itself, and changed since `up`"
            yield Finding(str(container.name), "warning", what, f"bin/invoke agents.audit {name}")


def quoted(path: str) -> str:
    """Return a path as it is, or with its odd characters escaped where it has some."""
    return path if path.isprintable() and path == path.strip() else ascii(path)


def _repository_of(workspace: Path) -> str:
    """Return which `.git` is in the folder, by device and inode; `none` where there is none."""
    try:
        facts = (workspace / ".git").lstat()
    except OSError:
        return "none"
    return f"{facts.st_dev}:{facts.st_ino}"


class _Enough(Exception):
    """A limit is reached. The text says what was not looked at."""


@dataclass(frozen=True)
class _Where:
    """A folder: its path, whether it and each folder above it has changed, and the installed packages it belongs to."""

    path: str = ""
    changed: tuple[bool, ...] = ()
    packages: str = ""
    repository: str | None = None
    """The git repository that it is in."""

    def path_of(self, name: str) -> str:
        return f"{self.path}/{name}" if self.path else name


class _Walk:
    """One look through a workspace."""

    def __init__(self, since: float, until: float, *, has_another_repository: bool) -> None:
        self._since = since
        self._until = until
        self._has_another_repository = has_another_repository
        self._seen = 0
        self._others: list[tuple[str, float]] = []
        """Files that have changed and are in no row of the table."""
        self._ways: dict[str, str] = {}
        """Paths to which links and git's settings lead, with the path that each stands for."""
        self._installed: dict[str, list[float]] = {}
        """The times of changed files, by the folder of packages that they are in."""
        self.found: list[Found] = []
        self.unread: Counter[str] = Counter()

    def all(self, workspace: int) -> None:
        """Look through an open workspace."""
        try:
            self._folder(workspace, _Where())
            self._follow_ways(workspace)
        except _Enough as enough:
            self.unread[str(enough)] += 1
        for path, times in self._installed.items():
            self.found.append(Found(f"{path}/", USED.format(count=len(times)), max(times), len(TABLE)))

    def _folder(self, descriptor: int, where: _Where) -> None:
        entries = self._entries(descriptor)
        is_repository = {"head", "objects", "refs"} <= {name.casefold() for name in entries}
        if is_repository:
            self._repository(where.path, entries)
        for name, facts in entries.items():
            path = where.path_of(name)
            if not stat.S_ISDIR(facts.st_mode):
                within = replace(where, repository=where.path) if is_repository else where
                self._file(descriptor, name, within, facts)
            elif is_repository and name in UNREAD_OF_GIT:
                self.unread["objects of {count} git repositories"] += name == "objects"
            elif len(where.changed) == DEEPEST:
                self.unread[f"{{count}} folders more than {DEEPEST} levels deep"] += 1
            else:
                is_new = self._has_another_repository if path == ".git" else facts.st_ctime >= self._since
                packages = "" if name == ".git" else where.packages or (path if PACKAGES.fullmatch(name) else "")
                repository = where.path if is_repository else where.repository
                self._below(descriptor, name, _Where(path, (*where.changed, is_new), packages, repository))

    def _below(self, parent: int, name: str, where: _Where) -> None:
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        except FileNotFoundError:
            return  # ignored because the agent has removed it meanwhile
        except OSError:
            self.unread["{count} folders that could not be opened"] += 1
            return
        try:
            self._folder(descriptor, where)
        finally:
            os.close(descriptor)

    def _entries(self, descriptor: int) -> dict[str, os.stat_result]:
        found = {}
        with os.scandir(descriptor) as entries:
            for entry in entries:
                self._seen += 1
                if self._seen % 1000 == 0:
                    self._stop_at_limits()
                with suppress(FileNotFoundError):  # ignored because the agent has removed it meanwhile
                    found[entry.name] = entry.stat(follow_symlinks=False)
        return found

    def _stop_at_limits(self) -> None:
        if self._seen > MOST or time.monotonic() > self._until:
            raise _Enough(f"what is left after {self._seen:,} files and folders, which were too many")

    def _repository(self, path: str, entries: dict[str, os.stat_result]) -> None:
        """Note a repository that was made since `up`: no part of it is older."""
        parts = {"head", "objects", "refs", "config", "description", "hooks", "info"}
        first = min(facts.st_ctime for name, facts in entries.items() if name.casefold() in parts)
        if self._has_another_repository if path == ".git" else first >= self._since:
            self.found.append(Found(f"{path or '.'}/", MADE, first))

    def _file(self, folder: int, name: str, where: _Where, facts: os.stat_result) -> None:
        path = where.path_of(name)
        is_link, is_new = stat.S_ISLNK(facts.st_mode), facts.st_ctime >= self._since
        if where.packages:
            if is_new:
                self._installed.setdefault(where.packages, []).append(facts.st_ctime)
            return
        place = place_of(path) or (place_of(f"{path}/{ANY_HOOK}") if is_link else None)
        if place is None:
            if is_link and where.repository is not None and (is_new or any(where.changed)):
                self._link_of_git(folder, name, where, facts)
            elif is_new:
                self._others.append((path, facts.st_ctime))
            return
        if is_new or any(where.changed[len(where.changed) - place.folders :]):
            self._stop_at_limits()
            if (who := place.row.words(_content(folder, name, facts))) is not None:
                self.found.append(Found(path, who, facts.st_ctime, RANKS[place.row.who]))
        if is_link:
            with suppress(OSError):  # ignored because the agent has removed it meanwhile
                self._lead(path, posixpath.join(where.path, os.readlink(name, dir_fd=folder)))
        elif path == ".git/config":
            self._lead_by_settings(_content(folder, name, facts) or b"")

    def _link_of_git(self, folder: int, name: str, where: _Where, facts: os.stat_result) -> None:
        """Note a link that leads out of its repository."""
        with suppress(OSError):  # ignored because the agent has removed it meanwhile
            target = posixpath.normpath(posixpath.join(where.path, os.readlink(name, dir_fd=folder)))
            if not f"{target}/".startswith(f"{where.repository}/") or not where.repository:
                self.found.append(Found(where.path_of(name), LINK, facts.st_ctime))

    # What links and settings lead to

    def _lead(self, path: str, target: str) -> None:
        self._ways.setdefault(posixpath.normpath(target), path)

    def _lead_by_settings(self, content: bytes) -> None:
        with suppress(ValueError):  # ignored because git stops at the error, too
            for key, value in git_entries(content):
                if key == "core.hookspath":
                    self._lead(".git/hooks", value.replace('"', ""))
                elif re.fullmatch(r"include(if\..*)?\.path", key, re.DOTALL):
                    self._lead(".git/config", posixpath.join(".git", value.replace('"', "")))

    def _follow_ways(self, workspace: int) -> None:
        """Judge each changed file as the path that a link or a setting makes of it."""
        for path, changed in self._others:
            parts = path.split("/")
            for end in range(len(parts), 0, -1):
                if way := self._ways.get("/".join(parts[:end])):
                    as_path = "/".join([way, *parts[end:]])
                    if who := reason(as_path, None):
                        self.found.append(Found(path, f"{who}, by way of {as_path}", changed))
                    break


def _content(folder: int, name: str, facts: os.stat_result) -> bytes | None:
    """Return the content of a regular file, and None of any other, of a long one, and of one that cannot be read."""
    if not stat.S_ISREG(facts.st_mode) or facts.st_size > LONGEST_CONTENT:
        return None
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=folder)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(LONGEST_CONTENT + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    return content if content is None or len(content) <= LONGEST_CONTENT else None
