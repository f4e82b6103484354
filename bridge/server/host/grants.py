"""The state directory: made safely, verified before use; grants; one server at a time.

lock              held by the server that runs
control.sock      where `status`, `revoke` and the like reach it
token             what `login` stored, 0600
audit.jsonl       who called what
registry/NAME     a grant, as JSON
grants/NAME/      what a container mounts: one socket and nothing else
private/NAME/KEY/ the conversations of a grant on one workspace, as the grant's user
scratch/          sockets of single calls, and their configuration when there is no namespace to hold it
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import json
import os
import pwd
import re
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

from bridge.policy.terms import WORKSPACE
from bridge.server.host import places, trees
from bridge.server.host.places import Place, PlaceError

NUMBER = re.compile(r"[0-9]{1,9}")
"""Of a user or group, well below those that mean something special to the kernel."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
SOCKET_NAME = "claude-bridge.sock"
MAX_SOCKET_PATH = 107
"""Bytes of a socket's path that the kernel takes."""

KEPT = ("projects", "todos", "tasks", "plans", "file-history")
"""What the CLI keeps of a conversation, beside its settings. Nothing in these directories is ever run."""

RESERVED = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc",
    "/proc",
    "/dev",
    "/sys",
    "/opt",
    "/claude",
    "/tmp",  # noqa: S108 - a name in the namespace
    "/home",
    "/run",
)
"""Places of the namespace: a share there could stand in for something of the CLI's own."""


class StateError(Exception):
    """The state directory or a grant cannot be used; the text is one line."""


@dataclasses.dataclass(frozen=True)
class Share:
    """A further directory of the host that the calls of one grant see."""

    source: Place
    target: str
    readonly: bool = False

    @classmethod
    def parse(cls, text: str) -> Share:
        """Read HOSTDIR:CONTAINERDIR[:ro]; StateError."""
        source, colon, rest = text.partition(":")
        target, _, mode = rest.partition(":")
        if not colon or mode not in ("", "ro", "rw") or not source.startswith("/") or not target.startswith("/"):
            raise StateError(f"--share {text!r}: HOSTDIR:CONTAINERDIR[:ro] with two absolute paths is allowed")
        target = os.path.normpath("/" + target.lstrip("/"))
        if target == "/" or any((target + "/").startswith(taken + "/") for taken in (*RESERVED, WORKSPACE)):
            raise StateError(f"--share {text!r}: {target} belongs to the namespace itself; choose another directory")
        return cls(_pinned(source), target, mode == "ro")


@dataclasses.dataclass(frozen=True)
class Grant:
    """Who holds its socket may use the host's Claude on this workspace, as this user."""

    name: str
    place: Place
    user: tuple[int, int]
    """User and group that the CLI runs as: the operator's word, whoever owns the workspace later."""
    shares: tuple[Share, ...] = ()

    @classmethod
    def of(
        cls, name: str, workspace: str | os.PathLike[str], shares: tuple[Share, ...] = (), user: str | None = None
    ) -> Grant:
        """Pin the workspace as it is now. `user` is UID[:GID] or a name; without one it is the owner. StateError."""
        place = _pinned(workspace)
        return cls(name, place, _user(place, user), shares)

    @property
    def workspace(self) -> str:
        """The workspace's path."""
        return self.place.path

    @property
    def places(self) -> list[tuple[Place, bool]]:
        """All its directories, and whether its containers write there."""
        return [(self.place, True), *((share.source, not share.readonly) for share in self.shares)]

    @property
    def problem(self) -> str:
        """Why its calls would be refused now, for the operator, or nothing."""
        return next((str(error) for place, _ in self.places if (error := place.error())), "")

    @property
    def changed(self) -> str:
        """The same for the container, which knows its directories by other names."""
        named = [(self.place, f"the workspace of grant {self.name}")]
        named += [(share.source, f"the share {share.target} of grant {self.name}") for share in self.shares]
        return next((f"{name} {error.what}" for place, name in named if (error := place.error())), "")


