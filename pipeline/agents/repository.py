"""A person's repository: what an agent's clone takes from it, and what is left out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pipeline.agents.host_git import Git, GitError
from pipeline.agents.logs import plain
from pipeline.errors import Problem

TAKEN_REFS = ("refs/heads/", "refs/tags/", "refs/remotes/", "refs/notes/", "refs/replace/")
OURS = "agents/"
"""The beginning of the names of remotes that stand for agents."""

TAKEN_SETTINGS = re.compile(
    r"""remote\..+\.(url|pushurl|fetch|push|tagopt|prune|prunetags)
    | branch\..+\.(remote|merge|rebase|pushremote)
    | user\.(name|email) | lfs\.url | push\.default | pull\.(rebase|ff) | remote\.pushdefault
    | core\.(autocrlf|eol|sparsecheckout|sparsecheckoutcone)""",
    re.VERBOSE | re.DOTALL,
)
"""Settings of a repository that mean the same anywhere, and run nothing."""

MADE_ANEW = re.compile(
    r"core\.(repositoryformatversion|filemode|bare|logallrefupdates|worktree|ignorecase|symlinks|precomposeunicode)"
    r"|extensions\..+|remote\.agents/.+|submodule\..+|lfs\.repositoryformatversion|gc\..+|maintenance\..+|index\..+"
)
"""Settings that every repository has for itself."""

ADDRESS = re.compile(r"(remote\..+\.(url|pushurl)|lfs\.url)", re.DOTALL)
HELPER = re.compile(r"[A-Za-z0-9]+::")
SHOWN = 4


@dataclass(frozen=True)
class Repository:
    """The repository that a folder of this machine belongs to."""

    folder: Path
    """The folder that a person named."""
    common: Path
    """Its .git, which all its worktrees share."""
    prefix: str
    """The folder's path in the working tree, with a slash at the end; empty at the top."""
    is_bare: bool
    object_format: str

    @property
    def git(self) -> Git:
        """Git in the folder, as the owner of the repository."""
        return Git(self.folder, Git.of(self.common).user)

    @classmethod
    def at(cls, folder: Path) -> Repository:
        """Find the repository of a folder. A folder that a clone cannot be made of is a `Problem`."""
        git = Git.of(folder)
        try:
            common = Path(git.line("rev-parse", "--path-format=absolute", "--git-common-dir"))
        except GitError as error:
            raise Problem(_no_repository(folder, str(error)), 64) from None
        git = Git(folder, Git.of(common).user)
        is_bare = git.line("rev-parse", "--is-bare-repository") == "true"
        found = cls(
            folder,
            common,
            "" if is_bare else git.line("rev-parse", "--show-prefix"),
            is_bare,
            git.line("rev-parse", "--show-object-format"),
        )
        if git.says("config", "--get-regexp", r"^(extensions\.partialclone|remote\..*\.promisor)$"):
            raise Problem(
                f"{folder} is a partial clone, which lacks objects that an agent's clone needs; run `git fetch "
                "--refetch --no-filter` and remove its settings remote.*.promisor, or leave out --clone",
                64,
            )
        return found

    # What a clone takes

    def refs(self) -> dict[str, str]:
        """Return branches, tags, notes and remote-tracking branches: the object, or `ref: NAME`, by name."""
        found = {}
        for line in self.git.lines("for-each-ref", "--format=%(objectname) %(refname) %(symref)", *TAKEN_REFS):
            target, name, symbolic = line.split(" ", 2)
            if not name.startswith(f"refs/remotes/{OURS}"):
                found[name] = f"ref: {symbolic}" if symbolic else target
        return found

    def head(self) -> str:
        """Return the content of HEAD: `ref: NAME`, or an object."""
        try:
            return f"ref: {self.git.line('symbolic-ref', '--quiet', 'HEAD')}"
        except GitError:
            return self.git.line("rev-parse", "--verify", "HEAD")

    def start(self) -> str | None:
        """Return the commit of HEAD, or None where nothing is committed yet."""
        try:
            return self.git.line("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        except GitError:
            return None

    def file(self, name: str) -> bytes:
        """Return one of git's own files, such as `shallow`; empty if there is none."""
        path = Path(self.git.line("rev-parse", "--path-format=absolute", "--git-path", name))
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return b""  # ignored because most repositories have none
        with os.fdopen(descriptor, "rb") as file:
            return file.read(1 << 24)

    def settings(self) -> list[tuple[str, str | None]]:
        """Return the repository's own settings. A value of None means that the name stands alone."""
        found: list[tuple[str, str | None]] = []
        for part in self.git.parts("config", "--local", "--list", "--null"):
            name, newline, value = part.partition("\n")
            found.append((name, value if newline else None))
        name = "extensions.worktreeConfig"
        is_apart = self.git.says("config", name) and self.git.line("config", "--bool", name) == "true"
        if is_apart and self.file("config.worktree"):  # git makes that file with the first setting
            for part in self.git.parts("config", "--worktree", "--list", "--null"):
                name, newline, value = part.partition("\n")
                found.append((name, value if newline else None))
        return found

    def borrows(self) -> bool:
        """Say whether it takes objects from elsewhere: `git clone --shared`, `--reference`, a folder that is a link."""
        if any((self.common / folder).is_symlink() for folder in ("objects", "objects/pack")):
            return True
        return b"\nalternate: " in self.git.run("count-objects", "-v")

    def is_tracked(self, path: str) -> bool:
        """Say whether the commit of HEAD has a file or folder of this name, relative to the top."""
        top = Git(self.common, self.git.user)
        return self.start() is not None and bool(top.parts("ls-tree", "-z", str(self.start()), "--", path))

    # What it leaves out

    def left_out(self, taken: Sequence[str] = ()) -> str:
        """Return one line about files that a clone does not have beside `taken`; empty if there are none."""
        if self.is_bare:
            return ""
        words: dict[str, list[str]] = {"changed": [], "untracked": [], "ignored": []}
        command = ["status", "--porcelain", "-z", "--ignored", "--no-renames", "--ignore-submodules=dirty"]
        status = self.git.parts(*self._no_filters(), *command)  # a dirty submodule would have its own filters
        for entry in status:
            kind = {"??": "untracked", "!!": "ignored"}.get(entry[:2], "changed")
            if entry[3:].rstrip("/") not in taken:
                words[kind].append(entry[3:])
        told = [f"{kind} {_few(names)}" for kind, names in words.items() if names]
        if not told:
            return ""
        return (
            f"the clone has what is committed; it lacks of {plain(str(self.folder))}: {'; '.join(told)} - commit them "
            "first, or name files with --clone-with"
        )

    def _no_filters(self) -> list[str]:
        """Return options that keep the repository's filters from running, also those of files that it includes."""
        listed = self.git.parts("config", "--includes", "--list", "--name-only", "--null")
        names = [name for name in listed if name.startswith("filter.")]
        off = {f"{name}={'false' if name.endswith('.required') else ''}" for name in names}
        return [part for each in sorted(off) for part in ("-c", each)]


def clone_settings(settings: Iterable[tuple[str, str | None]]) -> tuple[list[tuple[str, str]], list[str]]:
    """Return a clone's settings, and lines about what is different in them or left out."""
    taken: list[tuple[str, str]] = []
    stripped, local, left = [], [], []
    for name, value in settings:
        if MADE_ANEW.fullmatch(name):
            continue
        if not TAKEN_SETTINGS.fullmatch(name):
            left.append(name)
            continue
        kept = "true" if value is None else value
        if ADDRESS.fullmatch(name):
            kept, had_secret = without_secret(kept)
            stripped += [name] if had_secret else []
            local += [name] if is_local(kept) else []
        taken.append((name, kept))
    lines = []
    if stripped:
        lines.append(f"{_few(stripped)} in the clone has no user and password; the agent needs its own to use it")
    if local:
        lines.append(f"{_few(local)} names a path of this machine, which the agent does not have")
    if left:
        lines.append(f"the clone lacks settings of the repository: {_few(sorted(set(left)), 12)}")
    return taken, lines


def without_secret(address: str) -> tuple[str, bool]:
    """Return a remote's address without a password or token, and whether it had one.

    A user alone stays where it is needed: for ssh.
    """
    try:
        parts = urlsplit(address)
        user, host = parts.username, parts.netloc.rpartition("@")[2]
    except ValueError:
        return address, False
    if not parts.scheme or "@" not in parts.netloc:
        return address, False
    if parts.scheme.endswith("ssh") and parts.password is None:
        return address, False
    kept = f"{user}@{host}" if parts.scheme.endswith("ssh") else host
    return urlunsplit(parts._replace(netloc=kept)), True


def is_local(address: str) -> bool:
    """Say whether a remote's address is a path of this machine, as git decides it."""
    if address.startswith("file://"):
        return True
    before, colon, _ = address.partition(":")
    return not (colon and "/" not in before) and "://" not in address and not HELPER.match(address)


def quoted(value: str) -> str:
    """Return a value as git's configuration files write it."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\b": "\\b"}
    return '"' + "".join(escapes.get(sign, sign) for sign in value) + '"'


def configuration(settings: Iterable[tuple[str, str]]) -> str:
    """Return the text of a configuration file."""
    lines: dict[str, list[str]] = {}
    for name, value in settings:
        section, _, key = name.rpartition(".")
        section, dot, rest = section.partition(".")
        escaped = rest.replace("\\", "\\\\").replace('"', '\\"')
        lines.setdefault(f'[{section} "{escaped}"]' if dot else f"[{section}]", []).append(f"\t{key} = {quoted(value)}")
    return "".join(f"{line}\n" for section, keys in lines.items() for line in (section, *keys))


def _few(names: list[str], most: int = SHOWN) -> str:
    shown = [plain(name).replace("\n", "?").replace("\t", "?") for name in names[:most]]
    return ", ".join(shown) + (f" and {len(names) - most} more" if len(names) > most else "")


def _no_repository(folder: Path, why: str) -> str:
    return (
        f"{plain(str(folder))} is no git repository that could be cloned ({why}); run `git init` there, or leave out "
        "--clone"
    )
