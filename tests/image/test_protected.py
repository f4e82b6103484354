"""The protected paths of a live agent: what it cannot change, what git still does, and what the host takes away."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container

from bridge.server.host.protected import PROTECTED
from bridge.server.operator.workspaces import Choice
from pipeline.agents import audit, compose, protection, ps
from pipeline.agents.workspace import Owner
from pipeline.build.derived import Derived
from pipeline.errors import Problem
from tests.support.containers import Agent
from tests.support.waiting import wait_until

UID = 1000
SECRET = "text-of-a-file-of-the-host"
HOST = ["-c", "safe.directory=*", "-c", "user.name=x", "-c", "user.email=x", "-c", "protocol.file.allow=always"]


def git(folder: Path, *words: str) -> str:
    """Run the host's git as the person. Fails if git does."""
    command = ["git", *HOST, "-C", str(folder), *words]
    done = subprocess.run(command, user=UID, group=UID, env=GIT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


NAMES = (".git", ".gitmodules", "deep", "remote.git")
GIT = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}


@dataclass
class Direct:
    """An agent on a repository of a person, who also has a second worktree and a submodule."""

    client: docker.DockerClient
    image: str
    variant: str
    folder: Path
    name: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex[:8]}")
    told: list[str] = field(default_factory=list)

    @property
    def workspace(self) -> Path:
        return self.folder / "ws"

    def make(self) -> None:
        for name in ("lib", "ws"):
            (self.folder / name).mkdir()
        subprocess.run(["chown", "-R", f"{UID}:{UID}", self.folder], check=True)
        for name in ("lib", "ws"):
            git(self.folder / name, "init", "--quiet", "--initial-branch=main")
            git(self.folder / name, "commit", "--quiet", "--allow-empty", "--message=first")
        git(self.workspace, "submodule", "--quiet", "add", str(self.folder / "lib"), "deep/lib")
        git(self.workspace, "commit", "--quiet", "--message=lib")
        git(self.workspace, "checkout", "--quiet", "-b", "editor")
        (self.workspace / ".vscode").mkdir()
        (self.workspace / ".vscode/tasks.json").write_text("{}")
        subprocess.run(["chown", "-R", f"{UID}:{UID}", self.workspace / ".vscode"], check=True)
        git(self.workspace, "add", ".vscode")
        git(self.workspace, "commit", "--quiet", "--message=editor")
        git(self.workspace, "checkout", "--quiet", "main")
        git(self.workspace, "branch", "other")
        git(self.workspace, "worktree", "add", "--quiet", str(self.folder / "second"), "other")
        git(self.workspace, "clone", "--quiet", "--bare", ".", "remote.git")
        git(self.workspace, "remote", "add", "origin", "/workspace/remote.git")
        git(self.workspace / "remote.git", "branch", "feature")

    def up(self, *unprotect: str) -> Container:
        self.told.clear()
        choice = protection.check(self.workspace, Choice((), unprotect))
        image = Derived(self.variant, self.image)
        running = compose.up(
            self.client, image, self.name, self.workspace, Owner(UID, UID), self.told.append, choice=choice
        )
        return self.client.containers.get(running.container)

    def mode(self) -> str:
        return protection.mode(ps.require(self.client, self.name))


@pytest.fixture(scope="module")
def direct(client: docker.DockerClient, image: str, variant: str) -> Iterator[Direct]:
    # pytest closes its own directories to all other users whenever another session begins.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        Path(folder).chmod(0o755)
        made = Direct(client, image, variant, Path(folder))
        patch.setattr(compose, "SHARED_VOLUME", f"magents-{made.name}-shared")
        made.make()
        yield made
        for container in client.containers.list(all=True, filters={"name": f"magents-{made.name}"}):
            container.remove(force=True)
        for volume in client.volumes.list(filters={"name": f"magents-{made.name}"}):
            volume.remove(force=True)


