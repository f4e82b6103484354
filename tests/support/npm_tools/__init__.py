"""Programs of npm that people use with an agent: the dev container CLI, Playwright, Puppeteer; from their lock."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.support.installed_once import installed_once

HERE = Path(__file__).parent
CACHE = HERE.parents[2] / ".cache" / "npm-tools"
FILES = ("package.json", "package-lock.json", "titles.cjs")
MOUNT = "/tools"
"""Where a container has them, so that `node /tools/titles.cjs` finds its packages."""


def installed() -> Path:
    """Return the directory to mount at `MOUNT`. It is made once for each state of the lock and the program."""
    return installed_once(CACHE, [HERE / name for name in FILES], _install)


def _install(where: Path) -> None:
    for name in FILES:
        shutil.copy(HERE / name, where)
    quiet = ["--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run(["npm", "ci", *quiet], cwd=where, check=True, timeout=600)


def dev_container(command: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run VS Code's dev container CLI on a project."""
    program = installed() / "node_modules" / "@devcontainers" / "cli" / "devcontainer.js"
    line = ["node", str(program), command, "--workspace-folder", str(folder), *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
