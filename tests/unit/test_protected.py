"""Which paths of a workspace are protected, what stands in for missing ones, and what a person chose."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import git as agent_git
from agent.protected import problem
from bridge.server.host import protected
from bridge.server.host.grants import Grant
from bridge.server.host.places import Place
from bridge.server.host.protected import BARE, LOCK, PROTECTED, USUAL, Choice, ProtectionError
from bridge.server.host.state_directory import StateDirectory
from pipeline.agents import protection
from pipeline.errors import Problem

OUTSIDE = sorted(path for path in PROTECTED if not path.startswith(".git/"))


def git(folder: Path, *words: str) -> None:
    command = ["git", "-c", "protocol.file.allow=always", "-c", "user.name=x", "-c", "user.email=x", "-C", str(folder)]
    subprocess.run([*command, *words], check=True, capture_output=True)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    made = tmp_path / "ws"
    git(tmp_path, "init", "--quiet", str(made))
    git(made, "commit", "--quiet", "--allow-empty", "--message=x")
    return made


def prepared(workspace: Path, more: tuple[str, ...] = (), fewer: tuple[str, ...] = ()) -> list[str]:
    return list(protected.prepare(Place.pin(workspace), Choice.of(more, fewer)).paths)


def status(workspace: Path) -> str:
    return subprocess.run(["git", "-C", str(workspace), "status", "--short"], capture_output=True, text=True).stdout


def test_usual_paths_of_a_repository(workspace: Path) -> None:
    """The stand-ins are seen by nobody who uses git, and leave with `clear`, which leaves everything else."""
    (workspace / ".husky").mkdir()
    before = sorted(workspace.rglob("*"))
    assert prepared(workspace) == sorted([*PROTECTED, BARE])
    assert status(workspace) == ""
    assert (workspace / ".git/commondir").read_text() == "./\n"
    assert stat.S_IMODE((workspace / ".envrc").stat().st_mode) == protected.MODE
    assert prepared(workspace) == sorted([*PROTECTED, BARE])
    protected.clear(Place.pin(workspace))
    assert sorted(workspace.rglob("*")) == before


def test_parents_are_mounted_before_what_is_in_them(workspace: Path) -> None:
    found = list(protected.prepare(Place.pin(workspace), USUAL).identities)
    assert {".git", ".git/info", ".claude"} <= set(found)
    assert all(found.index(str(parent)) < found.index(path) for path in found for parent in Path(path).parents[:-1])


def test_a_choice_adds_and_takes_away(workspace: Path) -> None:
    found = prepared(workspace, ("deep/new", ".claude"), (".git/hooks", ".vscode"))
    assert {"deep/new", ".claude"} <= set(found)
    assert not {".git/hooks", ".vscode", ".claude/settings.json"} & set(found)
    assert prepared(workspace, fewer=(".git", "deep")) == OUTSIDE
    protected.clear(Place.pin(workspace), ["deep/new"])
    assert not (workspace / "deep").exists()


@pytest.mark.parametrize("name", ["", "/etc", "../x", "a/../..", ".", "a\nb"])
def test_path_outside_of_the_workspace_is_refused(name: str) -> None:
    with pytest.raises(ProtectionError, match="is no path in the workspace"):
        Choice.of([name])


def test_up_says_that_git_does_not_work_in_a_folder_of_a_repository(workspace: Path) -> None:
    (workspace / "web").mkdir()
    told: list[str] = []
    protection.prepare(workspace / "web", USUAL, told.append)
    protection.prepare(workspace / "web", USUAL, told.append)
    assert len([line for line in told if "git does not work in the agent; run `up` on" in line]) == 1


def test_no_repository_and_a_folder_in_one(tmp_path: Path, workspace: Path) -> None:
    """In a folder of a repository, nobody can make git take the folder for a repository of its own."""
    plain, below = tmp_path / "plain", workspace / "below"
    plain.mkdir()
    below.mkdir()
    assert prepared(plain) == OUTSIDE
    assert prepared(below) == sorted([*OUTSIDE, ".git", BARE])
    assert prepared(below) == sorted([*OUTSIDE, ".git", BARE])
    top = subprocess.run(["git", "-C", below, "rev-parse", "--show-toplevel"], capture_output=True, text=True)
    assert top.stdout.strip() == str(workspace)
    git(workspace, "init", "--quiet", "--bare", str(tmp_path / "bare"))
    for part in (tmp_path / "bare").iterdir():
        part.rename(below / part.name)
    done = subprocess.run(["git", "-C", below, "rev-parse", "--git-dir"], capture_output=True, text=True)
    assert "commondir: Is a directory" in done.stderr


def test_what_settings_name_is_protected(workspace: Path, tmp_path: Path) -> None:
    """Further settings inside, also on the way over some outside, and the directory of hooks that these name."""
    outside = tmp_path / "outside"
    outside.write_text("[include]\n\tpath = ws/conf/last\n")
    (workspace / "conf").mkdir()
    (workspace / "conf/last").write_text("[core]\n\thooksPath = my/hooks\n")
    git(workspace, "config", "include.path", "../conf/first")
    git(workspace, "config", "includeIf.gitdir:/nowhere.path", str(outside))
    found = prepared(workspace)
    assert {"conf/first", "conf/last", "my/hooks"} <= set(found)
    assert (workspace / "conf/first").read_bytes() == b""
    git(workspace, "config", "core.hooksPath", "/elsewhere")


def test_worktrees_and_submodules(workspace: Path, tmp_path: Path) -> None:
    """The host's worktrees are locked, so that git in a container does not prune them. An agent's own stay its own."""
    git(tmp_path, "init", "--quiet", "lib")
    git(tmp_path / "lib", "commit", "--quiet", "--allow-empty", "--message=x")
    git(workspace, "submodule", "add", "--name", "a/b", str(tmp_path / "lib"), "deep/lib")
    git(workspace, "worktree", "add", str(tmp_path / "second"))
    agents = workspace / ".git/worktrees/agents"
    agents.mkdir()
    (agents / "gitdir").write_text("/workspace/tree/.git\n")
    found = prepared(workspace)
    assert not [path for path in found if "agents" in path]
    mine = {f".git/worktrees/second/{name}" for name in ("commondir", "gitdir", "config.worktree", "locked")}
    theirs = {f".git/modules/a/b/{name}" for name in ("config", "hooks", "commondir", "info/attributes")}
    assert mine | theirs | {"deep/lib/.git"} <= set(found)
    assert (workspace / ".git/worktrees/second/locked").read_bytes() == LOCK
    git(workspace, "worktree", "prune", "--expire=now")
    assert status(tmp_path / "second") == ""
    assert status(workspace / "deep/lib") == ""
    protected.clear(Place.pin(workspace))
    assert not (workspace / ".git/worktrees/second/locked").exists()


def test_settings_that_are_not_read_to_their_end_are_an_error(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they name at the end would count for git, and would not be protected."""
    config = workspace / ".git/config"
    config.write_text(config.read_text() + "# long\n" * (1 << 18) + "[core]\n\thooksPath = late\n")
    assert "late" in prepared(workspace)
    config.write_text(config.read_text() + "# busy\n")
    monkeypatch.setattr(protected, "ANSWER_S", 0)
    with pytest.raises(ProtectionError, match="type the same again"):
        prepared(workspace)
    monkeypatch.setattr(protected, "MAX_TEXT", 1 << 20)
    with pytest.raises(ProtectionError, match="more than 1 MB"):
        prepared(workspace)