def _pinned(path: str | os.PathLike[str]) -> Place:
    if not Path(path).is_dir():
        raise StateError(f"{path} is no directory")
    try:
        return Place.pin(path)
    except PlaceError as error:
        raise StateError(str(error)) from None


def _user(place: Place, named: str | None) -> tuple[int, int]:
    if named is None:
        if place.owner == 0:
            raise StateError(
                f"{place.path} belongs to root, and Claude does not run as root by accident; give it to the user that "
                "it should run as, or name one with --user (--user root for root itself)"
            )
        return _with_group(place.owner)
    name, colon, group = named.partition(":")
    if colon and not NUMBER.fullmatch(group):
        raise StateError(f"--user {named!r}: {group!r} is no group's number")
    if not NUMBER.fullmatch(name):
        try:
            name = str(pwd.getpwnam(name).pw_uid)
        except KeyError:
            text = f"--user {named!r}: no such user; UID, UID:GID or a name of this host is allowed"
            raise StateError(text) from None
    uid, own_group = _with_group(int(name))
    return uid, int(group or own_group)


def _with_group(uid: int) -> tuple[int, int]:
    """A user and his own group. Never the workspace's: a container may have chosen that."""
    try:
        return uid, pwd.getpwuid(uid).pw_gid
    except KeyError:
        return uid, uid


class OpenPlaces:
    """The directories of a grant, held open while it is served, so that nothing else can get their numbers."""

    def __init__(self, grant: Grant) -> None:
        self._held: list[int] = []
        for place, _ in grant.places:
            with contextlib.suppress(PlaceError):  # ignored because each call of the grant tells it
                self._held.append(place.open())

    def close(self) -> None:
        """Let them go."""
        while self._held:
            os.close(self._held.pop())


def default_root() -> Path:
    """Where state is kept when nobody says; kept over reboots, because containers mount it."""
    if chosen := os.environ.get("CLAUDE_BRIDGE_STATE"):
        return Path(chosen).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/claude-code-bridge")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "claude-code-bridge"


