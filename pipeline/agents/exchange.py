"""Bring commits from an agent's clone to the person's repository, and hand a branch over.

Git's other side runs in the container, as the agent, over `docker exec`. What comes is hostile:

1. It goes into a new bare repository of ours, `arrival.git`, with no settings but ours. Git checks every object there
   (`fsckObjects`), and its references are counted. Bytes, time and memory have limits.
2. Only branches that are new or changed are handed to the person's repository, in one transaction, to
   `refs/remotes/agents/NAME/`. New tags go to `refs/agents/NAME/tags/`, so they replace none.

Nothing that the other side prints reaches the terminal, except git's own reason for a failure, without control
characters. A call that is killed has changed nothing or everything; the next one removes what it left.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import docker

from pipeline.agents import clone, large_files, ps
from pipeline.agents.clone import Clone
from pipeline.agents.host_git import Git, GitError, ending
from pipeline.agents.logs import plain
from pipeline.agents.repository import OURS, Repository
from pipeline.errors import NO_DOCKER_COMMAND, Problem
from pipeline.reporting import Say

MEGABYTES, MINUTES = 2048, 10
"""What one call may bring, and how long it may take."""
MAX_REFS = 20_000
STATUS_S = 60
SHOWN = 5
SOME = 500
"""Large files that are asked for at once."""
THERE = "file:///workspace"
"""The name of the agent's repository for git. It is only passed to the program in the container."""

CLEAN = ["/usr/bin/env", "-i", "PATH=/usr/bin:/bin", "HOME=/agent/home", "LC_ALL=C"]
GIT = "/usr/bin/git"
JOINED = "cat <&3 & exec >&4 3<&- 4>&-; cat; exec >&-; wait"
"""What git starts as the other side: it only copies between git and the two descriptors that lead to the container.

The shell keeps none of them, so that each side notices when the other one has ended.
"""
PRINT_FILES = 'for file; do if [ -f "$file" ]; then printf 1; /bin/cat "$file"; else printf 0; fi; done'
"""Prints files one after the other, each after a 1; a missing one is a 0."""
SET_ASIDE = "exec 3<&0 4>&1 </dev/null >/dev/null;"


@dataclass(frozen=True)
class Arrived:
    """One branch or tag that came: its name in the person's repository, with the commit before and now."""

    name: str
    before: str | None
    now: str | None
    """None: the agent no longer has it."""

    @property
    def line(self) -> str:
        """What `agents.fetch` prints."""
        short = self.name.removeprefix("refs/remotes/")
        if self.now is None:
            return f"gone     {short}, which was {str(self.before)[:12]}"
        return f"{'changed' if self.before else 'new':<7}  {short} {self.now[:12]}"


def fetch(
    client: docker.DockerClient, name: str, megabytes: int = MEGABYTES, minutes: float = MINUTES
) -> list[Arrived]:
    """Bring an agent's branches and tags. Returns what is new, changed or gone."""
    with clone.locked(name) as place:
        made = clone.require(name)
        container = _running(client, made)
        repository = _repository(made)
        arrival = place / "arrival.git"
        _discard(arrival)
        try:
            _bring(container, repository, arrival, megabytes << 20, minutes * 60)
            came = _hand_over(repository, made, arrival)
        finally:
            _discard(arrival)
        _bring_large_files(container, repository, made, megabytes << 20, minutes * 60)
        return came


def push(client: docker.DockerClient, name: str, branch: str | None, minutes: float = MINUTES) -> str:
    """Hand a branch of the person's to the agent, as `host/BRANCH`. Returns the branch's name."""
    with clone.locked(name):
        made = clone.require(name)
        container = _running(client, made)
        repository = _repository(made)
        git = repository.git
        try:
            chosen = branch or git.line("symbolic-ref", "--short", "HEAD")
            git.run("show-ref", "--verify", "--quiet", f"refs/heads/{chosen}")
        except GitError:
            lacks = f"has no branch {plain(branch)}" if branch else "has no branch with commits checked out"
            raise Problem(f"{plain(str(made.folder))} {lacks}; name one of `git branch`", 64) from None
        refspec = f"+refs/heads/{chosen}:refs/remotes/host/{chosen}"
        command = [
            "push",
            "--quiet",
            "--no-verify",
            "--no-follow-tags",
            f"--receive-pack=exec sh -c {shlex.quote(JOINED)}",
        ]
        with _other_side(container, [GIT, "receive-pack", "/workspace"], limit=64 << 20) as other:
            _talk(git, [*command, THERE, refspec], other, minutes * 60)
    return chosen


