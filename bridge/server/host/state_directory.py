"""The state directory: created safely, and checked before use. It contains:

    lock              held by the running server
    control.sock      used by `status`, `revoke` and others to reach the server
    token             stored by `login`, mode 0600
    audit.jsonl       who called what
    usage.sqlite3     what each grant used per day and model (usage.py), mode 0600
    registry/NAME     a grant, as JSON
    grants/NAME/      what a container mounts: one socket and nothing else
    private/NAME/KEY/ the conversations of a grant on one workspace (conversations.py)
    agents/           the pipeline's records of agents' names (pipeline/agents/names.py)
    scratch/          sockets of single calls, and their configuration if there is no namespace for it

Only one server uses it at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from bridge.protocol.frames import MAX_SOCKET_PATH
from bridge.server.host import conversations, places, trees
from bridge.server.host.files import own_directory, replace_file
from bridge.server.host.grants import (
    SOCKET_NAME,
    Grant,
    Share,
    StateError,
    check_against,
    check_shares,
    parts_of_share,
    pinned,
)
from bridge.server.host.places import Place
from bridge.server.host.protected import Choice

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""Pattern of a grant's name."""


def default_root() -> Path:
    """Return the default state directory. It must survive reboots, because containers mount parts of it."""
    if chosen := os.environ.get("CLAUDE_BRIDGE_STATE"):
        return Path(chosen).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/claude-code-bridge")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "claude-code-bridge"


