"""Both Agent SDKs, installed from their locks by the test session and mounted into containers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.installed_once import installed_once

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
CACHE = ROOT / ".cache" / "agent-sdk"
PYTHON_LOCK = ROOT / "requirements" / "agent-sdk.txt"
MOUNT = "/sdk"
PLAYS = ("package.json", "package-lock.json", "play.py", "play.mjs", "mcp.mjs")
PROGRAMS = sorted(path.name for path in (HERE / "programs").iterdir() if path.suffix in (".py", ".mjs"))
"""Programs as people write them. The model does what lines such as `USE Bash {"command": "ls"}` in a prompt say."""

SCENES = {
    "python": ["env", f"PYTHONPATH={MOUNT}/python", "python3", f"{MOUNT}/play.py"],
    "javascript": ["node", f"{MOUNT}/play.mjs"],
}
"""The command with which a container plays a scene with each of them. The scene's name follows."""


def installed() -> Path:
    """Return the directory to mount at `MOUNT`. It is made once for each state of the locks and the plays."""
    sources = [PYTHON_LOCK, *(HERE / name for name in PLAYS), *(HERE / "programs" / name for name in PROGRAMS)]
    return installed_once(CACHE, sources, lambda where: _install(where, sources[1:]))


def command(program: str) -> list[str]:
    """Return the command line that runs a program in a container."""
    if program.endswith(".py"):
        return ["env", f"PYTHONPATH={MOUNT}/python", "python3", f"{MOUNT}/{program}"]
    return ["node", f"{MOUNT}/{program}"]


def _install(where: Path, files: list[Path]) -> None:
    for path in files:
        shutil.copy(path, where)
    # The source distribution holds no CLI, so the SDK finds `claude` on PATH. The wheel would add 365 MB.
    uv = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "install",
        "--quiet",
        "--no-config",
        "--compile-bytecode",
        "--target",
        str(where / "python"),
    ]
    lock = ["--require-hashes", "--no-binary", "claude-agent-sdk", "-r", str(PYTHON_LOCK)]
    _run(*uv, "--python-version", "3.11", *lock)
    _run("npm", "ci", "--prefix", str(where), "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
