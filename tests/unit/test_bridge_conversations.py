"""What is kept of conversations: by grant and workspace, over a new clone, an earlier version and links."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.server.host.conversations import HISTORY, KEPT, MAX_HISTORY
from bridge.server.host.grants import Grant, StateError
from bridge.server.host.state_directory import StateDirectory
from tests.support.bridge_host import OWNER

Adding = Callable[[str], Path]


def give(path: Path) -> None:
    """Give a directory to the image's user. Only root can, and only root has to."""
    if os.geteuid() == 0:
        os.chown(path, OWNER, OWNER)


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a short name, because a socket's path has at most 107 bytes."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    state = StateDirectory(tmp_path / "state")
    state.prepare()
    return state


@pytest.fixture
def granted(state: StateDirectory, tmp_path: Path) -> Adding:
    """Grant a workspace under the same name again. Returns the directory of its conversations."""

    def grant(name: str) -> Path:
        workspace = tmp_path / name
        workspace.mkdir(exist_ok=True)
        give(workspace)
        mine = Grant.of("default", workspace)
        state.add(mine)
        return state.private(mine)

    return grant


def test_another_workspace_starts_with_no_conversations(granted: Adding) -> None:
    (granted("a") / "projects" / "talk").write_text("about a")
    assert not list(granted("b").rglob("talk"))


def test_earlier_workspace_finds_its_own_again(granted: Adding) -> None:
    (granted("a") / "projects" / "talk").write_text("about a")
    granted("b")
    assert (granted("a") / "projects" / "talk").read_text() == "about a"


def test_new_clone_at_the_same_path_goes_on(granted: Adding, tmp_path: Path) -> None:
    (granted("a") / "projects" / "talk").write_text("about a")
    shutil.rmtree(tmp_path / "a")
    assert (granted("a") / "projects" / "talk").read_text() == "about a"


def test_revoked_grant_finds_its_own_again(granted: Adding, state: StateDirectory) -> None:
    (granted("a") / "projects" / "talk").write_text("about a")
    state.remove("default")
    assert (granted("a") / "projects" / "talk").read_text() == "about a"


@pytest.fixture
def earlier(state: StateDirectory, tmp_path: Path) -> Path:
    """The state of the version that kept conversations by the grant's name alone; its workspace was `a`."""
    (tmp_path / "a").mkdir()
    registered = {"name": "default", "workspace": str(tmp_path / "a"), "shares": []}
    (state.root / "registry" / "default").write_text(json.dumps(registered))
    kept = state.root / "private" / "default"
    (kept / "projects").mkdir(parents=True)
    (kept / "projects" / "talk").write_text("about a")
    give(kept)
    return kept


def test_conversations_of_an_earlier_version_are_found_by_their_workspace(earlier: Path, granted: Adding) -> None:
    assert (granted("a") / "projects" / "talk").read_text() == "about a"
    assert not (earlier / "projects").exists()


def test_conversations_of_an_earlier_version_are_not_another_workspace_s(earlier: Path, granted: Adding) -> None:
    assert not list(granted("b").rglob("talk"))
    assert (granted("a") / "projects" / "talk").read_text() == "about a"


def test_newer_conversations_are_not_replaced_by_those_of_an_earlier_version(
    earlier: Path, granted: Adding, state: StateDirectory
) -> None:
    registered = (state.root / "registry" / "default").read_text()
    (granted("a") / "projects" / "talk").write_text("newer")
    (earlier / "projects").mkdir()
    (state.root / "registry" / "default").write_text(registered)
    assert (granted("a") / "projects" / "talk").read_text() == "newer"


def test_link_of_an_earlier_version_is_not_followed(earlier: Path, granted: Adding, tmp_path: Path) -> None:
    (earlier / "todos").symlink_to(tmp_path)
    assert not (granted("a") / "todos").is_symlink()


# The history of prompts


def test_history_belongs_to_the_workspace(granted: Adding) -> None:
    (granted("a") / HISTORY).write_text("a prompt\n")
    assert (granted("b") / HISTORY).read_bytes() == b""
    assert (granted("a") / HISTORY).read_text() == "a prompt\n"


def test_history_is_cut_to_its_newer_half_at_a_line(granted: Adding) -> None:
    lines = [b"%0*d\n" % (99, number) for number in range(MAX_HISTORY // 100 + 1)]
    (granted("a") / HISTORY).write_bytes(b"".join(lines))
    kept = (granted("a") / HISTORY).read_bytes().splitlines(keepends=True)
    assert MAX_HISTORY // 2 - 200 < len(b"".join(kept)) <= MAX_HISTORY // 2
    assert kept == lines[-len(kept) :]


def test_history_is_the_same_file_for_calls_that_run(granted: Adding) -> None:
    """Each call has this file mounted, so a new one in its place would lose what running calls append."""
    history = granted("a") / HISTORY
    before = history.stat().st_ino
    history.write_bytes(b"x" * (MAX_HISTORY + 1))
    granted("a")
    assert history.stat().st_ino == before


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/etc/passwd"), lambda path: os.mkfifo(path)])
def test_history_that_is_no_file_is_refused(granted: Adding, make: Callable[[Path], None]) -> None:
    history = granted("a") / HISTORY
    history.unlink()
    make(history)
    with pytest.raises((StateError, OSError)):
        granted("a")


def test_everything_kept_is_the_grant_s_user_s(granted: Adding, tmp_path: Path) -> None:
    granted("a")
    owner = (tmp_path / "a").stat().st_uid
    kept = granted("a")
    assert {(kept / name).stat().st_uid for name in (*KEPT, HISTORY)} == {owner}
    assert kept.stat().st_uid == os.geteuid()
