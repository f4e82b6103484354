"""The three volumes: how they are mounted, what must be made in them, and what is wrong when they fail.

An observation leaves no trace: it writes a file without a name (O_TMPFILE), so that no file watcher in /workspace
reacts. Every function here may block on a disk that hangs, so callers use a helper thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from agent import numbering, shared
from agent.files import make_directory, move_aside
from agent.paths import AGENT, SHARED, VOLUMES, WORKSPACE
from agent.processes import own_container
from agent.tmux import socket_path
from healthcheck.facts import VolumeStatus

if TYPE_CHECKING:
    from agent.files import Report


MADE_IN_AGENT = {"home": 0o755, "run": 0o1777, "log": 0o755, "scrollback": 0o700, "home/.ssh": 0o700}

INSTALLED = Path(AGENT, "home/.local/lib")
"""Where npm's global packages go. `npm ls -g` fails while it is missing."""

NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}
"""Errors of file systems without O_TMPFILE: NFS, 9p and other shares of a desktop's host."""


@dataclass(frozen=True)
class Mount:
    """How a volume was mounted at the start."""

    kind: str
    read_only: bool
    is_volume: bool
    root: str = field(default="", compare=False)
    """Its folder, as a path in its file system. The kernel shows a new path when the folder is moved."""


REMOVED = "//deleted"
"""What the kernel puts behind the path of a mounted folder that was removed."""


def mount_of(path: str, table: str) -> Mount:
    """Find in the text of /proc/self/mountinfo how `path` is mounted."""
    best, found = "", Mount("unknown", read_only=False, is_volume=False)
    for line in filter(None, table.split("\n")):  # a folder's name may hold any other sign that ends a line
        left, _, right = line.partition(" - ")
        fields, kind_fields = left.split(" "), right.split(" ")
        point = fields[4].replace("\\040", " ")
        inside = path == point or point == "/" or path.startswith(point + "/")
        if inside and len(point) >= len(best):
            flags = {*fields[5].split(","), *kind_fields[2].split(",")}
            best, found = point, Mount(kind_fields[0], "ro" in flags, point == path, fields[3])
    return found


def mounts() -> dict[str, Mount]:
    """Return how the volumes are mounted now."""
    table = mount_table()
    return {path: mount_of(path, table) for path in VOLUMES}


def mount_table() -> str:
    """Return the text of /proc/self/mountinfo."""
    return Path("/proc/self/mountinfo").read_bytes().decode(errors="surrogateescape")


def prepare(home: str) -> list[str]:
    """Make the directories of /agent. Returns a line for each thing that was in the way or could not be made."""
    lines: list[str] = []
    for name, mode in MADE_IN_AGENT.items():
        path = Path(AGENT, name)
        try:
            make_directory(path, mode, lines.append)
        except OSError as error:
            return [*lines, f"{path} cannot be made: {error.strerror}; {remedy(AGENT)}"]  # the others would fail too
    if not os.access(home, os.W_OK):
        return [*lines, f"the home {home} cannot be written by {_self()}; {remedy(AGENT)}"]
    try:
        _clear_the_way_for_tmux(Path(home), lines.append)
    except OSError as error:
        lines.append(f"{error.filename} is in tmux's way and cannot be moved: {error.strerror}; {remedy(AGENT)}")
    with contextlib.suppress(OSError):  # ignored because the first installation makes it, or says why it cannot
        INSTALLED.mkdir(parents=True, exist_ok=True)
    _share()
    return lines


def _clear_the_way_for_tmux(home: Path, report: Report) -> None:
    """Move aside what is in the way of tmux's socket and configuration. tmux would block on a pipe there."""
    socket = socket_path()
    if os.path.lexists(socket.parent):
        make_directory(socket.parent, 0o700, report, link=False)
        if socket.is_dir():
            move_aside(socket, "a directory and no socket", report)
    configured = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    for file in (home / ".tmux.conf", configured / "tmux" / "tmux.conf", home / ".config" / "tmux" / "tmux.conf"):
        if file.exists() and not file.is_file():  # a link to a file is valid too
            move_aside(file, "no file", report)