def save(client: docker.DockerClient, name: str, say: Say) -> None:
    """Bring everything from a clone that is to be removed. Raises a `Problem` when something in it would be lost."""
    if clone.find(name) is None:
        return
    try:
        came = fetch(client, name)
        made = clone.require(name)
        changed, commits = _left_behind(_running(client, made), made)
    except Problem as problem:
        raise Problem(
            f"the clone of agent {name} was not removed: {problem}; or add --discard to lose what is there"
        ) from None
    for each in came:
        say(plain(each.line))
    if changed:
        raise Problem(
            f"the clone of agent {name} was not removed, as it has files that are not committed: "
            f"{_few(changed)}; commit them there, or add --discard to lose them"
        )
    if commits:
        raise Problem(
            f"the clone of agent {name} was not removed, as it has commits on no branch: {_few(commits)}; make a "
            "branch of them there, or add --discard to lose them"
        )


def _few(lines: Sequence[str]) -> str:
    return ", ".join(lines[:SHOWN]) + (" ..." if len(lines) > SHOWN else "")


def _left_behind(container: str, made: Clone) -> tuple[list[str], list[str]]:
    """Return what git in the container says of files without a commit and of stashes, and of commits on no branch.

    Those are what HEAD, the HEAD of another worktree, notes and other references have; not what the clone began with.
    """
    changed = _asked(container, "status", "--porcelain") + _asked(container, "stash", "list")
    began = {made.record.start, *(to for name, to in made.starting_refs.items() if name.startswith("refs/notes/"))}
    known = ["--branches", "--tags", "--remotes", *(to for to in sorted(filter(None, began)) if to[:4] != "ref:")]
    others = ["--exclude=refs/replace/*", "--exclude=refs/stash", "--all"]
    count = f"--max-count={SHOWN + 1}"
    return changed, _asked(container, "log", count, "--format=%h %s", "--ignore-missing", *others, "--not", *known)


def _asked(container: str, *command: str) -> list[str]:
    """Return the lines that git in the container prints."""
    with _other_side(container, [GIT, "--no-pager", "-C", "/workspace", *command], limit=1 << 20) as other:
        timer = threading.Timer(STATUS_S, other.process.kill)
        timer.start()
        said = other.output.read()
        timer.cancel()
        if other.process.wait():
            reason = plain(other.words.decode(errors="replace")).strip() or "no answer"
            raise Problem(f"git {command[0]} in the container failed: {reason.splitlines()[-1]}")
    return [plain(line).strip() for line in said.decode(errors="replace").splitlines()]


def _running(client: docker.DockerClient, made: Clone) -> str:
    container = ps.find(client, made.name)
    if container is not None and container.attrs["State"].get("Paused"):
        resume = f"docker unpause {ps.container_name(made.name)}"
        raise Problem(f"agent {made.name} is paused, so its git cannot answer; run `{resume}`")
    if container is None or container.status != "running":
        raise Problem(
            f"agent {made.name} does not run, and git for its clone runs only in its container; run `bin/invoke up "
            f"--clone --name {made.name} --workspace {shlex.quote(str(made.folder))}`, and then the same command again"
        )
    if container.labels.get(ps.MODE_LABEL) != "clone":
        raise Problem(
            f"agent {made.name} works directly in a folder now; run `bin/invoke up --clone` to go on in its clone"
        )
    return str(container.id)


def _repository(made: Clone) -> Repository:
    if not made.folder.is_dir():
        raise Problem(f"{plain(str(made.folder))}, of which agent {made.name} has a clone, is gone; put it back")
    return Repository.at(made.folder)


# The other side


