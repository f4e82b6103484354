"""Files of Git LFS: which of them a branch needs, and how they pass between a person and an agent's clone.

Git itself passes only their pointers. A file is named by the SHA-256 of its content, which is checked on arrival.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from pipeline.agents.host_git import Git, User
from pipeline.errors import Problem

POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-.*\n)*oid sha256:([0-9a-f]{64})\nsize ([0-9]{1,15})\n"
)
MAX_POINTER = 1024
PIECE = 1 << 20
KEEP = 'umask 022; mkdir -p "$1" && cat > "$1/.$2.new" && mv "$1/.$2.new" "$1/$2"'
"""Stores one file in the person's repository, as the person."""


def place_of(oid: str) -> str:
    """Return where LFS keeps a file, below `objects`."""
    return f"{oid[:2]}/{oid[2:4]}/{oid}"


def needed(git: Git, *revisions: str) -> dict[str, int]:
    """Return the large files that commits point to: sizes by name."""
    listed = git.run("rev-list", "--objects", "--no-object-names", *revisions, "--")
    facts = git.run("cat-file", "--batch-check=%(objectname) %(objecttype) %(objectsize)", given=listed)
    small = [
        line.split()[0]
        for line in facts.splitlines()
        if line.split()[1:2] == [b"blob"] and int(line.split()[2]) <= MAX_POINTER
    ]
    contents = git.run("cat-file", "--batch", given=b"".join(each + b"\n" for each in small)) if small else b""
    return {found[1].decode(): int(found[2]) for found in POINTER.finditer(contents)}


def missing(objects: Path, names: Iterable[str]) -> list[str]:
    """Return which files a directory of LFS lacks."""
    return [name for name in names if not (objects / place_of(name)).is_file()]


def keep(stream: IO[bytes], oid: str, size: int, objects: Path, user: User) -> None:
    """Read one file and store it in the person's repository. Raises a `Problem` if it is another one."""
    with tempfile.TemporaryFile() as file:
        digest, left = hashlib.sha256(), size
        while left and (piece := stream.read(min(PIECE, left))):
            digest.update(piece)
            file.write(piece)
            left -= len(piece)
        if left or digest.hexdigest() != oid:
            raise Problem(
                f"the agent's clone has no whole file {oid[:12]} of Git LFS; it and those after it did not come"
            )
        file.flush()
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        place = objects / Path(place_of(oid)).parent
        command = ["/bin/sh", "-c", KEEP, "sh", str(place), oid]
        done = subprocess.run(command, stdin=file, capture_output=True, cwd="/", **user.switch)
        if done.returncode:
            raise Problem(f"a file of Git LFS could not be stored in {objects}: {done.stderr.decode(errors='replace')}")
