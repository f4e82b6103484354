"""The walk of init-volumes while names change during the walk. tests/image tests what it does as root."""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "docker" / "init-volumes"
NESTED = 3000
FEW_DESCRIPTORS = 5


def load() -> Any:
    """Import the program, whose name has no suffix."""
    loader = importlib.machinery.SourceFileLoader("init_volumes", str(PROGRAM))
    spec = importlib.util.spec_from_loader("init_volumes", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


program = load()


def walk(path: Path, meanwhile: Callable[[Path], None] = lambda _path: None) -> tuple[Any, set[str]]:
    """Walk a tree for its owner. `meanwhile` is called with each directory just before it is read."""
    places: set[str] = set()

    class Watched(program.Walk):  # type: ignore[misc,name-defined]
        def entries(self, fd: int) -> Any:
            with contextlib.suppress(OSError):  # ignored because a path may be longer than readlink() can return
                place = Path(f"/proc/self/fd/{fd}").readlink()
                meanwhile(place)
                places.add(str(place))
            return super().entries(fd)

    found = path.stat()
    made = Watched(str(path), found.st_uid, found.st_gid)
    made.run()
    return made, places


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A volume with two branches, beside a directory that is not in it."""
    for place in ("agent/a/b/c", "agent/x/y", "outside/a/b", "outside/victim"):
        (tmp_path / place).mkdir(parents=True)
    return tmp_path / "agent"


def test_every_directory_is_looked_into_once(tree: Path) -> None:
    made, places = walk(tree)
    assert places == {str(tree), *(str(path) for path in tree.rglob("*"))}
    assert (made.seen, made.changed, made.troubles) == (6, 0, 0)


def test_directory_moved_out_meanwhile_leads_nowhere_else(tree: Path) -> None:
    outside = tree.parent / "outside"

    def move(path: Path) -> None:
        if path == tree / "a" / "b":
            path.rename(outside / "b")

    made, places = walk(tree, move)
    assert str(outside) not in places
    assert str(outside / "victim") not in places
    assert str(tree / "x" / "y") in places  # the walk began again and saw the rest
    assert made.troubles == 0


def test_directories_moved_again_and_again_end_in_one_line(tree: Path) -> None:
    def move(path: Path) -> None:
        if path.name == "c":
            path.rename(tree / "x" / "c" if path.parent.name == "b" else tree / "a" / "b" / "c")

    made, _ = walk(tree, move)
    assert made.first_trouble == f"{tree}: directories were moved about meanwhile"


def test_link_put_in_a_directorys_place_is_not_followed(tree: Path) -> None:
    outside = tree.parent / "outside"

    def swap(path: Path) -> None:
        if path == tree:
            return
        for name in ("a", "x"):
            if (tree / name).is_dir() and not (tree / name).is_symlink():
                (tree / name).rename(tree / f"{name}-old")
                (tree / name).symlink_to(outside)

    _, places = walk(tree, swap)
    assert not any(place.startswith(str(outside)) for place in places)


def test_few_descriptors_are_open_at_any_depth(tmp_path: Path) -> None:
    top = tmp_path / "agent"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(NESTED):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    most = 0

    def count(_path: Path) -> None:
        nonlocal most
        most = max(most, len(os.listdir("/proc/self/fd")) - before)  # noqa: PTH208

    made, _ = walk(top, count)
    subprocess.run(["rm", "-r", str(top)], check=True)  # too deep for pytest's own removal
    assert made.seen == NESTED + 1
    assert most <= FEW_DESCRIPTORS


def test_name_that_steers_terminals_is_told_without_its_sequence(tree: Path) -> None:
    made, _ = walk(tree)
    made.trouble("\x1b]52;c;eA==\x07\n" + "x" * 5000, "no way")
    assert made.first_trouble.isprintable()
    assert len(made.first_trouble) < 300
