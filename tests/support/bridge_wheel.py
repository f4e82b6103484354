"""The bridge as a wheel, and an environment that holds nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"]
NO_SOURCE = shutil.ignore_patterns(".*", "node_modules", "__pycache__", "build", "dist", "*.egg-info", "workspace")


def built(directory: Path) -> Path:
    """Build the wheel with pip from a copy of the whole tree, so that the tree itself stays clean."""
    source = directory / "source"
    shutil.copytree(ROOT, source, symlinks=True, ignore=NO_SOURCE)
    subprocess.run(
        [*PIP, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", directory, source], check=True
    )
    (wheel,) = directory.glob("*.whl")
    return wheel


def installed(wheel: Path, directory: Path) -> Path:
    """Install the wheel with pip into an empty environment. Returns the folder of its commands."""
    venv.create(directory / "venv", with_pip=False, symlinks=True)
    pip = [*PIP, "--python", str(directory / "venv" / "bin" / "python"), "install"]
    lock = directory / "pyyaml.txt"
    lock.write_text(_locked("pyyaml"))
    subprocess.run([*pip, "--require-hashes", "-r", lock], check=True)
    subprocess.run([*pip, "--no-index", wheel], check=True)  # all dependencies are installed by now
    return directory / "venv" / "bin"


def _locked(name: str) -> str:
    """Return the lines for one package in the tests' lock."""
    text = (ROOT / "requirements" / "tests.txt").read_text()
    found = re.search(rf"^{name}==.*(\n +--hash=.*)+", text, re.MULTILINE)
    assert found, f"{name} is not locked"
    return found[0]