ATTACK = r"""
import os, sys
os.mkdir("evil")
for path in sys.argv[1:]:
    parts = path.split("/")
    for name in ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]:
        for how, act in {
            "renamed": lambda: os.rename(name, "elsewhere"),
            "exchanged": lambda: os.rename("evil", name),
            "removed": lambda: os.rmdir(name),
            "unlinked": lambda: os.unlink(name),
            "linked": lambda: os.symlink("/workspace/evil", name),
        }.items():
            try:
                act()
                print(how, name)
            except OSError:
                pass
    for how, act in {
        "written": lambda: open(path, "w"),
        "appended": lambda: open(path, "a"),
        "opened": lambda: os.chmod(path, 0o777),
        "filled": lambda: open(path + "/x", "w"),
        "through its folder": lambda: open(os.open(os.path.dirname(path) or ".", os.O_PATH), "w"),
    }.items():
        try:
            act()
            print(how, path)
        except OSError:
            pass
os.rmdir("evil")
"""


def test_agent_changes_no_protected_path(direct: Direct) -> None:
    """Neither those that are there nor those that are missing, nor what is above them."""
    container = direct.up()
    agent = Agent(container)
    module = [f".git/modules/deep/lib/{name}" for name in ("config", "hooks", "commondir")]
    worktree = [f".git/worktrees/second/{name}" for name in ("commondir", "gitdir", "config.worktree", "locked")]
    paths = [*PROTECTED, "commondir", *module, *worktree, "deep/lib/.git"]
    assert agent.run("python3", "-c", ATTACK, *paths) == ""
    assert set(json.loads(container.exec_run(["printenv", "AGENT_PROTECTED"]).output)) >= set(paths)
    assert direct.mode() == "direct"
    told = {found.path for found in audit.of_agent(container).found}
    assert not told & protection.stand_ins(direct.workspace), "what `up` itself made is no change of the agent's"
    assert git(direct.workspace, "status", "--short") == "?? remote.git/\n"


WORK = """
git commit -qm one --allow-empty && git stash -q; git checkout -q feature && git commit -qm two --allow-empty
git push -q && git fetch -q && git checkout -q -b topic origin/feature && git rebase -q main && git merge -q main
git worktree add -q /agent/tree && git worktree remove /agent/tree && git worktree prune -v && git tag v1
git -C deep/lib commit -qm three --allow-empty
echo '*.bin filter=lfs diff=lfs merge=lfs -text' > .gitattributes; head -c 200000 /dev/urandom > large.bin
git add .gitattributes large.bin && git commit -qm large && test "$(git cat-file -s :large.bin)" -lt 200 && git lfs fsck
echo changed > large.bin && git stash -q && test "$(stat -c %s large.bin)" = 200000
git gc -q --prune=now && git fsck --strict && git branch
"""


def test_git_works_and_says_what_it_cannot_write(direct: Direct) -> None:
    """No branch is lost where git would note the branch of the remote, and no worktree of the host is pruned."""
    agent = Agent(direct.up())
    agent.run("git", "config", "--global", "user.name", "x")
    agent.run("git", "config", "--global", "user.email", "x")
    agent.run("git", "fetch", "-q")
    said = agent.sh(
        f"set -e; cd /workspace; {WORK}",
    )
    assert "feature\n" in said
    assert "* topic" in said
    assert "Removing" not in said
    for line, hint in {
        "git config a.b c": "git config --global",
        "git remote add up /x": "--unprotect .git/config",
        "git push -u origin topic": "--unprotect .git/config",
        "git branch -D feature": "--unprotect .git/config",
        "git checkout -q editor": "--unprotect PATH",
        "git checkout -q nonsense": "",
    }.items():
        done = agent.container.exec_run(["/bin/sh", "-c", line], workdir="/workspace")
        assert hint in done.output.decode(), line
        assert done.output.decode().count("is protected") == bool(hint), line
    assert git(direct.folder / "second", "status", "--short") == ""
    assert (
        agent.run("git", "-C", "/workspace", "rev-parse", "HEAD^{tree}")
        == git(direct.workspace, "rev-parse", "HEAD^{tree}").strip()
    )
    assert "broken" not in git(direct.workspace, "fsck", "--strict")