class OtherSide:
    """A git in a container: what it prints can be read up to a limit, and it can be written to."""

    def __init__(self, process: subprocess.Popen[bytes], limit: int) -> None:
        self.process = process
        self.limit = limit
        self.is_over = False
        self.words = b""
        reading, writing = os.pipe()
        self.output = os.fdopen(reading, "rb", buffering=0)
        self._pump = threading.Thread(target=self._copy, args=[writing], daemon=True)
        self._listen = threading.Thread(target=self._hear, daemon=True)
        self._pump.start()
        self._listen.start()

    def _copy(self, writing: int) -> None:
        assert self.process.stdout
        left = self.limit
        with contextlib.suppress(BrokenPipeError), os.fdopen(writing, "wb", buffering=0) as output:
            while piece := os.read(self.process.stdout.fileno(), 1 << 18):
                left -= len(piece)
                if left < 0:
                    self.is_over = True
                    break
                output.write(piece)
        self.kill()

    def _hear(self) -> None:
        """Read its errors to their end, and keep the beginning."""
        assert self.process.stderr
        while piece := os.read(self.process.stderr.fileno(), 65_536):
            self.words = (self.words + piece)[:4096]

    def kill(self) -> None:
        """End it and all that it started here."""
        with contextlib.suppress(ProcessLookupError):  # ignored because it has ended
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End it."""
        self.kill()
        self.process.wait()
        self.output.close()
        self._pump.join(5)
        self._listen.join(5)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream:
                with contextlib.suppress(BrokenPipeError):  # ignored because it has ended
                    stream.close()


@contextmanager
def _other_side(container: str, command: Sequence[str], limit: int) -> Iterator[OtherSide]:
    asked = ["docker", "exec", "-i", "--workdir", "/", container, *CLEAN, *command]
    try:
        process = subprocess.Popen(
            asked,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise Problem(NO_DOCKER_COMMAND) from None
    other = OtherSide(process, limit)
    try:
        yield other
    finally:
        other.close()


def _talk(git: Git, command: Sequence[str], other: OtherSide, limit_s: float, settings: Sequence[str] = ()) -> None:
    """Let git on this machine talk to the other side. Raises a `Problem` that says who failed."""
    assert other.process.stdin
    process = git.start(
        command,
        allow="file",
        settings=settings,
        first=SET_ASIDE,
        stdin=other.output,
        stdout=other.process.stdin,
    )
    other.process.stdin.close()
    try:
        with ending(process, limit_s) as ended:
            pass
        ended.check(command[0])
    except GitError as error:
        if other.is_over:
            raise Problem(_too_much(other.limit, "nothing was taken")) from None
        words = plain(other.words.decode(errors="replace")).strip().splitlines()
        raise Problem(f"nothing was taken: {' / '.join([str(error), *words[-1:]])}") from None


# What comes


def _bring(container: str, repository: Repository, arrival: Path, limit: int, limit_s: float) -> None:
    """Let the agent's branches and tags come into a repository of ours, and count them."""
    user = repository.git.user
    _make_arrival(repository, arrival)
    git = Git(arrival, user)
    checks = ["transfer.fsckObjects=true", "fetch.unpackLimit=1", "fetch.negotiationAlgorithm=consecutive"]
    command = [
        "fetch",
        "--quiet",
        "--no-tags",
        "--no-write-fetch-head",
        "--no-recurse-submodules",
        "--no-auto-maintenance",
    ]
    command += [f"--upload-pack=exec sh -c {shlex.quote(JOINED)}", THERE]
    command += ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
    with _other_side(container, [GIT, "upload-pack", "--strict", "/workspace/.git"], limit) as other:
        _talk(git, command, other, limit_s, checks)


def _make_arrival(repository: Repository, arrival: Path) -> None:
    """Make a bare repository that has the person's objects, and their references as a place to go on from."""
    arrival.mkdir(mode=0o700)
    for folder in ("objects/info", "objects/pack", "refs"):
        (arrival / folder).mkdir(parents=True)
    settings = "[core]\n\trepositoryformatversion = 1\n\tbare = true\n[extensions]\n\tobjectformat = "
    (arrival / "config").write_text(f"{settings}{repository.object_format}\n")
    (arrival / "HEAD").write_text("ref: refs/heads/none\n")
    (arrival / "objects/info/alternates").write_bytes(os.fsencode(f"{repository.common / 'objects'}\n"))
    known = sorted(set(repository.git.run("for-each-ref", "--format=%(objectname)").split()))
    lines = [b"%b refs/have/%d\n" % (each, number) for number, each in enumerate(known)]
    (arrival / "packed-refs").write_bytes(b"".join(lines))
    if shallow := repository.file("shallow"):
        (arrival / "shallow").write_bytes(shallow)
    if os.geteuid() == 0:
        for folder, folders, files in os.walk(arrival):
            for name in (".", *folders, *files):
                os.chown(Path(folder) / name, repository.git.user.uid, repository.git.user.gid)