def test_what_a_link_to_the_workspace_leads_to_is_protected(workspace: Path, tmp_path: Path) -> None:
    """As /home is a link on some systems."""
    (tmp_path / "link").symlink_to(tmp_path)
    git(workspace, "config", "core.hooksPath", f"{tmp_path}/link/ws/own")
    git(workspace, "config", "include.path", f"{tmp_path}/link/ws/team.ini")
    assert {"own", "team.ini"} <= set(prepared(workspace))


def test_hooks_of_the_persons_conditional_settings_are_protected(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".gitconfig").write_text(f'[includeIf "gitdir:{tmp_path}/"]\n\tpath = work.ini\n')
    (tmp_path / "work.ini").write_text("[core]\n\thooksPath = ours\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("GIT_CONFIG_GLOBAL", raising=False)
    assert protection.check(workspace, USUAL).more == ("ours",)
    git(workspace, "config", "core.hooksPath", "theirs")  # not the person's; protected for itself
    assert protection.check(workspace, USUAL).more == ("ours",)


def test_worktree_in_the_workspace(workspace: Path) -> None:
    """The file that says where its repository is, and the hooks that the settings name in it."""
    git(workspace, "config", "core.hooksPath", ".hooks")
    git(workspace, "worktree", "add", "trees/new")
    assert {"trees/new/.git", "trees/new/.hooks", ".hooks"} <= set(prepared(workspace))
    assert status(workspace / "trees/new") == ""


def test_agent_hides_no_submodule(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by what it removes from one, nor by what it puts above one, nor by a folder that it closes meanwhile."""
    git(tmp_path, "init", "--quiet", "lib")
    git(tmp_path / "lib", "commit", "--quiet", "--allow-empty", "--message=x")
    git(workspace, "submodule", "add", "--name", "a/b", str(tmp_path / "lib"), "lib")
    modules, config = workspace / ".git/modules", ".git/modules/a/b/config"
    (modules / "a/b/HEAD").unlink()
    assert config in prepared(workspace)
    for name in ("HEAD", "config", "objects/x", "refs/x"):
        (modules / "a" / name).parent.mkdir(exist_ok=True)
        (modules / "a" / name).touch()
    assert config in prepared(workspace)
    assert not [path for path in prepared(workspace) if "/logs/" in path]

    (workspace / ".git/worktrees/agents").mkdir(parents=True)
    (workspace / ".git/worktrees/agents/gitdir").symlink_to("/etc/passwd")
    protected.clear(Place.pin(workspace))
    assert not (workspace / ".git/modules/a/b/commondir").exists()

    def closed(_: int) -> None:
        raise PermissionError(13, "Permission denied")  # for root, no directory is closed

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(ProtectionError, match=r"worktrees cannot be read, .*--unprotect \.git "):
        prepared(workspace)
    assert prepared(workspace, fewer=(".git",)) == OUTSIDE
    protected.clear(Place.pin(workspace))
    assert not (workspace / ".git/commondir").exists()


def put_a_link(path: Path) -> None:
    path.symlink_to("/etc")


@pytest.mark.parametrize(
    ("name", "put", "what"),
    [
        (".envrc", put_a_link, "a link"),
        (".claude", put_a_link, "a link"),
        (".mcp.json", os.mkfifo, "a special file"),
        (".claude", Path.touch, "a file"),
    ],
)
def test_what_is_in_the_way_is_named_with_what_to_type(
    tmp_path: Path, name: str, put: Callable[[Path], None], what: str
) -> None:
    put(tmp_path / name)
    with pytest.raises(ProtectionError, match=f"^\\{name} is {what}, .* --unprotect \\{name} ") as caught:
        prepared(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(Problem):
        protection.check(tmp_path, USUAL)
    assert f"{name}/x" not in prepared(tmp_path, fewer=(name,))
    assert not list(Path("/etc").glob("settings*.json"))


def test_what_a_killed_process_left_is_taken_over(workspace: Path) -> None:
    (workspace / ".git/.commondir.magents").touch()
    os.mkdir(workspace / ".envrc", protected.MODE)  # noqa: PTH102 - with this very mode
    prepared(workspace)
    assert (workspace / ".git/commondir").read_text() == "./\n"
    assert not (workspace / ".git/.commondir.magents").exists()
    protected.clear(Place.pin(workspace))
    assert not (workspace / ".envrc").exists()


def test_stand_in_that_got_content_is_the_persons(workspace: Path) -> None:
    prepared(workspace)
    (workspace / ".vscode/settings.json").write_text("{}")
    (workspace / ".git/config.worktree").chmod(0o644)
    protected.clear(Place.pin(workspace))
    assert (workspace / ".vscode/settings.json").exists()
    assert (workspace / ".git/config.worktree").exists()


def test_linked_worktree_is_offered_a_clone(workspace: Path, tmp_path: Path) -> None:
    git(workspace, "worktree", "add", str(tmp_path / "second"))
    with pytest.raises(
        Problem, match=r"is a worktree or a submodule of .*/ws/\.git/worktrees/second.* --clone"
    ) as caught:
        protection.check(tmp_path / "second", USUAL)
    assert "\n" not in str(caught.value)
    protection.check(tmp_path / "second", Choice((), (".git",)))
    assert ".git" in prepared(tmp_path / "second")


def test_replaced_file_is_lost(workspace: Path) -> None:
    identities = protected.prepare(Place.pin(workspace), USUAL).identities
    since = (workspace / ".git/config").stat().st_ctime
    assert protected.lost(str(workspace), identities, since) == []
    held = (workspace / ".git/config").open()  # so that its inode is not used again
    git(workspace, "config", "a.b", "c")
    (workspace / ".envrc").rmdir()
    assert protected.lost(str(workspace), identities, since) == [".envrc", ".git/config"]
    assert protected.lost(str(workspace), identities, since + 1e6) == [".envrc"]
    held.close()


def test_what_remains_is_a_nested_repository(workspace: Path, tmp_path: Path) -> None:
    """Its settings run at the person's `git status` above it, once it is in the index. SECURITY.md says so."""
    prepared(workspace)
    git(tmp_path, "init", "--quiet", str(workspace / "nested"))
    git(workspace / "nested", "commit", "--quiet", "--allow-empty", "--message=x")
    git(workspace, "add", "nested")
    git(workspace / "nested", "config", "core.fsmonitor", f"touch {tmp_path / 'ran'};")
    git(workspace, "status", "--ignore-submodules=dirty")
    assert not (tmp_path / "ran").exists()
    git(workspace, "status")
    assert (tmp_path / "ran").exists()


def test_choice_of_a_person_wins_over_invoke_yaml() -> None:
    config = {"protect": {"*": ["a"], "shop": ["b"]}, "unprotect": {"*": [".envrc", "c"]}}
    assert protection.chosen(config, "shop", ["c"], ["a"]) == Choice(("b", "c"), (".envrc", "a"))
    assert protection.chosen({}, "shop", [], []) == USUAL
    for broken in ({"protect": ["a"]}, {"unprotect": {"*": "a"}}):
        with pytest.raises(Problem, match=r"protect .*invoke\.yaml"):
            protection.chosen(broken, "shop", [], [])


def test_unprotect_of_what_nobody_protects_is_an_error(workspace: Path) -> None:
    with pytest.raises(Problem, match=r"--unprotect \.git/confg: nothing there is protected"):
        protection.check(workspace, Choice((), (".git/confg",)))
    protection.check(workspace, Choice(("x",), (".git/config", ".git", ".claude")))


def test_old_grant_has_the_usual_paths(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "s")
    state.prepare()
    (tmp_path / "ws").mkdir()
    grant = Grant.of("one", tmp_path / "ws", user=str(os.geteuid() or 1000))
    state.add(grant)
    text = (tmp_path / "s/registry/one").read_text()
    (tmp_path / "s/registry/one").write_text(
        text.replace(', "choice": {"more": [], "fewer": []}, "of_agent": false', "")
    )
    assert "choice" not in (tmp_path / "s/registry/one").read_text()
    assert state.grants()["one"] == grant


TABLE = r"""145 122 254:0 /home/my\040ws /workspace rw - ext4 /dev/vda rw
146 145 254:0 /home/my\040ws/.git /workspace/.git rw - ext4 /dev/vda rw
147 146 254:0 /home/my\040ws/.git/config /workspace/.git/config ro - ext4 /dev/vda rw
"""


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ("", "", ""),
        ("ws/.git/config", "ws/evil", ".git/config"),
        ("254:0 /home/my\\040ws/.git/config", "254:1 /home/my\\040ws/.git/config", ".git/config"),
        ("/workspace/.git/config", "/workspace/evil", ".git/config"),
        ("/home/my\\040ws/.git /", "/etc /", ".git"),
    ],
)
def test_entrypoint_starts_nothing_on_other_mounts(old: str, new: str, wrong: str) -> None:
    found = problem({"AGENT_PROTECTED": '[".git/config"]'}, TABLE.replace(old, new) if old else TABLE)
    assert found.startswith(f"/workspace/{wrong} is to be protected" if wrong else "")
    assert bool(found) == bool(wrong)
    assert not problem({}, TABLE)


def test_git_is_not_to_write_protected_settings() -> None:
    text = agent_git.settings({"AGENT_PROTECTED": '[".envrc", ".git/config"]'}, has_certificates=False)
    assert '[includeIf "gitdir:/workspace/.git"]\n\tpath = "/agent/run/gitconfig-protected"' in text
    assert agent_git.settings({"AGENT_PROTECTED": '[".envrc"]'}, has_certificates=False) == ""