class StateDirectory:
    """The directory and its contents."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock: int | None = None

    @property
    def admin_socket(self) -> Path:
        """The running server's socket for the operator."""
        return self.root / "control.sock"

    @property
    def token(self) -> Path:
        """The file with the credential that `login` stored."""
        return self.root / "token"

    @property
    def usage(self) -> Path:
        """The database of what each grant used."""
        return self.root / "usage.sqlite3"

    def prepare(self) -> None:
        """Create what is missing, and refuse what another user may have planted. Raises StateError or OSError."""
        self.root.parent.mkdir(parents=True, exist_ok=True)
        own_directory(self.root, 0o700, or_else=0o711)
        for name in ("registry", "grants", "private", "scratch"):
            own_directory(self.root / name, 0o711 if name in ("private", "scratch") else 0o700)

    def open_for_owners(self) -> None:
        """Let the owners of workspaces pass through to their conversations. This is needed without a namespace.

        Sockets, token and log stay protected by their own directories and modes. Raises OSError.
        """
        self.root.chmod(0o711)

    def lock(self) -> None:
        """Become the only server of this directory, until the process ends. Raises StateError or OSError."""
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
        """Return the pid of the process that holds the lock, or None."""
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
        """Return all readable grants, by name. Raises OSError."""
        return {name: grant for name, grant in self.registered().items() if isinstance(grant, Grant)}

    def registered(self) -> dict[str, Grant | StateError]:
        """Return all grants by name. A grant that cannot be read is replaced with the error. Raises OSError."""
        names = sorted(path.name for path in (self.root / "registry").iterdir() if NAME.fullmatch(path.name))
        return {name: grant for name in names if (grant := self._read(name))}

    def workspaces(self) -> dict[str, str]:
        """Return the path of each grant's workspace, by the grant's name, where it is known. Raises OSError."""
        found = {
            name: grant.workspace if isinstance(grant, Grant) else self._workspace_of_earlier_version(name)
            for name, grant in self.registered().items()
        }
        return {name: workspace for name, workspace in found.items() if workspace}

    def _read(self, name: str) -> Grant | StateError | None:
        try:
            data = json.loads((self.root / "registry" / name).read_text())
            shares = tuple(Share(Place(**share.pop("source")), **share) for share in data["shares"])
            uid, gid = data["user"]
            earlier = tuple((int(device), int(inode)) for device, inode in data.get("earlier", ()))
            choice = Choice(**{key: tuple(map(str, paths)) for key, paths in data.get("choice", {}).items()})
            of_agent = bool(data.get("of_agent"))
            return Grant(name, Place(**data["place"]), (int(uid), int(gid)), shares, earlier, choice, of_agent)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return StateError(f"grant {name} cannot be read (of an earlier version, perhaps); grant it anew")

    def _workspace_of_earlier_version(self, name: str) -> str:
        """Return the workspace of a grant that an earlier version has registered; empty for any other."""
        try:
            found = json.loads((self.root / "registry" / name).read_text()).get("workspace")
        except (OSError, ValueError, AttributeError):
            return ""  # ignored because there is no such grant, or nothing is known of it
        return found if isinstance(found, str) else ""

    def add(self, grant: Grant, *, protected: Iterable[str | os.PathLike[str]] = ()) -> Path:
        """Register or change a grant. Returns the directory that a container mounts. Raises StateError or OSError.

        `protected` are paths that no container may write to or contain: the server's configuration, the CLI.
        """
        if not NAME.fullmatch(grant.name):
            raise StateError(f"{grant.name!r} is no name for a grant; letters, digits, dot, hyphen, underscore are")
        if os.geteuid() not in (0, grant.place.owner):
            raise StateError(f"{grant.workspace} belongs to user {grant.place.owner}; grant it as that user or as root")
        if os.geteuid() not in (0, grant.user[0]):
            raise StateError(f"this server cannot run Claude as user {grant.user[0]}; grant it as root")
        self._check_places(grant, protected)
        directory = self.prepare_mount(grant.name)
        if workspace := self._workspace_of_earlier_version(grant.name):
            conversations.adopt(self.kept, grant.name, workspace)
        replace_file(self.root / "registry" / grant.name, json.dumps(dataclasses.asdict(grant)).encode())
        return directory

    def renewed(
        self, name: str, workspace: str | os.PathLike[str], shares: Iterable[str] = (), user: str | None = None
    ) -> Grant:
        """Return a grant as the operator now asks for it. Raises StateError or OSError.

        Each of `shares` is HOSTDIR:CONTAINERDIR[:ro]. A known grant keeps its user. If the workspace's owner has
        changed since then, the operator must name the user, because a container may have caused the change.
        """
        for named in (workspace, *(parts_of_share(share)[0] for share in shares)):
            self.refuse_links_of_containers(named)
        parsed = tuple(Share.parse(share) for share in shares)
        known = self.grants().get(name)
        if user is None and known and known.workspace == os.path.realpath(workspace):
            owner = pinned(workspace).owner
            if owner != known.place.owner:
                raise StateError(
                    f"{workspace} belonged to user {known.place.owner} when it was granted, and to {owner} now; "
                    f"name whom Claude runs as: `claude-bridge-server grant {name} --workspace {workspace} --user UID`"
                )
            user = "{}:{}".format(*known.user)
        made = Grant.of(name, workspace, parsed, user)
        return made.after(known) if known else made

    def refuse_links_of_containers(self, path: str | os.PathLike[str]) -> None:
        """Refuse a path that leads through a link which a container could have made. Raises StateError."""
        for holder in places.holders_of_links(path):
            for grant in self.grants().values():
                for place, writes in grant.places:
                    if writes and (holder.identity == place.identity or holder.is_inside(place)):
                        raise StateError(
                            f"{path} leads through a link in {holder.path}, which containers of grant {grant.name} "
                            "write; name the directory itself"
                        )

    def prepare_mount(self, name: str) -> Path:
        """Create the directory that a container mounts. Raises StateError or OSError."""
        directory = self.directory(name)
        if len(os.fsencode(directory / SOCKET_NAME)) > MAX_SOCKET_PATH:
            raise StateError(f"{directory / SOCKET_NAME} is longer than {MAX_SOCKET_PATH} bytes; shorten --state")
        own_directory(directory, 0o755)
        return directory

    def _check_places(self, grant: Grant, protected: Iterable[str | os.PathLike[str]]) -> None:
        """Refuse directories that one container could replace for another one, or for this server. Raises
        StateError."""
        for path in (self.root, *protected):
            real = Path(os.path.realpath(path))
            directory = real if real.is_dir() else real.parent
            held = Place.pin(directory) if directory.is_dir() else Place(str(directory), -1, -1, -1)
            for place, _ in grant.places:
                within = path == self.root and place.is_inside(held)
                if held.identity == place.identity or held.path == place.path or held.is_inside(place) or within:
                    raise StateError(f"{place.path} holds {path}, which is the bridge's own; grant another directory")
        check_shares(grant)
        for other in self.grants().values():
            if other.name != grant.name:
                check_against(grant, other)

    def remove(self, name: str) -> bool:
        """Remove a grant. Returns whether it existed. Its conversations stay, and are found if it is granted again."""
        try:
            (self.root / "registry" / name).unlink()
        except FileNotFoundError:
            return False
        return True

    def forget(self, name: str) -> None:
        """Remove the directories of a grant that no longer exists. Raises StateError if something cannot be
        removed.

        No container may still mount one of them.
        """
        directories = self.directory(name), self.kept / name
        failed = [f"{directory} ({why})" for directory in directories if (why := trees.remove(directory))]
        if failed:
            raise StateError(f"what grant {name} kept is not gone; remove {' and '.join(failed)} by hand")

    def directory(self, name: str) -> Path:
        """Return the directory that a container with this grant mounts."""
        return self.root / "grants" / name

    @property
    def kept(self) -> Path:
        """The directory with the conversations of all grants."""
        return self.root / "private"

    def private(self, grant: Grant) -> Path:
        """Return the directory with a grant's conversations on its workspace. Raises StateError or OSError."""
        return conversations.directory(self.kept, grant)

    def scratch(self) -> Path:
        """Create a directory for one call, which other users cannot list. Raises OSError."""
        return Path(tempfile.mkdtemp(dir=self.root / "scratch", prefix="c"))

    def clean(self) -> None:
        """Remove what calls of a killed server have left."""
        for path in (self.root / "scratch").iterdir():
            trees.remove(path)  # ignored if it fails, because a server that does not start would be worse
