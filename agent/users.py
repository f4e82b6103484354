"""A name for whoever `--user` says, through libnss-extrausers, and one line about what will not work.

The library ignores entries whose uid or gid is below 500. /var/lib/extrausers/{passwd,group} are links into
/agent/run, which is writable even under a read-only root.
"""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

EXTRA = Path("/var/lib/extrausers")
LEAST_ID = 500
AGENT_UID = 1000


def introduce(home: str) -> str | None:
    """Give this process' user a name where it has none; return what will not work for it, if anything."""
    uid, gid = os.getuid(), os.getgid()
    try:
        known = pwd.getpwuid(uid)
    except KeyError:
        known = None
    if uid == 0:
        return "this agent runs as root (0): what it writes to /workspace will belong to root on the host"
    if known is not None and known.pw_name == _name(uid):
        return _note_on_group(uid, gid)
    if known is not None:
        if known.pw_dir == home or uid == AGENT_UID:
            return None
        return f"user {known.pw_name} ({uid}): ssh looks for keys in {known.pw_dir}/.ssh, not in {home}/.ssh"
    if uid < LEAST_ID:
        return (
            f"user {uid}:{gid} has no name, as ids below {LEAST_ID} cannot be given one: whoami, ssh and Node's "
            f"os.userInfo() fail; start with `--user UID:GID` from {LEAST_ID} up"
        )
    try:
        _write_entries(uid, gid, home)
    except OSError as error:
        return (
            f"user {uid}:{gid} has no name, because {error.filename} cannot be written: whoami, ssh and Node's "
            "os.userInfo() fail; mount a volume it may write at /agent"
        )
    return _note_on_group(uid, gid)


def _write_entries(uid: int, gid: int, home: str) -> None:
    group = gid if gid >= LEAST_ID else uid
    _replace(_target(EXTRA / "passwd"), f"{_name(uid)}:x:{uid}:{group}:Agent {uid}:{home}:/bin/bash\n")
    try:
        grp.getgrgid(group)
    except KeyError:
        _replace(_target(EXTRA / "group"), f"{_name(group)}:x:{group}:\n")


def _note_on_group(uid: int, gid: int) -> str | None:
    if gid >= LEAST_ID:
        return None
    return (
        f"user {uid}:{gid}: group ids below {LEAST_ID} cannot be in its passwd entry, which names group {uid} "
        f"instead; programs that look the group up there, such as newgrp, are misled"
    )


def _name(number: int) -> str:
    return f"agent{number}"


def _target(link: Path) -> Path:
    return link.readlink() if link.is_symlink() else link


def _replace(path: Path, text: str) -> None:
    """Write whole or not at all: the reader is every process that asks for a name."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text)
    fresh.replace(path)
