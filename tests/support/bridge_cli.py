"""The real Claude CLI in two versions. The test session installs each of them once for the whole project."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import shutil
import subprocess
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "claude-cli"
PACKAGE = "@anthropic-ai/claude-code"

OLDEST = "2.1.197"
"""What `npm install` chooses for Node 20."""

NEWEST = "latest"

VERSIONS = (OLDEST, NEWEST)


@functools.cache
def installed(version: str) -> Path:
    """Return the CLI's program in that version. Several test processes may ask at once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        exact = _newest() if version == NEWEST else version
        directory = CACHE / exact
        if not directory.exists():
            _install(exact, directory)
    return (directory / "node_modules" / PACKAGE / "bin" / "claude.exe").resolve()


def version_of(program: Path) -> str:
    """Return the exact version of a program that `installed` has returned, or the path of another one."""
    return program.relative_to(CACHE).parts[0] if program.is_relative_to(CACHE) else str(program)


def _newest() -> str:
    """Return the newest version on npm, or the newest that is installed when npm cannot be reached."""
    done = _npm("view", PACKAGE, "version", "--json")
    if done.returncode == 0:
        return str(json.loads(done.stdout))
    here = [path.name for path in CACHE.iterdir() if path.is_dir() and path.name[0].isdigit()]
    assert here, done.stderr
    return max(here, key=lambda name: [int(part) for part in name.split(".")])


def _install(version: str, directory: Path) -> None:
    """Install under a temporary name, and rename when the install is complete."""
    temporary = CACHE / f".{version}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    (temporary / "package.json").write_text("{}")
    done = _npm("install", "--prefix", str(temporary), "--no-fund", "--no-audit", f"{PACKAGE}@{version}")
    assert done.returncode == 0, done.stderr
    temporary.rename(directory)


def _npm(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["npm", *words], capture_output=True, text=True, timeout=600, check=False)
