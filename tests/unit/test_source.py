"""Version and revision come from git, and an unusual clone does not stop a build."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.build import source


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(source, "ROOT", tmp_path)
    git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    commit(tmp_path)
    return tmp_path


def git(root: Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.invalid"]
    return subprocess.run(
        ["git", *who, *arguments], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit(root: Path) -> None:
    git(root, "commit", "--quiet", "--allow-empty", "--date=2026-01-01T00:00:00Z", "-m", "x")


def test_untagged(clone: Path) -> None:
    head = git(clone, "rev-parse", "HEAD")
    found = source.describe()
    assert (found.version, found.revision) == (f"0.0.0+g{head[:12]}", head)


@pytest.mark.parametrize("version", ["1.2.3", "2.0.0-rc.1"])
def test_tagged_commit_is_that_version(clone: Path, version: str) -> None:
    git(clone, "tag", f"v{version}")
    assert source.describe().version == version


def test_commit_after_a_tag_says_so(clone: Path) -> None:
    git(clone, "tag", "v1.2.3")
    commit(clone)
    head = git(clone, "rev-parse", "HEAD")
    assert source.describe().version == f"1.2.3+g{head[:12]}"


def test_change_that_is_not_committed_shows(clone: Path) -> None:
    git(clone, "tag", "v1.2.3")
    (clone / "file").write_text("two")
    found = source.describe()
    assert found.version.endswith("-dirty")
    assert found.revision.endswith("-dirty")


def test_tag_that_is_no_version_is_passed_over(clone: Path) -> None:
    git(clone, "tag", "vintage")
    assert source.describe().version.startswith("0.0.0+g")


def test_archive_without_git_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert source.describe() == source.Source("0.0.0+unknown", "unknown", 0)
