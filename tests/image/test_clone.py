"""Clone mode in a live container: a day of git, and what the container can do to the person's objects."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from pipeline.agents import arrived, clone, compose, exchange, protection, ps
from pipeline.agents.clone import STORE
from pipeline.build.derived import Derived
from pipeline.errors import Problem
from tests.support.clone_desk import OWN
from tests.support.containers import Agent

UID = 1000

PERSON = """
set -e
git init -q -b main . && git init -q -b main ../library
echo x > ../library/x && git -C ../library add . && git -C ../library commit -qm x
git config core.hooksPath .husky
printf '%s\\n' '*.bin filter=lfs diff=lfs merge=lfs -text' > .gitattributes
printf '.env\\n' > .gitignore
mkdir .husky && printf '#!/bin/sh\\ntouch ran\\n' > .husky/post-checkout && chmod +x .husky/post-checkout
content=$(printf large | sha256sum | cut -d' ' -f1)
mkdir -p .git/lfs/objects/$(printf %s "$content" | sed 's,^\\(..\\)\\(..\\).*,\\1/\\2,')
printf large > .git/lfs/objects/$(printf %s "$content" | sed 's,^\\(..\\)\\(..\\),\\1/\\2/\\1\\2,')
printf 'version https://git-lfs.github.com/spec/v1\\noid sha256:%s\\nsize 5\\n' "$content" > here.bin
printf 'version https://git-lfs.github.com/spec/v1\\noid sha256:%064d\\nsize 5\\n' 7 > elsewhere.bin
git add . && git commit -qm one
for n in 1 2 3 4 5; do echo $n > file$n; git add . ; git commit -qm "file $n"; done
git branch topic HEAD~3
echo secret > .env
"""

DAY = """
set -e
cd /workspace; export GIT_LFS_SKIP_DOWNLOAD_ERRORS=1
git config user.name agent; git config user.email agent@example.org
test "$(cat here.bin)" = large
grep -q spec/v1 elsewhere.bin
test ! -e ran
git checkout -q topic; echo t > topic; git add topic; git commit -qm topic; git rebase -q main
echo s >> file1; git stash -q; git stash pop -q; git commit -qam stashed
git worktree add -q /tmp/wt -b beside; cd /tmp/wt; echo w > beside; git add .; git commit -qm beside; cd /workspace
git worktree remove /tmp/wt
git init -q -b main /tmp/library; git -C /tmp/library -c user.name=a -c user.email=a@x commit -q --allow-empty -m x
git -c protocol.file.allow=always submodule --quiet add /tmp/library library; git commit -qm submodule
head -c 200000 /dev/urandom > new.bin; git add new.bin; git commit -qm lfs
echo true > .envrc; git add .envrc; git commit -qm envrc; git tag -a v1 -m v1
git merge -q --no-edit beside
git gc -q --prune=now
"""


@pytest.fixture(scope="module")
def desk(client: docker.DockerClient, image: str, variant: str) -> Iterator[Desk]:
    root = Path(tempfile.mkdtemp())  # pytest's own folders are root's
    root.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLAUDE_BRIDGE_STATE", str(root / "bridge"))
        patch.setattr(compose, "SHARED_VOLUME", f"{root.name}-shared")
        made = Desk(client, Derived(variant, image), root)
        try:
            yield made
        finally:
            made.remove()
            shutil.rmtree(root)


class Desk:
    """A person's repository, and an agent in a clone of it."""

    def __init__(self, client: docker.DockerClient, variant: Derived, root: Path) -> None:
        self.client, self.variant = client, variant
        self.name = f"test-{uuid.uuid4().hex[:8]}"
        self.folder = root / "shop"
        self.folder.mkdir()
        subprocess.run(["sh", "-c", PERSON], cwd=self.folder, check=True, env={**os.environ, **OWN})
        for path in (root / "library", self.folder):
            subprocess.run(["chown", "-R", f"{UID}:{UID}", str(path)], check=True)
        self.told: list[str] = []

    def up(self, files: tuple[str, ...] = ()) -> Agent:
        self.told.clear()
        owner = clone.owner_for(self.folder, as_root=False)
        reference = self.variant.reference
        made = clone.make(self.client, reference, self.name, self.folder, owner, files, self.told.append)
        running = compose.up(self.client, self.variant, self.name, self.folder, owner, self.told.append, clone=made)
        assert running.status == "healthy"
        return Agent(self.client.containers.get(running.container))

    def git(self, *arguments: str) -> str:
        command = ["git", "-c", "safe.directory=*", "-C", str(self.folder), *arguments]
        done = subprocess.run(command, env={**os.environ, **OWN}, capture_output=True, text=True, check=True, user=UID)
        return done.stdout.strip()

    def remove(self) -> None:
        for container in self.client.containers.list(all=True, filters={"name": f"magents-{self.name}"}):
            container.remove(force=True)
        for volume in (f"magents-{self.name}-agent", compose.SHARED_VOLUME):
            self.client.volumes.get(volume).remove(force=True)