def _hand_over(repository: Repository, made: Clone, arrival: Path) -> list[Arrived]:
    """Hand new and changed branches to the person's repository."""
    arrived = Git(arrival, repository.git.user)
    wanted, remote = _wanted(repository, made, arrived)
    before = _refs(repository.git, f"refs/remotes/{remote}/", f"refs/agents/{made.name}/")
    command = ["fetch", "--quiet", "--atomic", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules"]
    command += ["--no-auto-maintenance", "--prune", "--force", str(arrival)]
    command += [f"+refs/agent/heads/*:refs/remotes/{remote}/*", f"+refs/agent/tags/*:refs/agents/{made.name}/tags/*"]
    _update(arrived, "update", wanted)
    git = Git(repository.common, repository.git.user)
    kept = {name.replace("refs/agent/heads/", f"refs/remotes/{remote}/", 1) for name in wanted}
    kept |= {name.replace("refs/agent/tags/", f"refs/agents/{made.name}/tags/", 1) for name in wanted}
    in_the_way = {name: before[name] for name in _in_the_way(before.keys() - kept, kept)}
    _update(git, "delete", in_the_way)
    try:
        git.run(*command, allow="file", limit_s=MINUTES * 60)
    except GitError as error:
        _update(git, "create", in_the_way)
        raise Problem(f"nothing was taken into {plain(str(made.folder))}: {error}") from None
    after = _refs(repository.git, f"refs/remotes/{remote}/", f"refs/agents/{made.name}/")
    names = sorted({*before, *after})
    return [Arrived(each, before.get(each), after.get(each)) for each in names if before.get(each) != after.get(each)]


def _in_the_way(gone: set[str], coming: set[str]) -> set[str]:
    """Return the branches, such as `a`, that keep a coming one, such as `a/b`, from being made, or the reverse."""
    folders = {folder for name in coming for folder in _folders(name)}
    return {name for name in gone if name in folders or not coming.isdisjoint(_folders(name))}


def _folders(name: str) -> set[str]:
    return {str(above) for above in PurePosixPath(name).parents}


def _update(git: Git, what: str, refs: Mapping[str, str]) -> None:
    lines = [f"{what} {name} {target}\n" for name, target in refs.items()]
    git.run("update-ref", "--stdin", given=os.fsencode("".join(lines)))


def _wanted(repository: Repository, made: Clone, arrived: Git) -> tuple[dict[str, str], str]:
    """Return which references are handed over, by their names in the arrival, and the remote's name."""
    theirs = _refs(arrived, "refs/heads/", "refs/tags/")
    if len(theirs) > MAX_REFS:
        raise Problem(f"the agent has {len(theirs)} branches and tags, more than {MAX_REFS}, so nothing was taken")
    began, tags = made.starting_refs, _refs(repository.git, "refs/tags/")
    head = made.record.head.removeprefix("ref: ")
    wanted = {}
    for name, target in theirs.items():
        is_known = tags.get(name) == target if name.startswith("refs/tags/") else began.get(name) == target
        if not is_known or name == head:
            wanted[name.replace("refs/", "refs/agent/", 1)] = target
    return wanted, OURS + made.name


def _refs(git: Git, *below: str) -> dict[str, str]:
    lines = git.lines("for-each-ref", "--format=%(refname) %(objectname)", *below)
    return dict(line.split(" ", 1) for line in lines)


def _bring_large_files(container: str, repository: Repository, made: Clone, limit: int, limit_s: float) -> None:
    """Bring the files of Git LFS that the agent's commits point to. Those that the clone lacks are left out."""
    git, objects = Git(repository.common, repository.git.user), repository.common / "lfs" / "objects"
    came = f"--remotes={OURS}{made.name}"
    sizes = large_files.needed(git, came, "--not", "--branches", "--tags")
    lacking = large_files.missing(objects, sizes)
    left, deadline = limit, time.monotonic() + limit_s
    for some in (lacking[start : start + SOME] for start in range(0, len(lacking), SOME)):
        paths = [f"/workspace/.git/lfs/objects/{large_files.place_of(name)}" for name in some]
        with _other_side(container, ["/bin/sh", "-c", PRINT_FILES, "sh", *paths], left) as other:
            timer = threading.Timer(max(0, deadline - time.monotonic()), other.kill)
            timer.start()
            try:
                for name in some:
                    if other.output.read(1) == b"1":
                        left -= sizes[name]
                        large_files.keep(other.output, name, sizes[name], objects, git.user)
            except Problem:
                if other.is_over:
                    raise Problem(_too_much(limit, "its commits are here, not all their files of Git LFS")) from None
                raise
            finally:
                timer.cancel()


def _too_much(limit: int, consequence: str) -> str:
    return f"more than {limit >> 20} MB came from the agent: {consequence}; --megabytes N allows more"


def _discard(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)
