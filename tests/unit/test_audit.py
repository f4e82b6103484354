"""`agents.audit` on real folders, also on those that an agent made to lead it astray."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.agents import audit
from tests.support.waiting import wait_until

FSMONITOR = "[core]\n\tfsmonitor = touch x\n"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A project with a repository, an editor's folder and hooks, as it is before `up`."""
    workspace = tmp_path / "shop"
    git(tmp_path, "init", "--quiet", "shop")
    for path in ("src/main.py", "Makefile", ".vscode/tasks.json", "tools/husky/pre-commit", "old/post-checkout"):
        write(workspace, path)
    (workspace / ".husky").symlink_to("tools/husky")
    return workspace


@pytest.fixture
def found(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, str]]:
    """Says what was found, by path. Everything that is made after this fixture is new."""
    monkeypatch.setattr(audit, "CLOCK_S", 0)
    time_of_up = newest(workspace)
    wait_until(lambda: newest_of_a_probe(workspace) > time_of_up, 5, "the file system's clock to go on")
    since = newest_of_a_probe(workspace)
    repository = audit._repository_of(workspace)

    def look() -> dict[str, str]:
        return {one.path: one.who for one in audit.of_folder(workspace, since, repository).found}

    return look


def git(where: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(where), *words], check=True, capture_output=True)


def write(workspace: Path, path: str, content: str = "") -> Path:
    file = workspace / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return file


def newest(folder: Path) -> float:
    return max(path.lstat().st_ctime for path in folder.rglob("*"))


def newest_of_a_probe(workspace: Path) -> float:
    probe = workspace.parent / "probe"
    probe.write_text("")
    return probe.stat().st_ctime


def test_nothing_is_found_where_nothing_changed(workspace: Path, found: Callable[[], dict[str, str]]) -> None:
    write(workspace, "src/main.py", "changed")
    git(workspace, "add", "src")
    git(workspace, "-c", "user.name=x", "-c", "user.email=x", "commit", "--quiet", "-m", "x")
    assert found() == {}


PLANTED = {
    "a hook": (".git/hooks/post-checkout", "#!/bin/sh\n"),
    "a setting of git": (".git/config", FSMONITOR),
    "an editor's task": (".vscode/tasks.json", "{}"),
    "a nested project's": ("a/b/.envrc", "touch x"),
    "where links of the project lead": ("tools/husky/pre-commit", "touch x"),
    "a name with escapes": ("\x1b[2J\n/.envrc", ""),
    "a name that is not UTF-8": (os.fsdecode(b"\xff/.envrc"), ""),
}


@pytest.mark.parametrize(("path", "content"), PLANTED.values(), ids=PLANTED)
def test_a_file_that_was_written_since_up_is_found(
    workspace: Path, found: Callable[[], dict[str, str]], path: str, content: str
) -> None:
    write(workspace, path, content)
    assert list(found()) == [path]


def test_a_time_that_the_agent_sets_hides_nothing(workspace: Path, found: Callable[[], dict[str, str]]) -> None:
    os.utime(write(workspace, ".envrc"), (0, 0))
    assert list(found()) == [".envrc"]


def test_a_file_in_a_folder_that_was_moved_there_is_found(workspace: Path, found: Callable[[], dict[str, str]]) -> None:
    (workspace / ".git/hooks").rename(workspace / ".git/away")
    (workspace / "old").rename(workspace / ".git/hooks")
    assert list(found()) == [".git/hooks/post-checkout"]


def test_another_repository_in_its_place_is_found(workspace: Path, found: Callable[[], dict[str, str]]) -> None:
    (workspace / ".git").rename(workspace / "x.git")
    git(workspace, "init", "--quiet")
    assert ".git/" in found()


def test_repositories_that_the_agent_made_are_found(workspace: Path, found: Callable[[], dict[str, str]]) -> None:
    git(workspace, "init", "--quiet", "nested")
    git(workspace, "init", "--quiet", "--bare", "store")
    assert {"nested/.git/", "store/"} <= found().keys()


def test_links_are_named_and_not_followed(workspace: Path, found: Callable[[], dict[str, str]], tmp_path: Path) -> None:
    write(tmp_path, "elsewhere/.envrc")
    (workspace / "out").symlink_to(tmp_path / "elsewhere")
    (workspace / ".devcontainer").symlink_to("src")
    (workspace / ".envrc").symlink_to("/dev/zero")
    assert found().keys() == {".devcontainer", ".envrc"}


def test_links_through_which_git_would_write_are_found(workspace: Path, found: Callable[[], dict[str, str]]) -> None:
    (workspace / ".git/COMMIT_EDITMSG").symlink_to("/home/x/.bashrc")
    (workspace / ".git/logs/refs").mkdir(parents=True)
    (workspace / ".git/logs/HEAD").symlink_to("../../../.git/config")
    (workspace / ".git/logs/refs/heads").symlink_to("/home/x")
    (workspace / ".git/refs/heads/inside").symlink_to("../heads/main")
    links = {".git/COMMIT_EDITMSG", ".git/logs/HEAD", ".git/logs/refs/heads"}
    assert found() == dict.fromkeys(links, audit.LINK)


def test_what_git_s_settings_lead_to_is_found(workspace: Path, found: Callable[[], dict[str, str]]) -> None:
    git(workspace, "config", "core.hooksPath", "scripts")
    git(workspace, "config", "include.path", "../shared.ini")
    write(workspace, "scripts/pre-push")
    write(workspace, "shared.ini")
    assert found().keys() == {".git/config", "scripts/pre-push", "shared.ini"}


def test_special_files_do_not_hold_it(workspace: Path, found: Callable[[], dict[str, str]]) -> None:
    os.mkfifo(workspace / ".envrc")
    os.mkfifo(workspace / "package.json")
    assert found().keys() == {".envrc", "package.json"}


def test_installed_packages_are_one_line(workspace: Path, found: Callable[[], dict[str, str]]) -> None:
    for number in range(3):
        write(workspace, f"web/node_modules/p{number}/Makefile")
    assert list(found().items()) == [("web/node_modules/", audit.USED.format(count=3))]


def test_a_folder_deeper_than_the_limit_is_said(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "DEEPEST", 3)
    write(workspace, "a/b/c/d/.envrc")
    made = audit.of_folder(workspace, 0, "none")
    assert "1 folders more than 3 levels deep" in made.unread


def test_too_many_files_are_said(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MOST", 1000)
    for number in range(2100):
        write(workspace, f"many/{number}")
    made = audit.of_folder(workspace, 0, "none")
    assert made.unread[-1] == "what is left after 2,000 files and folders, which were too many"


def test_odd_names_are_shown_escaped() -> None:
    assert audit.quoted("src/main.py") == "src/main.py"
    assert audit.quoted("a\x1b[2J") == r"'a\x1b[2J'"
    assert audit.quoted("a\u202egpj.sh") == r"'a\u202egpj.sh'"
    assert audit.quoted("x ") == "'x '"
