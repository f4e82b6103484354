"""Clone mode: an agent works in a full clone of the person's repository, in a directory of ours.

For each agent, below `magents/clones/` beside the bridge's state:

    NAME/lock              held while one of these is made, used or removed
    NAME/clone/workspace   the clone, which is the agent's own; mounted at /workspace
    NAME/clone/store       the objects of the person's repository, read-only in the container (object_store.py)
    NAME/clone/refs        the references that the clone began with
    NAME/clone/record      where it comes from, as JSON
    NAME/clone.new         one that is being made; a later call removes what a killed one left
    NAME/arrival.git       what has come from the container and is being checked (exchange.py)

No git of this machine ever runs in the agent's workspace. Its files are checked out in a container without network.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath

import docker
import docker.errors
from docker.types import Mount

from pipeline import bridge
from pipeline.agents import records
from pipeline.agents.host_git import Git, GitError, User
from pipeline.agents.logs import plain
from pipeline.agents.object_store import DIRECTORY, ObjectStore, Shared, names_in
from pipeline.agents.repository import OURS, Repository, clone_settings, configuration
from pipeline.agents.workspace import AGENT_UID, Owner
from pipeline.bootstrap.engine import USUAL, Kind
from pipeline.errors import Problem
from pipeline.reporting import Say

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
STORE = "/var/lib/magents/repository"
"""Where the container has the person's objects. Git LFS looks for its files beside them."""
WAIT_S = 60
CHECKOUT_S = 1800
LARGEST_FILE = 1 << 30
"""Bytes of a file that --clone-with copies."""


@dataclass(frozen=True)
class Record:
    """Where a clone comes from."""

    folder: str
    """The person's folder."""
    prefix: str
    """That folder's path in the working tree."""
    head: str
    """`ref: NAME`, or the commit that was checked out."""
    start: str | None
    """The commit that was checked out."""


@dataclass(frozen=True)
class Clone:
    """The clone of one agent."""

    name: str
    path: Path
    record: Record

    @property
    def workspace(self) -> Path:
        """The agent's working tree."""
        return self.path / "workspace"

    @property
    def store(self) -> Path:
        """The objects that it shares."""
        return self.path / "store"

    @property
    def folder(self) -> Path:
        """The person's folder that it was made of."""
        return Path(self.record.folder)

    @property
    def starting_refs(self) -> dict[str, str]:
        """The references that it began with."""
        lines = os.fsdecode((self.path / "refs").read_bytes()).split("\n")
        return dict(line.split(" ", 1) for line in lines if line)


def owner_for(folder: Path, kind: Kind = USUAL, *, as_root: bool) -> Owner:
    """Return whom a clone of `folder` belongs to: the folder's owner, but root only if a person chose that."""
    if kind.person is not None:
        return Owner(0, 0, kind.person)
    found = folder.stat()
    uid, gid = (found.st_uid, found.st_gid) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    if uid == 0 and not as_root:
        uid, gid = kind.first + AGENT_UID, kind.first + AGENT_UID
    if kind.first and uid >= kind.first:
        return Owner(uid - kind.first, gid - kind.first, uid)
    return Owner(uid, gid)


# Places


def home(name: str) -> Path:
    """Return the directory for an agent's clone, and make it. Raises a `Problem` for a name that no agent can have."""
    if not NAME.fullmatch(name):
        raise Problem(f"{plain(name)!r} is no name of an agent; letters, digits, dot, hyphen and underscore are", 64)
    place = bridge.state_root().with_name("magents")
    for directory in (place, place / "clones", place / "clones" / name):
        directory.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o711)
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise Problem(f"{directory} is no directory of uid {os.geteuid()}, so no clone can be kept; move it away")
        directory.chmod(0o711)
    return place / "clones" / name


@contextmanager
def locked(name: str) -> Iterator[Path]:
    """Be the only one that works with an agent's clone. Yields its directory."""
    place = home(name)
    descriptor = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + WAIT_S
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Problem(f"another command works with the clone of agent {name}; try again later") from None
                time.sleep(0.05)
        yield place
    finally:
        os.close(descriptor)


