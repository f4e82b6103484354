"""What `agents.fetch` brought from an agent, for people to look at before they use it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.agents import clone
from pipeline.agents.host_git import Git, GitError
from pipeline.agents.logs import plain
from pipeline.agents.repository import OURS, Repository
from pipeline.agents.self_running import reason
from pipeline.errors import Problem

LARGEST_LOOK = 1 << 20
"""Bytes of a file that are looked at to say whether something runs it by itself."""
MOST_LOOKED_AT = 1 << 26
"""Bytes of all such files of a branch. The others count as if they ran."""
LARGEST_PATCH = 1 << 24
"""Bytes of a branch's differences that are printed."""
SUBMODULE, GONE = "160000", "000000"
KINDS = {"A": "new", "M": "changed", "D": "removed", "T": "changed"}
SAFE = ["--no-ext-diff", "--no-textconv", "--no-color", "--submodule=short", "--ignore-submodules=none"]


@dataclass(frozen=True)
class Changed:
    """One file that came."""

    path: str
    kind: str
    why: str | None
    """Who runs it by itself."""


@dataclass(frozen=True)
class Branch:
    """What came on one branch, compared with the commit where it left the person's branch."""

    name: str
    base: str | None
    commits: list[str]
    files: list[Changed]
    """Those that run by themselves come first."""


def branches(name: str) -> Iterator[Branch]:
    """Compare each branch that came with the branch that the clone started from. Raises a `Problem` if none came."""
    made = clone.require(name)
    git = _git(made)
    below = f"refs/remotes/{OURS}{name}/"
    names = git.lines("for-each-ref", "--format=%(refname)", below)
    if not names:
        raise Problem(f"nothing came from agent {name} yet; run `bin/invoke agents.fetch {name}`")
    for each in names:
        base = _base(git, made, each)
        name = each.removeprefix("refs/remotes/")
        try:
            yield Branch(name, base, _commits(git, base, each), _files(git, base, each))
        except GitError as error:
            raise Problem(f"{one_line(name)} is too large to show, or broken ({error}); do not check it out") from None


def lines(branch: Branch) -> Iterator[str]:
    """Return what `agents.diff` prints of a branch. Control characters in names are shown as question marks."""
    left = f"since {branch.base[:12]}" if branch.base else "with nothing in common"
    yield plain(f"{branch.name}: {_number(branch.commits, 'commit')}, {_number(branch.files, 'file')} {left}")
    running = [each for each in branch.files if each.why]
    if running:
        yield "  runs by itself on a machine that has it:"
        yield from (f"    {each.kind:<7}  {one_line(each.path)}   {each.why}" for each in running)
    yield from (f"  {one_line(each)}" for each in branch.commits)
    yield from (f"    {each.kind:<7}  {one_line(each.path)}" for each in branch.files if not each.why)


def _number(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def one_line(value: str) -> str:
    """Return a name or title of the agent's so that it takes one line and steers no terminal."""
    return plain(value).replace("\n", "?").replace("\t", "?")


def patch(name: str, branch: Branch) -> str:
    """Return the differences of a branch as a patch."""
    git = _git(clone.require(name))
    sides = [_or_nothing(git, branch.base), f"refs/remotes/{branch.name}"]
    command = ["diff", *SAFE, "--patch", "--stat", *sides, "--"]
    try:
        return git.run(*command, limit=LARGEST_PATCH).decode(errors="replace")
    except GitError as error:
        return f"the differences of {branch.name} are not shown ({error}); look at parts with `git diff`\n"


def _git(made: clone.Clone) -> Git:
    repository = Repository.at(made.folder)
    return Git(repository.common, repository.git.user)


def _base(git: Git, made: clone.Clone, tip: str) -> str | None:
    """Return the commit where a branch left the person's; None where they have nothing in common."""
    start = made.record.head.removeprefix("ref: ")
    for other in (start, made.record.start):
        try:
            return git.line("merge-base", str(other), tip) if other else None
        except GitError:
            continue  # the person's branch is gone, or has no commit
    return None


def _or_nothing(git: Git, base: str | None) -> str:
    """Return the base, or the empty tree in its place."""
    return base or git.line("hash-object", "-t", "tree", "--stdin")


def _commits(git: Git, base: str | None, tip: str) -> list[str]:
    chosen = [tip, f"^{base}"] if base else [tip]
    return git.lines("log", "--format=%h %an: %s", "--no-show-signature", *chosen, "--")


def _files(git: Git, base: str | None, tip: str) -> list[Changed]:
    parts = git.parts("diff-tree", "-r", "-z", "--no-renames", *SAFE, _or_nothing(git, base), tip)
    changes = [(path, *facts.split(" ")) for facts, path in zip(parts[::2], parts[1::2], strict=True)]
    blobs = [blob for path, _, mode, _, blob, _ in changes if mode not in (SUBMODULE, GONE) and reason(path, None)]
    contents = _contents(git, sorted(set(blobs)))
    found = [
        Changed(path, KINDS.get(kind, kind), None if mode == GONE else reason(path, contents.get(blob)))
        for path, _, mode, _, blob, kind in changes
    ]
    return sorted(found, key=lambda each: (each.why is None, each.path))


def _contents(git: Git, blobs: Sequence[str]) -> dict[str, bytes]:
    """Return what is in files, by their objects; without large ones."""
    sizes = git.run("cat-file", "--batch-check=%(objectsize)", given=_given(blobs)).split()
    chosen, left = [], MOST_LOOKED_AT
    for blob, size in zip(blobs, map(int, sizes), strict=True):
        if size <= min(LARGEST_LOOK, left):
            chosen.append((blob, size))
            left -= size
    printed = git.run("cat-file", "--batch=", given=_given([blob for blob, _ in chosen]))
    found, at = {}, 0
    for blob, size in chosen:
        found[blob] = printed[at + 1 : at + 1 + size]  # between two line ends
        at += size + 2
    return found


def _given(blobs: Sequence[str]) -> bytes:
    return "".join(f"{blob}\n" for blob in blobs).encode()
