"""Five things that people do with agents, beside imbue-mngr, which does the same: list, create, exec, send, destroy.

imbue-mngr is measured as it works by default: its agents are programs in tmux on this machine, without a container.
Ours is a container with its own health. Both run a shell, and both are called as a person calls them.
"""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import docker

from pipeline.files import ROOT
from tests.bench.figures import Figure
from tests.support.bridge_host import OWNER

LOCK = ROOT / "requirements" / "peers.txt"
INSTALLED = ROOT / ".cache" / "peers"
ROUNDS = 5
ALONE_S = 10
"""The limit of each thing where no peer is there to compare with."""
COMMAND_S = 120


def measure(_: docker.DockerClient) -> Iterator[Figure]:
    """Do the five things with both in turns, with three agents there."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="peers-") as directory:
        sides: list[_Ours | _Mngr] = [_Ours(Path(directory))]
        try:
            sides.append(_Mngr(Path(directory)))
        except (subprocess.CalledProcessError, OSError) as error:
            why = str(getattr(error, "stderr", None) or error).strip().splitlines()[-1]
            print(f"imbue-mngr cannot be installed, so ours is measured alone: {why}", file=sys.stderr)
        try:
            for each in sides:
                for _ in range(2):
                    each.create(each.new())
            for number, each in itertools.product(range(ROUNDS + 1), sides):
                each.round(is_kept=number > 0)  # the first one warms up
            for what in LIMITS:
                ours, *others = (statistics.median(each.took[what]) for each in sides)
                for theirs in others:
                    name = f"agents: {what}, beside imbue-mngr ({ours:.2f} s and {theirs:.2f} s)"
                    yield Figure(name, ours / theirs, "x", LIMITS[what])
                if not others:
                    yield Figure(f"agents: {what}, without imbue-mngr beside it", ours, "s", ALONE_S)
        finally:
            for each in sides:
                each.close()


LIMITS = {"list": 1, "create": 2, "exec": 1, "send": 1, "destroy": 1}
"""Of our time as a part of imbue-mngr's."""


class _Side:
    def __init__(self, directory: Path) -> None:
        self.mark = f"peer-{uuid.uuid4().hex[:6]}"
        self.folder = directory / type(self).__name__.strip("_").lower()
        self.folder.mkdir()
        self.made: list[str] = []
        self.took: dict[str, list[float]] = {what: [] for what in LIMITS}
        self._numbers = itertools.count(1)

    def round(self, is_kept: bool) -> None:
        """Do each thing once, with a new agent beside the others, and keep the seconds."""
        name = self.new()
        for what, step in self._steps(name).items():
            begun = time.monotonic()
            step()
            if is_kept:
                self.took[what].append(time.monotonic() - begun)

    def _steps(self, name: str) -> dict[str, Callable[[], None]]:
        return {
            "create": lambda: self.create(name),
            "list": self.list,
            "exec": lambda: self.exec(name),
            "send": lambda: self.send(name),
            "destroy": lambda: self.destroy(name),
        }

    def new(self) -> str:
        """Return a new name."""
        name = f"{self.mark}-{next(self._numbers)}"
        self.made.append(name)
        return name

    def create(self, name: str) -> None:
        raise NotImplementedError

    def list(self) -> None:
        raise NotImplementedError

    def exec(self, name: str) -> None:
        raise NotImplementedError

    def send(self, name: str) -> None:
        raise NotImplementedError

    def destroy(self, name: str) -> None:
        raise NotImplementedError


class _Ours(_Side):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        directory.chmod(0o755)
        self._environment = {**os.environ, "CLAUDE_BRIDGE_STATE": str(directory / "state")}

    def create(self, name: str) -> None:
        workspace = self.folder / name
        workspace.mkdir()
        os.chown(workspace, OWNER, OWNER)
        self._run("agents.up", name, "--workspace", str(workspace))

    def list(self) -> None:
        self._run("agents.ps")

    def exec(self, name: str) -> None:
        self._run("agents.exec", "true", "--name", name)

    def send(self, name: str) -> None:
        self._run("agents.send", name, "true")

    def destroy(self, name: str) -> None:
        self._run("agents.down", name)

    def close(self) -> None:
        self._run("agents.down", "--volumes", "--yes", *self.made)
        self._run("bridge.down")

    def _run(self, *words: str) -> None:
        command = [sys.executable, "-m", "invoke", "--search-root", str(ROOT), *words]
        _run(command, self._environment, ROOT)


class _Mngr(_Side):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._program = _installed() / "bin" / "mngr"
        home = directory / "home"
        (home / "tmux").mkdir(parents=True)
        self._environment = {"PATH": os.environ["PATH"], "HOME": str(home), "TMUX_TMPDIR": str(home / "tmux")}
        subprocess.run(["git", "init", "--quiet", str(self.folder)], check=True)

    def create(self, name: str) -> None:
        self._run("create", name, "--command", "bash", "--no-connect", "--transfer", "none")

    def list(self) -> None:
        self._run("list")

    def exec(self, name: str) -> None:
        self._run("exec", name, "true")

    def send(self, name: str) -> None:
        self._run("message", name, "-m", "true")

    def destroy(self, name: str) -> None:
        self._run("destroy", name, "--force")

    def close(self) -> None:
        subprocess.run(["tmux", "kill-server"], env=self._environment, capture_output=True, check=False)

    def _run(self, *words: str) -> None:
        _run([str(self._program), *words], self._environment, self.folder)


def _run(command: list[str], environment: dict[str, str], folder: Path) -> None:
    subprocess.run(
        command,
        check=True,
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
    )


def _installed() -> Path:
    """Install imbue-mngr once for each lock. Returns its environment."""
    done = INSTALLED / "lock"
    if not done.exists() or done.read_bytes() != LOCK.read_bytes():
        venv.create(INSTALLED, clear=True, with_pip=True)
        pip = [str(INSTALLED / "bin" / "pip"), "install", "--quiet", "--require-hashes", "--requirement", str(LOCK)]
        subprocess.run(pip, check=True, capture_output=True, text=True)
        done.write_bytes(LOCK.read_bytes())
    return INSTALLED
