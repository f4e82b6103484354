"""The state directory: made safely, verified before use; grants; one server at a time.

lock              held by the server that runs
control.sock      where `status`, `revoke` and the like reach it
token             what `login` stored, 0600
audit.jsonl       who called what
registry/NAME     a grant, as JSON
grants/NAME/      what a container mounts: one socket and nothing else
private/NAME/     the sessions of a grant, as the workspace's owner
scratch/          sockets of single calls, and their configuration when there is no namespace to hold it
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path

from bridge.policy.scope import WORKSPACE

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
    "/etc",
    "/proc",
    "/dev",
    "/sys",
    "/opt",
    "/claude",
)


class StateError(Exception):
    """The state directory or a grant cannot be used; the text is one line."""


@dataclasses.dataclass(frozen=True)
class Share:
    """A further directory of the host's that one grant's calls see."""

    source: str
    target: str
    readonly: bool = False

    @classmethod
    def parse(cls, text: str) -> Share:
        """Read HOSTDIR:CONTAINERDIR[:ro]."""
        source, colon, rest = text.partition(":")
        target, _, mode = rest.partition(":")
        if not colon or mode not in ("", "ro", "rw") or not source.startswith("/") or not target.startswith("/"):
            raise StateError(f"--share {text!r}: HOSTDIR:CONTAINERDIR[:ro] with two absolute paths is allowed")
        target = os.path.normpath(target)
        if target == "/" or any((target + "/").startswith(taken + "/") for taken in (*RESERVED, WORKSPACE)):
            raise StateError(f"--share {text!r}: {target} belongs to the namespace itself; choose another directory")
        return cls(os.path.realpath(source), target, mode == "ro")


@dataclasses.dataclass(frozen=True)
class Grant:
    """Who holds its socket may use the host's Claude on this workspace."""

    name: str
    workspace: str
    shares: tuple[Share, ...] = ()

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode of the workspace as it is now; StateError when it is gone."""
        try:
            found = Path(self.workspace).stat()
        except OSError as error:
            raise StateError(f"the workspace of grant {self.name} is gone ({error.strerror})") from None
        return found.st_dev, found.st_ino

    @property
    def problem(self) -> str:
        """Why its calls would be refused now, or nothing."""
        try:
            _ = self.identity
        except StateError as error:
            return str(error)
        return ""

    @property
    def owner(self) -> tuple[int, int]:
        """User and group that the workspace belongs to."""
        found = Path(self.workspace).stat()
        return found.st_uid, found.st_gid


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
        """All grants, by name."""
        names = sorted(path.name for path in (self.root / "registry").iterdir() if NAME.fullmatch(path.name))
        return {name: grant for name in names if (grant := self._read(name))}

    def _read(self, name: str) -> Grant | None:
        try:
            data = json.loads((self.root / "registry" / name).read_text())
            return Grant(name, data["workspace"], tuple(Share(**share) for share in data["shares"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StateError(f"the grant {name} cannot be read: {error}") from None

    def add(self, grant: Grant) -> Path:
        """Register a grant, or change one; the directory that a container mounts."""
        if not NAME.fullmatch(grant.name):
            raise StateError(f"{grant.name!r} is no name for a grant; letters, digits, dot, hyphen, underscore are")
        for path in (grant.workspace, *(share.source for share in grant.shares)):
            if not Path(path).is_dir():
                raise StateError(f"{path} is no directory")
        if os.geteuid() not in (0, grant.owner[0]):
            raise StateError(f"{grant.workspace} belongs to user {grant.owner[0]}; grant it as that user or as root")
        directory = self.directory(grant.name)
        if len(os.fsencode(directory / SOCKET_NAME)) > MAX_SOCKET_PATH:
            raise StateError(f"{directory / SOCKET_NAME} is longer than {MAX_SOCKET_PATH} bytes; shorten --state")
        own_directory(directory, 0o755)
        replace_file(self.root / "registry" / grant.name, json.dumps(dataclasses.asdict(grant)).encode())
        return directory

    def remove(self, name: str) -> bool:
        """Forget a grant. Its sessions stay, so that granting it again finds them."""
        try:
            (self.root / "registry" / name).unlink()
        except FileNotFoundError:
            return False
        return True

    def forget(self, name: str) -> None:
        """Remove the directories of a grant that is no more. No container may mount one of them any longer."""
        for directory in (self.directory(name), self.root / "private" / name):
            shutil.rmtree(directory, ignore_errors=True)  # ignored because there may have been no call yet

    def directory(self, name: str) -> Path:
        """What a container with this grant mounts."""
        return self.root / "grants" / name

    def private(self, grant: Grant) -> Path:
        """The grant's sessions, belonging to the workspace's owner."""
        directory = self.root / "private" / grant.name
        uid, gid = grant.owner
        for path in (directory, *(directory / name for name in KEPT)):
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
            if path.is_symlink() or not path.is_dir():
                raise StateError(f"{path} is not the directory that it should be; move it away")
            if (path.stat().st_uid, path.stat().st_gid) != (uid, gid):
                os.chown(path, uid, gid, follow_symlinks=False)
        return directory

    def scratch(self) -> Path:
        """A directory for one call, in which nobody else can look around."""
        return Path(tempfile.mkdtemp(dir=self.root / "scratch", prefix="c"))

    def clean(self) -> None:
        """Remove what calls of a server that was killed have left."""
        for path in (self.root / "scratch").iterdir():
            shutil.rmtree(path, ignore_errors=True)


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
