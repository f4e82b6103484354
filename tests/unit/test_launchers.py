"""The launchers: they use a complete environment at once, notice a broken or old one, and report an old Python."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone whose make-venv only records that it was called, and makes what the launcher looks for."""
    root = tmp_path / "a clone"
    for name in ("bin", "requirements"):
        shutil.copytree(ROOT / name, root / name, symlinks=True)
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / "bin" / "make-venv").write_text(
        "import pathlib, sys\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "tool = root / '.venv' / 'bin' / 'invoke'\n"
        "tool.parent.mkdir(parents=True, exist_ok=True)\n"
        "tool.write_text('#!/bin/sh\\necho ran \"$@\"\\n')\n"
        "tool.chmod(0o755)\n"
        "locks = [(root / n).read_text() for n in ('requirements/tests.txt', 'pyproject.toml')]\n"
        "(root / '.venv' / 'made-from').write_text(f'# {root}\\n' + ''.join(locks))\n"
        "print('made')\n"
    )
    return root


def call(root: Path, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": path or os.environ["PATH"]}
    return subprocess.run([root / "bin" / "invoke", *arguments], capture_output=True, text=True, env=environment)


def test_first_call_makes_the_environment_and_runs_the_tool(clone: Path) -> None:
    assert call(clone, "x y").stdout == f"made\nran --search-root {clone} --write-pyc x y\n"


def test_second_call_only_runs_the_tool(clone: Path) -> None:
    call(clone)
    assert "made" not in call(clone).stdout


@pytest.mark.parametrize("changed", ["requirements/tests.txt", "pyproject.toml", ".venv/made-from"])
def test_change_is_noticed(clone: Path, changed: str) -> None:
    call(clone)
    with (clone / changed).open("a") as file:
        file.write("# changed\n")
    assert call(clone).stdout.startswith("made\n")


@pytest.mark.parametrize("missing", [".venv/made-from", ".venv/bin/invoke"])
def test_interrupted_environment_is_made_anew(clone: Path, missing: str) -> None:
    call(clone)
    (clone / missing).unlink()
    assert call(clone).stdout.startswith("made\n")


def test_moved_clone_is_noticed(clone: Path) -> None:
    call(clone)
    moved = clone.rename(clone.parent / "moved")
    assert call(moved).stdout.startswith("made\n")


def test_too_old_a_python_is_one_line(clone: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "dirname", "basename", "cat", "cmp"):
        (tools / name).symlink_to(shutil.which(name) or "")
    old = tools / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.2 || exit 1\n')
    old.chmod(0o755)
    done = call(clone, path=str(tools))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "invoke: Python 3.11 or newer is needed and this machine has Python 3.9.2; "
        "install python3.11 or put a newer python3 on PATH"
    ]