ENDING = r"""
import os, subprocess, sys
subprocess.check_call(["git", "init", "-q", "/agent/own"])
def ended(number):
    read, write = os.pipe()
    editor = f"core.editor=echo >&{write}; exec sleep 98;"
    git = subprocess.Popen(["git", "-C", "/agent/own", "-c", editor, "config", "--edit"], pass_fds=[write])
    os.read(read, 1)
    git.send_signal(number)
    return git.wait(10)
print(ended(15), ended(1), ended(9), subprocess.call(["git", "config", "--no"], stdout=-3, stderr=-3))
print(subprocess.run(["git", "apply", "--stat"], input=sys.argv[1].encode(), stdout=-1).stdout.decode())
"""
PATCH = "--- a/file\n+++ b/file\n@@ -0,0 +1 @@\n+x\n"


def test_git_ends_as_it_is_ended_and_reads_its_input(direct: Direct) -> None:
    agent = Agent(direct.up())
    ended, applied, *_ = agent.run("python3", "-c", ENDING, PATCH).splitlines()
    assert ended == "-15 -1 -9 129"
    assert applied == " file |    1 +"
    wait_until(lambda: agent.try_run("pgrep", "-x", "git")[1] == "", 10, "git to end")


def test_what_the_host_replaces_is_lost_until_up(direct: Direct) -> None:
    """This is the limit: git on the host replaces its settings, and the mount of them is gone. It is seen from here."""
    container = direct.up()
    agent = Agent(container)
    git(direct.workspace, "config", "the.person", "was here")
    assert direct.mode() == "direct, lost: .git/config"
    agent.run("git", "config", "agent.was", "here")
    assert "[agent]" in (direct.workspace / ".git/config").read_text()
    assert [found.detail for found in protection.findings(direct.client) if direct.name in found.what]
    again = direct.up()
    assert again.attrs["State"]["StartedAt"] != container.attrs["State"]["StartedAt"]
    why = f".git/config was replaced on this machine, so agent {direct.name} is restarted to protect it again"
    assert why in direct.told
    assert direct.mode() == "direct"
    assert Agent(again).container.exec_run(["git", "config", "a.b", "c"], workdir="/workspace").exit_code == 4


def test_link_in_place_of_a_lost_path_opens_nothing_at_a_restart(direct: Direct) -> None:
    """The engine follows it when it mounts the path again. The entrypoint starts nothing then, and `up` refuses."""
    secret = direct.folder / "secret"
    secret.write_text(SECRET)
    container = direct.up()
    git(direct.workspace, "config", "the.person", "came again")
    Agent(container).sh(f"cd /workspace/.git && mv config kept && ln -s {secret} config")
    container.restart(timeout=5)
    reason = "/workspace/.git/config is to be protected, and is a link"
    wait_until(lambda: reason in container.logs().decode(), 20, "the entrypoint to refuse")
    container.stop(timeout=5)
    with pytest.raises(Problem, match=r"^\.git/config is a link, so .* --unprotect \.git/config"):
        direct.up()
    git(direct.workspace, "--version")
    (direct.workspace / ".git/config").unlink()
    (direct.workspace / ".git/kept").rename(direct.workspace / ".git/config")


def test_down_leaves_the_workspace_as_it_was(direct: Direct) -> None:
    """The stand-ins are removed, and only these. Another choice removes those that it does not need."""
    (direct.workspace / ".envrc").rmdir() if (direct.workspace / ".envrc").is_dir() else None
    (direct.workspace / ".envrc").write_text("export A=1\n")
    os.chown(direct.workspace / ".envrc", UID, UID)
    container = direct.up(".mcp.json")
    assert direct.mode() == "direct, unprotected: .mcp.json"
    assert not (direct.workspace / ".mcp.json").exists()
    assert Agent(container).sh("cd /workspace && echo {} > .mcp.json && cat .envrc") == "export A=1"
    used = protection.used(container)
    compose.down(direct.client, [direct.name], direct.told.append)
    protection.tidy(direct.client, [used])
    assert {path.name for path in direct.workspace.iterdir()} == {*NAMES, ".envrc", ".mcp.json"}
    assert not [
        path
        for path in (direct.workspace / ".git").rglob("*")
        if path.name in ("commondir", "locked") and path.parent.name != "second"
    ]
    assert not (direct.workspace / ".git/worktrees/second/locked").exists()