class State:
    """The directory and what is in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock: int | None = None

    @property
    def control(self) -> Path:
        """Socket of the running server for the operator."""
        return self.root / "control.sock"

    @property
    def token(self) -> Path:
        """What `login` stored."""
        return self.root / "token"

    def prepare(self) -> None:
        """Make what is missing, and refuse what someone else may have planted."""
        self.root.parent.mkdir(parents=True, exist_ok=True)
        own_directory(self.root, 0o700, or_else=0o711)
        for name in ("registry", "grants", "private", "scratch"):
            own_directory(self.root / name, 0o711 if name in ("private", "scratch") else 0o700)

    def open_for_owners(self) -> None:
        """Let the owners of workspaces pass through to their sessions: without a namespace they have to.

        Sockets, token and log stay closed: their own directories and modes see to that.
        """
        self.root.chmod(0o711)

    def lock(self) -> None:
        """Become the only server of this directory, until the process ends."""
        fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(fd, 20).decode("ascii", "replace").strip()
            os.close(fd)
            raise StateError(f"a bridge server runs already in {self.root} (process {pid or 'unknown'})") from None
        os.ftruncate(fd, 0)
        os.write(fd, b"%d\n" % os.getpid())
        self._lock = fd

    def server_pid(self) -> int | None:
        """The process that holds the lock, or None."""
        with contextlib.suppress(OSError, ValueError):
            fd = os.open(self.root / "lock", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(os.read(fd, 20))
            finally:
                os.close(fd)
        return None

    # Grants

    def grants(self) -> dict[str, Grant]:
        """All grants that can be read, by name."""
        return {name: grant for name, grant in self.registered().items() if isinstance(grant, Grant)}

    def registered(self) -> dict[str, Grant | StateError]:
        """All grants by name; in place of one that cannot be read, why."""
        names = sorted(path.name for path in (self.root / "registry").iterdir() if NAME.fullmatch(path.name))
        return {name: grant for name in names if (grant := self._read(name))}

    def _read(self, name: str) -> Grant | StateError | None:
        try:
            data = json.loads((self.root / "registry" / name).read_text())
            shares = tuple(Share(Place(**share.pop("source")), **share) for share in data["shares"])
            uid, gid = data["user"]
            return Grant(name, Place(**data["place"]), (int(uid), int(gid)), shares)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return StateError(f"grant {name} cannot be read (of an earlier version, perhaps); grant it anew")

    def add(self, grant: Grant, *, own: Iterable[str | os.PathLike[str]] = ()) -> Path:
        """Register a grant, or change one; the directory that a container mounts. StateError.

        `own` are paths that no container may write or hold: the server's configuration, the CLI.
        """
        if not NAME.fullmatch(grant.name):
            raise StateError(f"{grant.name!r} is no name for a grant; letters, digits, dot, hyphen, underscore are")
        if os.geteuid() not in (0, grant.place.owner):
            raise StateError(f"{grant.workspace} belongs to user {grant.place.owner}; grant it as that user or as root")
        if os.geteuid() not in (0, grant.user[0]):
            raise StateError(f"this server cannot run Claude as user {grant.user[0]}; grant it as root")
        self._check_places(grant, own)
        directory = self.prepare_mount(grant.name)
        replace_file(self.root / "registry" / grant.name, json.dumps(dataclasses.asdict(grant)).encode())
        return directory

    def renewed(
        self, name: str, workspace: str | os.PathLike[str], shares: Iterable[str] = (), user: str | None = None
    ) -> Grant:
        """A grant as the operator asks for it now; StateError.

        `shares` are written as HOSTDIR:CONTAINERDIR[:ro]. A grant that is known keeps its user, and a workspace that
        was given away meanwhile needs the operator's word: a container may have done that.
        """
        for named in (workspace, *(share.partition(":")[0] for share in shares)):
            self.refuse_links_of_containers(named)
        parsed = tuple(Share.parse(share) for share in shares)
        known = self.grants().get(name)
        if user is None and known and known.workspace == os.path.realpath(workspace):
            owner = _pinned(workspace).owner
            if owner != known.place.owner:
                raise StateError(
                    f"{workspace} belonged to user {known.place.owner} when it was granted, and to {owner} now; "
                    f"name whom Claude runs as: `claude-bridge-server grant {name} --workspace {workspace} --user UID`"
                )
            user = "{}:{}".format(*known.user)
        return Grant.of(name, workspace, parsed, user)

    def refuse_links_of_containers(self, path: str | os.PathLike[str]) -> None:
        """Refuse a name that a link leads elsewhere which a container can have made; StateError."""
        for holder in places.holders_of_links(path):
            for grant in self.grants().values():
                for place, writes in grant.places:
                    if writes and (holder.identity == place.identity or holder.is_inside(place)):
                        raise StateError(
                            f"{path} leads through a link in {holder.path}, which containers of grant {grant.name} "
                            "write; name the directory itself"
                        )

    def prepare_mount(self, name: str) -> Path:
        """Make the directory that a container mounts; StateError."""
        directory = self.directory(name)
        if len(os.fsencode(directory / SOCKET_NAME)) > MAX_SOCKET_PATH:
            raise StateError(f"{directory / SOCKET_NAME} is longer than {MAX_SOCKET_PATH} bytes; shorten --state")
        own_directory(directory, 0o755)
        return directory

    def _check_places(self, grant: Grant, own: Iterable[str | os.PathLike[str]]) -> None:
        """Refuse what one container could exchange under another, or under this server."""
        for path in (self.root, *own):
            real = Path(os.path.realpath(path))
            directory = real if real.is_dir() else real.parent
            held = Place.pin(directory) if directory.is_dir() else Place(str(directory), -1, -1, -1)
            for place, _ in grant.places:
                within = path == self.root and place.is_inside(held)
                if held.identity == place.identity or held.path == place.path or held.is_inside(place) or within:
                    raise StateError(f"{place.path} holds {path}, which is the bridge's own; grant another directory")
        _check_shares(grant)
        for other in self.grants().values():
            if other.name != grant.name:
                _check_against(grant, other)

    def remove(self, name: str) -> bool:
        """Forget a grant. Its sessions stay, so that granting it again finds them."""
        try:
            (self.root / "registry" / name).unlink()
        except FileNotFoundError:
            return False
        return True

    def forget(self, name: str) -> None:
        """Remove the directories of a grant that is no more; StateError when something stays.

        No container may mount one of them any longer.
        """
        directories = self.directory(name), self.root / "private" / name
        failed = [f"{directory} ({why})" for directory in directories if (why := trees.remove(directory))]
        if failed:
            raise StateError(f"what grant {name} kept is not gone; remove {' and '.join(failed)} by hand")

    def directory(self, name: str) -> Path:
        """What a container with this grant mounts."""
        return self.root / "grants" / name

    def private(self, grant: Grant) -> Path:
        """The conversations of a grant on its workspace, belonging to the user that its calls run as.

        By name and workspace: a name that is used again for another project brings no conversation along.
        """
        key = hashlib.sha256(os.fsencode(grant.workspace)).hexdigest()[:16]
        above = self.root / "private" / grant.name
        own_directory(above, 0o711)
        directory = above / key
        own_directory(directory, 0o711)
        for path in (directory / name for name in KEPT):
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
            if path.is_symlink() or not path.is_dir():
                raise StateError(f"{path} is not the directory that it should be; move it away")
            if (path.stat().st_uid, path.stat().st_gid) != grant.user:
                os.chown(path, *grant.user, follow_symlinks=False)
        return directory

    def scratch(self) -> Path:
        """A directory for one call, in which nobody else can look around."""
        return Path(tempfile.mkdtemp(dir=self.root / "scratch", prefix="c"))

    def clean(self) -> None:
        """Remove what calls of a server that was killed have left."""
        for path in (self.root / "scratch").iterdir():
            trees.remove(path)  # ignored when it fails because a server that does not start would be worse


def _check_shares(grant: Grant) -> None:
    """Refuse shares within each other or the workspace, on the host or in the container.

    A link that a container puts into the outer one would lead the mount of the inner one elsewhere.
    """
    targets = sorted(share.target + "/" for share in grant.shares)
    for outer, inner in itertools.pairwise(targets):
        if inner.startswith(outer):
            raise StateError(f"the share at {inner[:-1]} lies inside the one at {outer[:-1]}; choose another directory")
    for share in grant.shares:
        for place, writes in grant.places:
            if share.source.is_inside(place) and (writes or not share.readonly):
                raise StateError(f"the share {share.source.path} lies inside {place.path}; share one of them")
        if grant.place.is_inside(share.source) and not share.readonly:
            raise StateError(f"the workspace lies inside the share {share.source.path}; add :ro, or leave it out")


def _check_against(grant: Grant, other: Grant) -> None:
    """Refuse a grant that could exchange directories of another one, or the other way round."""
    for mine, i_write in grant.places:
        for theirs, they_write in other.places:
            if not (i_write or they_write):
                continue
            for inner, outer in ((mine, theirs), (theirs, mine)):
                if inner.is_inside(outer):
                    raise StateError(
                        f"{mine.path} cannot be granted: {inner.path} lies inside {outer.path}, and grant {other.name} "
                        f"has {theirs.path}; grant separate directories, or revoke {other.name}"
                    )


def own_directory(path: Path, mode: int, or_else: int | None = None) -> None:
    """Make a directory, or make sure that an existing one is really ours; never follow a link."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=mode)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise StateError(f"{path} is not a directory; move it away")
    if found.st_uid != os.geteuid():
        raise StateError(f"{path} belongs to user {found.st_uid}; move it away or choose another with --state")
    if stat.S_IMODE(found.st_mode) not in (mode, or_else):
        path.chmod(mode)


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file so that a reader sees the old or the new one, and nobody else ever sees it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)
    temporary.replace(path)
