"""Directories that the test session makes once for each state of the files that they are made from."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path


def installed_once(cache: Path, sources: Iterable[Path], make: Callable[[Path], None]) -> Path:
    """Return a directory below `cache` that `make` has filled. Several test processes may ask at once."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        directory = cache / digest
        if not directory.exists():
            shutil.rmtree(cache / "new", ignore_errors=True)
            (cache / "new").mkdir()
            make(cache / "new")
            (cache / "new").rename(directory)
    return directory
