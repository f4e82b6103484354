"""Clone mode without an engine: a person's repository, and a stand-in for a container that has the agent's clone.

The stand-in is a program `docker` on PATH. It runs git on the clone, or plays a hostile other side. As a program, this
module makes clones, brings commits from them and hands a branch over, so that a test can kill it at any moment.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipeline.agents import clone, exchange, ps
from pipeline.agents.clone import Clone
from pipeline.agents.workspace import Owner

NAME = "shop"
IDENTITY = {
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@x",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@x",
}
OWN = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", **IDENTITY}
HONEST = """#!/bin/sh
while [ "$1" != /usr/bin/git ]; do shift; done
shift
for word; do
    shift
    case $word in /workspace*) word=$MAGENTS_TEST_CLONE${word#/workspace} ;; esac
    set -- "$@" "$word"
done
exec git "$@"
"""


class Desk:
    """A person's repository `folder`, and the clone of the agent `shop`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "shop"
        self.said: list[str] = []

    @property
    def clone(self) -> Clone:
        return clone.require(NAME)

    def variables(self) -> Mapping[str, str]:
        """Return what a process needs to use this desk."""
        made = self.root / "magents/clones" / NAME / "clone/workspace"
        return {
            "CLAUDE_BRIDGE_STATE": str(self.root / "bridge"),
            "PATH": f"{self.root / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "MAGENTS_TEST_CLONE": str(made),
        }

    def git(self, *arguments: str, at: Path | None = None) -> str:
        """Run git as the person, or as the agent in its clone."""
        command = ["git", "-c", "protocol.file.allow=always", "-C", str(at or self.folder), *arguments]
        done = subprocess.run(command, env={**os.environ, **OWN}, capture_output=True, check=True)
        return os.fsdecode(done.stdout).strip()

    def agent(self, *arguments: str) -> str:
        return self.git(*arguments, at=self.clone.workspace)

    def commit(self, text: str, at: Path | None = None, name: str = "file") -> str:
        """Write a file and commit it. Returns the commit."""
        path = (at or self.folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        self.git("add", "--all", at=at)
        self.git("commit", "--quiet", "--message", text[:20], at=at)
        return self.git("rev-parse", "HEAD", at=at)

    def begin(self, *options: str) -> None:
        """Make the person's repository."""
        self.other_side(HONEST)
        self.folder.mkdir()
        self.git("init", "--quiet", "--initial-branch", "main", *options)

    def other_side(self, script: str) -> None:
        """Choose what answers in place of the container."""
        program = self.root / "bin" / "docker"
        program.parent.mkdir(exist_ok=True)
        program.write_text(script)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def make(self, folder: Path | None = None, files: tuple[str, ...] = ()) -> Clone:
        """Do what `up --clone` does before it starts the container."""
        owner = Owner(os.geteuid(), os.getegid())
        return clone.make(ENGINE, "image", NAME, folder or self.folder, owner, files, self.said.append)

    def fetch(self, **limits: Any) -> list[str]:
        return [each.line for each in exchange.fetch(ENGINE, NAME, **limits)]

    def push(self, branch: str | None = None) -> str:
        return exchange.push(ENGINE, NAME, branch)

    def refs(self) -> str:
        return self.git("for-each-ref")


class Engine:
    """An engine with one running agent in clone mode, in which no container is made."""

    @property
    def containers(self) -> Engine:
        return self

    def get(self, name: str) -> SimpleNamespace:
        if name.endswith("-checkout"):
            return SimpleNamespace(remove=lambda **_: None)
        labels = {ps.LABEL: NAME, ps.MODE_LABEL: "clone"}
        return SimpleNamespace(id="id", status="running", attrs={"State": {}}, labels=labels)


ENGINE: Any = Engine()


def check_out_here(client: object, image: str, fresh: Path, owner: Owner) -> None:
    """Check files out with the git of this machine, in place of the container's."""
    del client, image, owner
    alternates = fresh / "workspace/.git/objects/info/alternates"
    alternates.write_text(f"{fresh / 'store'}/objects\n")
    command = ["git", "-C", str(fresh / "workspace"), "checkout", "--force", "--quiet"]
    subprocess.run(command, check=True, env={**os.environ, **OWN})
    alternates.write_text(f"{fresh.parent / 'clone/store'}/objects\n")


def main(root: Path) -> None:
    """For each line of standard input, do in a process group of its own what a person does one after the other.

    Prints the number of each process when it starts, and an empty line when it has ended.
    """
    desk = Desk(root)
    os.environ.update(desk.variables())
    clone._check_out = check_out_here
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            desk.make()
            desk.fetch()
            desk.push("main")
            os._exit(0)
        os.setpgid(pid, pid)
        print(pid, flush=True)
        os.waitpid(pid, 0)
        print(flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
