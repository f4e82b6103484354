"""Gives the user of `--user` a name, through libnss-extrausers, and reports in one line what will not work.

The library ignores entries with a uid or gid below 500. Its two files are links into /agent/run, which is writable even
with a read-only root.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING

from agent import numbering
from agent.files import make_way, replace

if TYPE_CHECKING:
    from agent.files import Report

EXTRA = Path("/var/lib/extrausers")
LEAST_ID = 500


def introduce(home: str, report: Report) -> str | None:
    """Give this process' user a name where it has none. Returns what will not work for this user, if anything."""
    uid, gid = os.getuid(), os.getgid()
    for file in ("passwd", "group"):  # a pipe here would block every look-up of a name, in this and all other programs
        with contextlib.suppress(OSError):  # ignored because `prepare` has reported what is wrong with /agent
            make_way(_target(EXTRA / file), report)
    known = _known(uid)
    if uid == 0:
        if not numbering.of_users().is_hosts:
            return None
        return "this agent runs as root (0): what it writes to /workspace will belong to root on the host"
    if known is not None and known.pw_name != _name(uid):
        if known.pw_dir == home:
            return None
        return f"user {known.pw_name} ({uid}): ssh looks for keys in {known.pw_dir}/.ssh, not in {home}/.ssh"
    if uid < LEAST_ID:
        return (
            f"user {uid}:{gid} has no name, as ids below {LEAST_ID} cannot be given one: whoami, ssh and "
            f"Node's os.userInfo() fail; start with `--user UID:GID` from {LEAST_ID} up"
        )
    group = gid if gid >= LEAST_ID else uid
    if known is None or (known.pw_gid, known.pw_dir) != (group, home):
        try:
            _write_entries(uid, group, home, report)
        except OSError as error:
            return (
                f"user {uid}:{gid} has no name, because {error.filename} cannot be written: whoami, ssh and "
                "Node's os.userInfo() fail; mount a volume at /agent that it may write"
            )
    return None if group == gid else _note_on_group(uid, gid)


def own_name() -> str:
    """Return the name of this process' user, or an empty text."""
    found = _known(os.getuid())
    return found.pw_name if found else ""


def _known(uid: int) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return None


def _write_entries(uid: int, group: int, home: str, report: Report) -> None:
    replace(_target(EXTRA / "passwd"), f"{_name(uid)}:x:{uid}:{group}:Agent {uid}:{home}:/bin/bash\n", report)
    try:
        grp.getgrgid(group)
    except KeyError:
        replace(_target(EXTRA / "group"), f"{_name(group)}:x:{group}:\n", report)


def _note_on_group(uid: int, gid: int) -> str:
    return (
        f"user {uid}:{gid}: group ids below {LEAST_ID} cannot be in its passwd entry, so that names "
        f"group {uid}; programs that look the group up there, such as newgrp, are misled"
    )


def _name(number: int) -> str:
    return f"agent{number}"


def _target(link: Path) -> Path:
    """Return the target of the image's link, which may not exist yet. Links at the target itself are not followed."""
    target = link.readlink()
    target.parent.mkdir(parents=True, exist_ok=True)
    return target