def find(name: str) -> Clone | None:
    """Return an agent's clone."""
    if not NAME.fullmatch(name):
        return None
    path = bridge.state_root().with_name("magents") / "clones" / name / "clone"
    try:
        record = Record(**json.loads((path / "record").read_text(errors="surrogateescape")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise Problem(f"{path} is not a clone that this version can use ({error}); move it away") from None
    return Clone(name, path, record)


def require(name: str) -> Clone:
    """Return an agent's clone. When it has none, raises a `Problem`."""
    found = find(name)
    if found is None:
        raise Problem(f"agent {plain(name)} has no clone; `bin/invoke up --clone` makes one")
    return found


def tell_unused(name: str, say: Say) -> None:
    """Say that an agent which starts in a folder itself has a clone as well."""
    if find(name):
        say(
            f"agent {name} works directly in the folder; its clone stays, unused: `bin/invoke up --clone` goes on in "
            f"it, `bin/invoke agents.down {name} --remove-clone` removes it"
        )


def end(name: str, say: Say, *, remove_it: bool) -> None:
    """Say what happens to the clone of an agent whose container was removed, and do it."""
    found = find(name)
    if found and not remove_it:
        say(
            f"its clone {found.workspace} stays: `bin/invoke up --clone` goes on in it; to remove it, start the agent "
            f"and run `bin/invoke agents.down {name} --remove-clone`"
        )
    elif remove_it and is_here(name):
        with locked(name) as place:
            _remove(place)
        stays = f"; what came from it stays in {plain(str(found.folder))} as refs/remotes/{OURS}{name}" if found else ""
        say(f"its clone is removed{stays if found and found.folder.is_dir() else ''}")


def is_here(name: str) -> bool:
    """Say whether an agent has a clone, or a part of one that a killed call left."""
    place = bridge.state_root().with_name("magents") / "clones" / name
    return find(name) is not None or (NAME.fullmatch(name) is not None and any(place.glob("*.*")))


def unfinished() -> list[str]:
    """Return the names of the agents whose clone was being made when its call was killed, or is being made now."""
    place = bridge.state_root().with_name("magents") / "clones"
    return sorted(path.parent.name for path in place.glob("*/clone.new"))


def tidy(client: docker.DockerClient, name: str) -> None:
    """Remove what a killed call left of a clone that it was making."""
    if name in unfinished():
        with locked(name) as place:
            _clean(client, place)


def _remove(place: Path) -> None:
    """Remove an agent's clone, and its remote in the person's repository; the branches that came stay.

    The remote goes first: when a killed call is repeated, a clone without it is still found.
    """
    found = find(place.name)
    if found and found.folder.is_dir():
        with _settings_of_repositories(), contextlib.suppress(Problem):  # ignored because the repository may be gone
            Repository.at(found.folder).git.run("config", "--remove-section", f"remote.{OURS}{found.name}")
    if found:
        found.path.rename(place / "clone.new")
    for each in ("clone.new", "arrival.git"):
        _discard(place / each)


def _discard(path: Path) -> None:
    """Remove a directory of ours, whatever an agent put into it."""
    if path.is_symlink() or not path.exists():
        return
    shutil.rmtree(path, onerror=_open_up)


def _open_up(_: object, path: str, error: tuple[object, BaseException, object]) -> None:
    """Remove what lies in a directory that its owner had closed."""
    above = Path(path).parent
    for closed in (above, Path(path)):
        if closed.is_dir() and not closed.is_symlink():
            closed.chmod(0o700)
    if Path(path).is_dir() and not Path(path).is_symlink():
        shutil.rmtree(path)
    elif not isinstance(error[1], FileNotFoundError):
        Path(path).unlink()


# Making one


def make(
    client: docker.DockerClient, image: str, name: str, folder: Path, owner: Owner, files: Sequence[str], say: Say
) -> Clone:
    """Return the agent's clone of `folder`, which is made if there is none. `files` are copied into a new one."""
    with locked(name) as place:
        if found := find(name):
            return _known(found, folder, files, say)
        _clean(client, place)
        repository = Repository.at(folder)
        chosen = [_relative(repository, each) for each in files]
        try:
            said = _fill(client, image, place / "clone.new", repository, owner, chosen)
        except OSError as error:
            _discard(place / "clone.new")
            reason = f"{error.strerror}: {error.filename}" if error.filename else f"{error.strerror}"
            raise Problem(f"{plain(reason)}; no clone was made in {place}") from None
        except BaseException:
            _discard(place / "clone.new")
            raise
        (place / "clone.new").rename(place / "clone")
        made = require(name)
        _name_remote(repository, made)
    for line in said:
        say(line)
    return made


def _known(found: Clone, folder: Path, files: Sequence[str], say: Say) -> Clone:
    if not found.folder.is_dir() and _is_of(found, folder):
        found = _moved(found, folder)
    if found.folder != folder:
        raise Problem(
            f"agent {found.name} has a clone of {plain(str(found.folder))}, so none of {plain(str(folder))} was made; "
            f"fetch what you need with `bin/invoke agents.fetch {found.name}` and remove it with "
            f"`bin/invoke agents.down {found.name} --remove-clone`"
        )
    if files:
        raise Problem(
            f"agent {found.name} has its clone already, and --clone-with counts when it is made; copy the files into "
            f"the running container with `docker cp FILE magents-{found.name}:/workspace/FILE`",
            64,
        )
    say(f"agent {found.name} goes on in its clone of {plain(str(folder))}")
    _name_remote(Repository.at(folder), found)
    return found


def _is_of(found: Clone, folder: Path) -> bool:
    """Say whether a folder has the commit that the clone began with."""
    start = found.record.start
    return start is not None and Repository.at(folder).git.says("cat-file", "-e", f"{start}^{{commit}}")


def _moved(found: Clone, folder: Path) -> Clone:
    """Note that the person's folder is elsewhere now."""
    record = replace(found.record, folder=str(folder))
    fresh = found.path / "record.new"
    fresh.write_text(json.dumps(asdict(record)))
    fresh.replace(found.path / "record")
    return replace(found, record=record)


def _clean(client: docker.DockerClient, place: Path) -> None:
    """Remove what a killed call left: a container that checks files out, and a half-made clone."""
    with contextlib.suppress(docker.errors.NotFound):  # ignored because there is usually none
        client.containers.get(_checkout_name(place.name)).remove(force=True, v=True)
    _discard(place / "clone.new")


def _fill(
    client: docker.DockerClient, image: str, fresh: Path, repository: Repository, owner: Owner, files: list[str]
) -> list[str]:
    """Make the whole clone in the directory `fresh`. Returns lines about what is different in it."""
    reader = User(owner.person, owner.gid if owner.on_host is None else owner.on_host)
    fresh.mkdir(mode=0o700)
    refs, head, start = repository.refs(), repository.head(), repository.start()
    shared = _share(repository, fresh / "store", reader)
    settings, said = clone_settings(repository.settings())
    workspace = fresh / "workspace"
    workspace.mkdir(mode=0o700)
    _write_repository(workspace / ".git", repository, settings, refs, head)
    for each in files:
        _copy_in(repository.folder, repository.prefix, each, workspace)
    _give(workspace, reader)
    if start:
        _check_out(client, image, fresh, owner)
    record = Record(str(repository.folder), repository.prefix, head, start)
    (fresh / "refs").write_bytes(os.fsencode("".join(f"{name} {target}\n" for name, target in refs.items())))
    (fresh / "record").write_text(json.dumps(asdict(record)))
    for own in ("refs", "record"):
        (fresh / own).chmod(0o600)
    fresh.chmod(0o711)  # the user of the workspace passes through
    if shared.copied > 1 << 20:
        said.append(
            f"{shared.copied >> 20} MB of objects could not be shared and were copied: the state directory "
            f"{fresh.parent} is on another file system, or the repository borrows objects"
        )
    said += [line] if (line := repository.left_out([repository.prefix + each for each in files])) else []
    if repository.prefix:
        said.append(f"the whole repository is cloned; your folder is /workspace/{plain(repository.prefix)} there")
    return said


def _share(repository: Repository, target: Path, reader: User) -> Shared:
    target.mkdir(mode=0o700)
    store = ObjectStore(target, reader)
    borrows = repository.borrows()
    shared = store.take_reachable(repository.git) if borrows else store.take(repository.common / "objects")
    store.take_large_files(repository.common / "lfs" / "objects")
    store.close()
    return shared


def _write_repository(
    place: Path, repository: Repository, settings: list[tuple[str, str]], refs: dict[str, str], head: str
) -> None:
    """Write the clone's .git by hand, so that no git has to run in it."""
    for folder in ("objects/info", "objects/pack", "refs/heads", "refs/tags", "info"):
        (place / folder).mkdir(parents=True)
    own = [
        ("core.repositoryformatversion", "1"),
        ("core.filemode", "true"),
        ("core.bare", "false"),
        ("core.logallrefupdates", "true"),
        ("extensions.objectformat", repository.object_format),
    ]
    _write(place / "config", configuration([*own, *settings]))
    _write(place / "HEAD", f"{head}\n")
    _write(place / "objects/info/alternates", f"{STORE}/objects\n")
    _write(place / "packed-refs", "".join(f"{to} {ref}\n" for ref, to in sorted(refs.items()) if to[:4] != "ref:"))
    for name, target in refs.items():
        if target.startswith("ref:"):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            _write(place / name, f"{target}\n")
    for name in ("shallow", "info/exclude", "info/sparse-checkout"):
        if content := repository.file(name):
            (place / name).write_bytes(content)


def _write(path: Path, text: str) -> None:
    path.write_bytes(os.fsencode(text))


def _give(tree: Path, user: User) -> None:
    if os.geteuid() != 0:
        return
    for folder, _, names, descriptor in os.fwalk(tree, follow_symlinks=False):
        del folder
        os.chown(descriptor, user.uid, user.gid)
        for name in names:
            os.chown(name, user.uid, user.gid, dir_fd=descriptor, follow_symlinks=False)


# Files of a person's choice


def _relative(repository: Repository, named: str) -> str:
    """Return a file that --clone-with names, relative to the person's folder. Raises a `Problem` if it may not be."""
    path = PurePosixPath(named)
    if path.is_absolute() or ".." in path.parts or not path.parts or ".git" in [part.lower() for part in path.parts]:
        raise Problem(f"--clone-with {plain(named)}: a path inside the workspace, outside of .git, is allowed", 64)
    if repository.is_bare:
        raise Problem(f"--clone-with {plain(named)}: {repository.folder} has no working tree; leave it out", 64)
    if repository.is_tracked(repository.prefix + str(path)):
        raise Problem(f"--clone-with {plain(named)}: it is in the repository, so the clone has what is committed", 64)
    return str(path)


def _copy_in(folder: Path, prefix: str, name: str, workspace: Path) -> None:
    """Copy a file or folder of the person's. Links are refused: they could lead anywhere."""
    at = os.open(folder, DIRECTORY)
    parts = PurePosixPath(name).parts
    try:
        for part in parts[:-1]:
            at = _below(at, part, name)
        _copy_entry(at, parts[-1], workspace / prefix / name, name)
    finally:
        os.close(at)


def _below(at: int, part: str, name: str) -> int:
    try:
        below = os.open(part, DIRECTORY, dir_fd=at)
    except OSError as error:
        raise _refused(name, error.strerror or "") from None
    os.close(at)
    return below


def _copy_entry(at: int, part: str, target: Path, name: str) -> None:
    try:
        found = os.lstat(part, dir_fd=at)
    except OSError as error:
        raise _refused(name, error.strerror or "") from None
    if stat.S_ISDIR(found.st_mode):
        target.mkdir(parents=True, exist_ok=True)
        below = os.open(part, DIRECTORY, dir_fd=at)
        try:
            for each in names_in(below):
                _copy_entry(below, each, target / each, f"{name}/{each}")
        finally:
            os.close(below)
        return
    if not stat.S_ISREG(found.st_mode):
        raise _refused(name, "neither a file nor a folder; name what a link leads to")
    if found.st_size > LARGEST_FILE:
        raise _refused(name, f"it has more than {LARGEST_FILE >> 20} MB")
    target.parent.mkdir(parents=True, exist_ok=True)
    reading = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    with os.fdopen(reading, "rb") as one, target.open("xb") as other:
        shutil.copyfileobj(one, other, 1 << 20)
        os.fchmod(other.fileno(), stat.S_IMODE(found.st_mode) & 0o777)


def _refused(name: str, why: str) -> Problem:
    return Problem(f"--clone-with {plain(name)}: {why}; no clone was made", 64)


# The working tree


def _checkout_name(name: str) -> str:
    return f"magents-{name}-checkout"


def _check_out(client: docker.DockerClient, image: str, fresh: Path, owner: Owner) -> None:
    """Write the files of the working tree. Filters, such as Git LFS, run in the container."""
    command = ["-c", "lfs.transfer.maxretries=1", "checkout", "--force", "--quiet"]
    container = client.containers.create(
        image,
        command,
        entrypoint=["/usr/bin/git"],
        name=_checkout_name(fresh.parent.name),
        user=f"{owner.uid}:{owner.gid}",
        working_dir="/workspace",
        environment={"HOME": "/tmp", "GIT_LFS_SKIP_DOWNLOAD_ERRORS": "1"},  # noqa: S108 - in the container
        network_mode="none",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        pids_limit=512,
        healthcheck={"test": ["NONE"]},
        tmpfs={"/tmp": "mode=1777"},  # noqa: S108 - likewise
        mounts=[
            Mount("/workspace", str(fresh / "workspace"), "bind"),
            Mount(STORE, str(fresh / "store"), "bind", read_only=True),
        ],
    )
    try:
        container.start()
        code = container.wait(timeout=CHECKOUT_S)["StatusCode"]
        if code:
            said = plain(container.logs(tail=3).decode(errors="replace")).strip().splitlines() or [f"exit code {code}"]
            raise Problem(f"the files of the clone could not be checked out: {said[-1]}; no clone was made")
    finally:
        container.remove(force=True, v=True)


# The remote in the person's repository


@contextmanager
def _settings_of_repositories() -> Iterator[None]:
    """Be the only one of ours that changes a repository's settings: git fails where another git does, and waits not."""
    with records.turn("repositories", lambda _: None):
        yield


def _name_remote(repository: Repository, clone: Clone) -> None:
    """Make the remote agents/NAME. Its addresses are no repositories: they say what to type.

    So `git fetch agents/NAME` ends with that line and runs nothing, and `git fetch --all` passes over it.
    """
    remote = OURS + clone.name
    instead = home(clone.name) / "type instead: bin"
    wanted = {
        f"remote.{remote}.url": f"{instead}/invoke agents.fetch {clone.name}",
        f"remote.{remote}.pushurl": f"{instead}/invoke agents.push {clone.name} BRANCH",
        f"remote.{remote}.fetch": f"+refs/heads/*:refs/remotes/{remote}/*",
        f"remote.{remote}.tagOpt": "--no-tags",
        f"remote.{remote}.skipFetchAll": "true",
        f"remote.{remote}.skipDefaultUpdate": "true",
    }
    git = Git(repository.common, repository.git.user)
    try:
        with _settings_of_repositories():
            have = dict(repository.settings())
            for name, value in wanted.items():
                section, _, key = name.rpartition(".")
                if have.get(f"{section}.{key.lower()}") != value:
                    git.run("config", "--replace-all", name, value)
    except GitError as error:
        file = plain(str(repository.common / "config"))
        raise Problem(
            f"the remote {remote} could not be written to {file}: {error}; if no git runs there, remove {file}.lock "
            "and run the same command again"
        ) from None
