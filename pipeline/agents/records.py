"""The records of which agent has which folder: a file for each pair of name and folder, beside the bridge's grants."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline import bridge
from pipeline.agents.settings import Settings
from pipeline.errors import Problem
from pipeline.files import replace
from pipeline.reporting import Say

UNKNOWN_BIRTH = ":0.000000000"
"""What `stat` prints where the file system keeps no time of birth."""


@dataclass(frozen=True)
class Agent:
    """An agent's name, its folder, and what it keeps."""

    name: str
    folder: str
    volume: str = ""
    """The engine's name for the volume at /agent. Empty where no engine was there to choose one."""
    identity: str = ""
    """Which directory the folder was (`identity`). Empty where that is not known."""
    earlier: tuple[str, ...] = ()
    """Where the folder was before it was moved."""
    has_name: bool = True
    """False after `up --replace` gave the name to another folder. The volume stays this folder's."""
    settings: Settings | None = None
    """What a person chose for it. None: it was not started yet, or by an earlier version."""

    def with_folder(self, folder: Path) -> Agent:
        """Return the agent after its folder was moved or replaced by another one at the same path."""
        before = () if self.folder == str(folder) else (self.folder,)
        earlier = tuple(path for path in (*self.earlier, *before) if path != str(folder))
        return dataclasses.replace(self, folder=str(folder), identity=identity(folder), earlier=earlier)


def identity(folder: Path) -> str:
    """Return what tells one directory from every other, also after it was moved; empty where nothing does.

    An inode's number is given to a new directory as soon as the old one is gone, so its time of birth counts, too.
    """
    command = ["stat", "--dereference", "--format", "%d:%i:%.9W", str(folder)]
    try:
        found = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""
    return "" if found.endswith(UNKNOWN_BIRTH) else found


def every() -> list[Agent]:
    """Return what is recorded of all agents of this user."""
    found = []
    for path in sorted(_directory().glob("*.json")):
        try:
            said = json.loads(path.read_text())
            kept = said.get("settings")
            settings = None if kept is None else Settings.read(kept)
            found.append(Agent(**{**said, "earlier": tuple(said["earlier"]), "settings": settings}))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Problem(f"{path}, the record of an agent's name, cannot be read; remove it and try again") from None
    return found


def write(agent: Agent) -> None:
    """Record an agent."""
    replace(_path(agent), json.dumps(dataclasses.asdict(agent)))


def named(name: str) -> Agent | None:
    """Return the record of the agent that has a name."""
    return next((agent for agent in every() if agent.name == name and agent.has_name), None)


def remove(agent: Agent) -> None:
    """Remove the record of an agent, if there is one."""
    _path(agent).unlink(missing_ok=True)


def _path(agent: Agent) -> Path:
    return _directory() / f"{agent.name}.{key(agent.folder)}.json"


def key(folder: str) -> str:
    """Return a short word that stands for a folder's path."""
    return hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]


def _directory() -> Path:
    return bridge.own_directory("agents")


@contextmanager
def turn(file: str, say: Say) -> Iterator[int]:
    """Wait until no other command of this user is at the same thing. Yields the lock's descriptor.

    A process that inherits the descriptor holds the lock as well, also after this one was killed.
    """
    path = _directory() / file
    while True:
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("another command is at work on this; waiting for it ...")
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_at(lock, path):
                continue  # it was removed with its agent (`remove_lock`), so it keeps nobody out
            yield lock.fileno()
            return


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def is_taken(file: str) -> bool:
    """Say whether a command of this user is at the thing (`turn`)."""
    try:
        with (_directory() / file).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def remove_lock(file: str) -> None:
    """Remove the file of a lock that this process holds. Those who wait for it take a new one."""
    (_directory() / file).unlink(missing_ok=True)
