"""The user that an agent runs as, and the error for a workspace whose owner does not decide it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from agent.shared import GROUP
from pipeline.agents import logs
from pipeline.agents import workspace as workspaces
from pipeline.errors import Problem
from pipeline.files import ROOT

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


def test_agent_runs_as_the_workspaces_owner(tmp_path: Path) -> None:
    found = tmp_path.stat()
    assert workspaces.owner_of(tmp_path, chown=False, as_root=True) == workspaces.Owner(found.st_uid, found.st_gid)


@needs_root
def test_foreign_workspace_is_left_as_it_is(tmp_path: Path) -> None:
    os.chown(tmp_path, 1234, 4321)
    assert workspaces.owner_of(tmp_path, chown=True, as_root=False) == workspaces.Owner(1234, 4321)
    assert tmp_path.stat().st_uid == 1234


@needs_root
def test_workspace_of_root_asks_for_a_decision(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"--chown .* or --as-root"):
        workspaces.owner_of(tmp_path, chown=False, as_root=False)


@needs_root
def test_chown_gives_the_tree_but_not_what_links_point_at(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("root's")
    workspace = tmp_path / "workspace"
    (workspace / "deep").mkdir(parents=True)
    (workspace / "deep" / "file").write_text("")
    (workspace / "link").symlink_to(outside)
    assert workspaces.owner_of(workspace, chown=True, as_root=False) == workspaces.Owner(1000, 1000)
    owners = {path.name: path.lstat().st_uid for path in [workspace, *workspace.rglob("*"), outside]}
    assert owners == {"workspace": 1000, "deep": 1000, "file": 1000, "link": 1000, "outside": 0}


def test_missing_workspace_is_told(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no folder; make it"):
        workspaces.owner_of(tmp_path / "nowhere", chown=False, as_root=False)


@needs_root
def test_default_workspace_is_made_once_for_the_images_user(tmp_path: Path) -> None:
    assert workspaces.default_workspace(tmp_path).stat().st_uid == workspaces.AGENT_UID
    os.chown(tmp_path / "workspace", 1234, 1234)
    assert workspaces.default_workspace(tmp_path).stat().st_uid == 1234


def test_group_of_all_agents_has_one_number_everywhere() -> None:
    template = yaml.safe_load((ROOT / "compose.yaml").read_text())
    assert template["x-agent"]["group_add"] == [str(GROUP)]
    assert f"groupadd --gid {GROUP} agents\n" in (ROOT / "docker" / "build" / "make-user").read_text()


def test_words_of_a_container_steer_no_terminal() -> None:
    assert logs.plain("a\x1b]52;c;eA==\x07\r\nb\x9b2J\tc\n") == "a?]52;c;eA==??\nb?2J\tc\n"


def test_logs_have_no_control_characters_and_dockers_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\nprintf "%s " "$@"\nprintf "\\033[2Jout\\n"\nprintf "err\\007\\n" >&2\nexit 3\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert logs.show("magents-x", "5", follow=True) == 3
    assert capsys.readouterr().out == "logs --tail 5 --follow magents-x ?[2Jout\nerr?\n"
