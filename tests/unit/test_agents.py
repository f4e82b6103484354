"""The user that an agent runs as, and the error for a workspace whose owner does not decide it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from docker.models.containers import Container

from agent.shared import GROUP
from commands.output import print_facts
from pipeline.agents import compose, logs, ps
from pipeline.agents import workspace as workspaces
from pipeline.bootstrap.engine import Kind
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


@needs_root
@pytest.mark.parametrize(
    ("kind", "owner", "expected"),
    [
        (Kind(person=1500), (1500, 1500), workspaces.Owner(0, 0, 1500)),
        (Kind(person=1500), (1000, 1000), r"sudo chown -R 1500: '.*/a folder'` and run the same command again"),
        (Kind(person=1500), (0, 0), r"of uid 1500, so its agents could not write there"),
        (Kind(first=165536), (166536, 166537), workspaces.Owner(1000, 1001, 166536)),
        (Kind(first=165536), (166536, 1000), workspaces.Owner(1000, 1000, 166536)),
        (Kind(first=165536), (1000, 1000), r"sudo chown -R 166536:166536 '.*/a folder'` to give it to uid 1000"),
        (Kind(first=165536), (300000, 300000), r"\(userns-remap\), so agents could not write"),
        (Kind(is_podman=True), (1234, 4321), r"`podman run --detach --user 1234:4321 .* --volume '.*/a folder:/work"),
        (Kind(person=1500, is_podman=True), (1500, 1500), r"`podman run --detach --userns keep-id:uid=1000,gid=1000 "),
    ],
)
def test_engines_of_other_kinds_get_the_owner_as_they_number_it_or_one_line(
    kind: Kind, owner: tuple[int, int], expected: workspaces.Owner | str, tmp_path: Path
) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    os.chown(folder, *owner)
    if isinstance(expected, workspaces.Owner):
        assert workspaces.owner_of(folder, kind, chown=False, as_root=False) == expected
        return
    with pytest.raises(Problem, match=expected) as caught:
        workspaces.owner_of(folder, kind, chown=False, as_root=True)
    assert "\n" not in str(caught.value)
    assert folder.stat().st_uid == owner[0]


@needs_root
def test_chown_for_a_rootless_engine_gives_to_the_person(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert workspaces.owner_of(tmp_path, Kind(person=1500), chown=True, as_root=False) == workspaces.Owner(0, 0, 1500)
    assert (tmp_path.stat().st_uid, (tmp_path / "file").stat().st_uid) == (1500, 1500)


@pytest.mark.parametrize("name", ["x" * 300, "nowhere"])
def test_name_of_no_folder_is_told(name: str, tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no folder; make it"):
        workspaces.named(str(tmp_path / name))


def test_name_that_the_engine_cannot_be_told_is_refused(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(folder)  # noqa: PTH102 - a name that is no text
    with pytest.raises(Problem, match=r"/\\udcff' is not UTF-8, .*; rename the folder"):
        workspaces.named(os.fsdecode(folder))


def test_folder_with_a_tilde_is_no_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~nobody-of-this-name").mkdir()
    assert workspaces.named("~nobody-of-this-name") == (tmp_path / "~nobody-of-this-name").resolve()


def test_facts_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_facts(("a", f"[/x] :bug: {'y' * 300}"), ("longer", "z\x1b[2J\nend"))
    assert capsys.readouterr().out == f"a       [/x] :bug: {'y' * 300}\nlonger  z?[2J?end\n"


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
    with pytest.raises(Problem, match="--tail is '-x'; give a number of lines, or all") as refused:
        logs.show("magents-x", "-x", follow=False)
    assert refused.value.code == 64


def test_variable_without_a_value_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "")
    monkeypatch.setenv("NODE_EXTRA_CA_CERTS", "/x")
    found = compose._environment()
    assert "SSL_CERT_FILE" not in found
    assert found["NODE_EXTRA_CA_CERTS"] == "/x"


@pytest.mark.parametrize(
    "output",
    ["", "no JSON", "[]", '{"checks": {"network": []}}', '{"checks": {"network": {}}}', '{"checks": {"network": 5}}'],
)
def test_health_that_an_agent_forged_is_no_warning(output: str) -> None:
    state = {"State": {"Health": {"Log": [{"Output": output}]}}}
    assert not ps.warning(Container(attrs=state), "network")


def test_warning_is_one_line_without_control_signs() -> None:
    output = '{"checks": {"network": {"status": "warn", "detail": "a\\nattach \\u001b[2J"}}}'
    container = Container(attrs={"State": {"Health": {"Log": [{"Output": output}]}}})
    assert ps.warning(container, "network") == "a attach ?[2J"
