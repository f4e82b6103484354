"""Programs of npm that people use with an agent: the dev container CLI, Playwright, Puppeteer; from their lock."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parents[2] / ".cache" / "npm-tools"
FILES = ("package.json", "package-lock.json", "titles.cjs")
MOUNT = "/tools"
"""Where a container has them, so that `node /tools/titles.cjs` finds its packages."""


def installed() -> Path:
    """Return the directory to mount at `MOUNT`. It is made once for each state of the lock and the program."""
    digest = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in FILES)).hexdigest()[:12]
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        directory = CACHE / digest
        if not directory.exists():
            shutil.rmtree(CACHE / "new", ignore_errors=True)
            (CACHE / "new").mkdir()
            for name in FILES:
                shutil.copy(HERE / name, CACHE / "new")
            quiet = ["--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            subprocess.run(["npm", "ci", *quiet], cwd=CACHE / "new", check=True, timeout=600)
            (CACHE / "new").rename(directory)
    return directory


def dev_container(command: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run VS Code's dev container CLI on a project."""
    program = installed() / "node_modules" / "@devcontainers" / "cli" / "devcontainer.js"
    line = ["node", str(program), command, "--workspace-folder", str(folder), *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