def test_day_of_git_in_a_clone(desk: Desk) -> None:
    """One container for all of it: it starts once, and each part needs what came before."""
    agent = desk.up((".env",))
    assert protection.mode(ps.require(desk.client, desk.name)) == "clone"
    assert agent.sh("cat /workspace/.env; git -C /workspace status --porcelain") == "secret"
    agent.sh(DAY)

    came = [each.line.split()[1] for each in exchange.fetch(desk.client, desk.name)]
    remote = f"agents/{desk.name}"
    assert came == [f"refs/{remote}/tags/v1", f"{remote}/beside", f"{remote}/main", f"{remote}/topic"]
    tree = "topic^{tree}"
    assert desk.git("rev-parse", f"{remote}/{tree}") == agent.sh(f"git -C /workspace rev-parse '{tree}'")
    topic = next(branch for branch in arrived.branches(desk.name) if branch.name == f"{remote}/topic")
    assert (topic.files[0].path, bool(topic.files[0].why), topic.files[-1].why) == (".envrc", True, None)

    large = agent.sh("sha256sum /workspace/new.bin").split()[0]
    kept = desk.folder / ".git/lfs/objects" / large[:2] / large[2:4] / large
    assert (hashlib.sha256(kept.read_bytes()).hexdigest(), kept.stat().st_uid) == (large, UID)

    # the person throws away what came and what the clone was made of
    desk.git("update-ref", "-d", f"refs/remotes/{remote}/topic")
    desk.git("branch", "-q", "-D", "topic")
    desk.git("reflog", "expire", "--expire=now", "--all")
    desk.git("gc", "-q", "--prune=now")
    agent.sh("cd /workspace && git fsck --strict && git gc -q --prune=now && git fsck --strict")
    desk.git("fsck", "--strict")

    # a branch goes in, and the agent's work on it comes back
    desk.git("commit", "-q", "--allow-empty", "-m", "for the agent")
    assert exchange.push(desk.client, desk.name, "main") == "main"
    agent.sh("cd /workspace && git merge -q --no-edit host/main && git fsck --strict")
    exchange.fetch(desk.client, desk.name)
    assert desk.git("merge-base", "main", f"{remote}/topic") == desk.git("rev-parse", "main")
    desk.git("fsck", "--strict")
    assert not list(desk.folder.rglob("*.lock"))
    assert subprocess.run(["find", str(desk.folder), "!", "-user", str(UID)], capture_output=True).stdout == b""

    # the person's objects cannot be changed from inside
    one = agent.sh(f"find {STORE}/objects -type f | head -1")
    for attempt in (f"chmod u+w {one}", f"echo x > {one}", f"rm {one}", f"touch {STORE}/objects/x"):
        assert "Read-only file system" in agent.try_run("sh", "-c", attempt)[1]

    # down keeps the clone, which the next up goes on in; what would be lost keeps it from being removed
    compose.down(desk.client, [desk.name], desk.told.append)
    clone.end(desk.name, desk.told.append, remove_it=False)
    assert "stays" in desk.told[-1]
    with pytest.raises(Problem, match="does not run, and git for its clone runs only in its container; run `bin/in"):
        exchange.fetch(desk.client, desk.name)
    again = desk.up()
    assert "goes on in its clone" in desk.told[0]
    again.sh("cd /workspace && git log --oneline | grep -q 'for the agent' && echo x > left")
    with pytest.raises(Problem, match=r"was not removed, as it has files that are not committed: \?\? left;"):
        exchange.save(desk.client, desk.name, desk.told.append)
    again.sh("rm /workspace/left")
    exchange.save(desk.client, desk.name, desk.told.append)
    compose.down(desk.client, [desk.name], desk.told.append)
    clone.end(desk.name, desk.told.append, remove_it=True)
    assert clone.find(desk.name) is None
    assert remote not in desk.git("remote")
    assert desk.git("rev-parse", f"{remote}/topic")