def _share() -> None:
    """Let other agents use what is made in /shared, where it belongs to this user and the group (a new volume)."""
    with contextlib.suppress(OSError):  # ignored because the volumes check says what is wrong with /shared
        fd = os.open(SHARED, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found = os.fstat(fd)
            if (found.st_uid, found.st_gid) == (os.getuid(), shared.GROUP):
                shared.share_out(fd)
        finally:
            os.close(fd)


def observe(path: str, mount: Mount) -> VolumeStatus:
    """Find out whether a volume can be read and, unless it was mounted read-only, written."""
    problem, total, free, files, free_files = replacement(path, mount, mount_table()), 0, 0, 0, 0
    try:
        with os.scandir(path) as entries:
            next(entries, None)
        sizes = os.statvfs(path)
        total, free = sizes.f_blocks * sizes.f_frsize, sizes.f_bavail * sizes.f_frsize
        files, free_files = sizes.f_files, sizes.f_favail
        if path == AGENT or not mount.read_only:
            write_nameless(path)
    except OSError as error:
        problem = problem or sentence(path, error, mount)
    return VolumeStatus(path, mount.kind, mount.read_only, problem, total, free, files, free_files)


def replacement(path: str, mount: Mount, table: str) -> str:
    """Describe what happened to the mounted folder on the host. Returns an empty text if it is where it was.

    A container keeps the folder that was mounted, also when another one is put in its place. `table` is the text of
    /proc/self/mountinfo.
    """
    now = mount_of(path, table).root
    if now.endswith(REMOVED):
        return _replaced(path, "removed")
    return _replaced(path, "moved away") if mount.root and now != mount.root else ""


def _replaced(path: str, what: str) -> str:
    return (
        f"{path} was replaced on the host: this container still has the folder that was {what} there; type "
        f"`bin/invoke up` on the host, or `docker restart {own_container()}`, to get what is at its place now; if the "
        "folder was only moved, name it with `bin/invoke up --workspace`"
    )


def write_nameless(path: str) -> None:
    """Write a block into a file without a name, which disappears when it is closed."""
    try:
        fd = os.open(path, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in NO_TMPFILE:
            raise
        _check_without_writing(path)
        return
    try:
        os.write(fd, b"\0" * 4096)
    finally:
        os.close(fd)


def sentence(path: str, error: OSError, mount: Mount) -> str:
    """Describe what is wrong with a volume, and how to repair it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{path} is full; free space in it, or give it a larger volume"
    if error.errno == errno.EROFS:
        if mount.read_only:
            return f"{path} is mounted read-only; mount it so that it can be written"
        return f"{path} turned read-only, which file systems do after an error; see the host's kernel log"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{path} cannot be used by {_self()}, its owner is {_owner(path)}; {remedy(path)}"
    if error.errno in (errno.ENOENT, errno.ESTALE):
        return _replaced(path, "removed")
    return f"{path} is broken: {error.strerror}; see the volume's driver and the host's kernel log"


def remedy(path: str) -> str:
    """Return what to type so that this user can write to a volume."""
    if path == WORKSPACE:
        return _remedy_for_workspace(_owner(path))
    if path == SHARED and _owner(path).endswith(f":{shared.GROUP}") and shared.GROUP not in os.getgroups():
        return f"start the container with `--group-add {shared.GROUP}`, the group of all agents"
    # The whole path, because PATH begins with a folder of the agent's, and root would run what is in it.
    return (
        f"run `docker run --rm --user 0 --volumes-from {own_container()} --entrypoint /usr/local/bin/init-volumes "
        f"magents/agent {_self()}` and start again"
    )


def _remedy_for_workspace(owner: str) -> str:
    """Return what to type so that this user can write to a folder of the host. `owner` is UID:GID in this container."""
    users, groups = numbering.of_users(), numbering.of_groups()
    if users.is_hosts and owner.startswith("0:"):
        return f"on the host run `sudo chown {_self()} DIRECTORY` on what is mounted there"
    if owner != "unknown" and users.has(int(owner.partition(":")[0])):
        return f"start the container with `--user {owner}`"
    if users.is_rootless:  # every other user of the container is nobody on the host
        return f"on the host run `sudo chown {users.on_host(0)} DIRECTORY`, and start the container with `--user 0:0`"
    ids = f"{users.on_host(os.getuid())}:{groups.on_host(os.getgid())}"
    return f"on the host run `sudo chown {ids} DIRECTORY`: the engine gives this user these numbers there"


def _check_without_writing(path: str) -> None:
    if not os.access(path, os.W_OK):
        raise OSError(errno.EROFS if os.statvfs(path).f_flag & os.ST_RDONLY else errno.EACCES, "not writable")
    if os.statvfs(path).f_bavail == 0:
        raise OSError(errno.ENOSPC, "full")


def _owner(path: str) -> str:
    try:
        found = os.stat(path)  # noqa: PTH116 - like the other calls of os here
    except OSError:
        return "unknown"
    return f"{found.st_uid}:{found.st_gid}"


def _self() -> str:
    return f"{os.getuid()}:{os.getgid()}"
