"""A bridge server for tests: its state, its configuration, its workspaces, and its removal."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge.server.host.protected import PROTECTED
from bridge.server.operator import cli
from pipeline import bridge
from pipeline.errors import Problem
from pipeline.reporting import say_on_stderr
from tests.support import schemas
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
FAKE_CLI = ROOT / "tests" / "support" / "bridge_fake_cli.py"
CLIENT = ROOT / "docker" / "bin" / "claude-code"
OWNER = 1000
"""The owner of the workspaces: the image's user."""

SECRET = "sk-ant-api03-the-host-s-own-key"


@dataclasses.dataclass
class Place:
    """A grant and its workspace, seen from the host."""

    name: str
    workspace: Path
    mount: Path

    def box(self, *argv: str, options: tuple[str, ...] = (), cwd: str = "/workspace") -> list[str]:
        """Return the command line for the lightest container: grant at /host, workspace and client."""
        words = ["bwrap", "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib"]
        words += ["--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
        words += ["--dir", "/app", "--ro-bind", str(ROOT / "bridge"), "/app/bridge", "--unshare-pid"]
        words += ["--ro-bind", str(_launcher()), "/app/claude", "--bind", str(self.workspace), "/workspace"]
        words += ["--ro-bind", str(self.mount), "/host", "--die-with-parent", "--chdir", cwd, *options]
        return [*words, "--", *argv]

    def claude(self, *argv: str, options: tuple[str, ...] = (), cwd: str = "/workspace") -> list[str]:
        """Return the command line that runs the wrapper in such a container."""
        return self.box("/app/claude", *argv, options=options, cwd=cwd)

    def run(
        self,
        *argv: str | bytes,
        stdin: bytes | None = None,
        options: tuple[str, ...] = (),
        cwd: str = "/workspace",
        env: dict[str, str] | None = None,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the wrapper to its end. Without `stdin` it gets an empty one."""
        words = [os.fsencode(word) for word in self.claude(options=options, cwd=cwd)]
        words += [os.fsencode(word) for word in argv]
        source: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
        env = {"PATH": "/usr/bin:/bin", **(env or {})}
        return subprocess.run(words, capture_output=True, env=env, timeout=timeout, check=False, **source)

    def processes(self) -> dict[int, list[str]]:
        """Return the command lines of processes that see this workspace as /workspace.

        These are the container's processes, and the CLI in its namespace.
        """
        found = {}
        for path in Path("/proc").iterdir():
            with contextlib.suppress(OSError):  # ignored because processes end
                if path.name.isdigit() and (path / "root/workspace").samefile(self.workspace):
                    words = (path / "cmdline").read_bytes().split(b"\0")[:-1]
                    found[int(path.name)] = [os.fsdecode(word) for word in words]
        return found

    def cli(self) -> dict[int, list[str]]:
        """Return the command lines of the CLI alone."""
        lines = self.processes().items()
        return {pid: line for pid, line in lines if "--strict-mcp-config" in line and line[0] != "bwrap"}

    @contextlib.contextmanager
    def start(self, *argv: str, words: list[str] | None = None) -> Iterator[Running]:
        """Start the wrapper, or another command in such a container. It is killed when the block ends."""
        pipe = subprocess.PIPE
        words = words or self.claude(*argv)
        process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, env={"PATH": "/usr/bin:/bin"})
        with process:
            try:
                yield Running(process)
            finally:
                process.kill()


class Running:
    """A process with three pipes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self.stdin = process.stdin
        self.stdout = process.stdout

    def line(self) -> bytes:
        """Return the next line of output."""
        return self.stdout.readline()

    def end(self, stdin: bytes = b"", timeout: float = 20) -> tuple[int, bytes, bytes]:
        """Send the rest of stdin and close it. Returns exit code, and what is left of stdout and stderr."""
        out, err = self.process.communicate(stdin, timeout)
        return self.process.returncode, out, err


def make_way(path: Path) -> None:
    """Take away the stand-in at a protected path, as the person does who wants a file there."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    elif path.is_file() and path.read_bytes() in PROTECTED.values():
        path.unlink()


def _launcher() -> Path:
    """Return a copy of the image's launcher that finds the package in /app."""
    text = CLIENT.read_text().replace("/usr/lib/magents", "/app")
    path = ROOT / ".cache" / "bridge-tests" / "claude"
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"claude.{os.getpid()}")
        temporary.write_text(text)
        temporary.chmod(0o755)
        temporary.replace(path)
    return path


class BridgeHost:
    """The server's process and directory."""

    program: tuple[str, ...] = (sys.executable, "-m", "bridge.server")
    """The operator's command. It runs in the folder `cwd`."""
    cwd = ROOT

    def __init__(self, directory: Path, **config: Any) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.config = directory / "bridge.yaml"
        self.log = directory / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.configure(**config)

    def configure(self, **config: Any) -> None:
        """Write bridge.yaml. The defaults are a fake CLI and a secret of the host."""
        config.setdefault("claude", str(FAKE_CLI))
        config["environment"] = {"ANTHROPIC_API_KEY": SECRET, **config.get("environment", {})}
        self.config.write_text(yaml.safe_dump(config))

    def command(self, *argv: str) -> list[str]:
        """Return the operator's command line for this server's state."""
        return [*self.program, *self._chosen(), *argv]

    def _chosen(self) -> list[str]:
        return ["--state", str(self.state), "--config", str(self.config)]

    def tell(self, *argv: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        """Run an operator's command in a process of its own."""
        return subprocess.run(
            self.command(*argv), capture_output=True, text=True, cwd=self.cwd, env=self.environment(**env),
            input=stdin, timeout=60, check=False,
        )  # fmt: skip

    def _ask(self, *argv: str) -> str:
        """Return the output of an operator's command that must succeed.

        It runs in this process, because a new Python takes half a second.
        """
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main([*self._chosen(), *argv])
        assert code == 0, err.getvalue()
        return out.getvalue()

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of the server, with its own home."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.directory / "home"), **more}

    def grant(self, name: str, *shares: str, folder: str = "", more: tuple[str, ...] = ()) -> Place:
        """Grant a workspace: a folder that has the grant's name, or another one. `more` are further options."""
        workspace = self.directory / "workspaces" / (folder or name)
        workspace.mkdir(parents=True, exist_ok=True)
        os.chown(workspace, OWNER, OWNER)
        words = [*(word for share in shares for word in ("--share", share)), *more]
        return Place(name, workspace, Path(self._ask("grant", name, "--workspace", str(workspace), *words).strip()))

    def start(self, *argv: str, **env: str) -> None:
        """Start the server and wait until it is ready."""
        with self.log.open("ab") as log:
            offset = log.tell()
            self.process = subprocess.Popen(
                self.command("serve", *argv), stdout=log, stderr=log, cwd=self.cwd, env=self.environment(**env)
            )
        process = self.process
        ready = b"bridge: ready"
        wait_until(lambda: ready in self.log.read_bytes()[offset:] or process.poll() is not None, 30, "the server")
        assert process.poll() is None, self.log.read_text()

    def end(self, number: int = signal.SIGTERM) -> int:
        """End the server by a signal. Returns its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(20)

    def status(self) -> dict[str, Any]:
        """Return the server's status: what it says of itself, with its grants."""
        found: dict[str, Any] = json.loads(self._ask("status", "--json"))
        schemas.check("bridge-status", found)
        return {**found["server"], **found}

    def calls(self, place: Place) -> list[dict[str, Any]]:
        """Return what the status shows of a grant's calls, at work or not."""
        found: list[dict[str, Any]] = self.status()["grants"][place.name]["calls"]
        return found

    def audit(self) -> list[dict[str, Any]]:
        """Return the entries of the audit log."""
        return [json.loads(line) for line in (self.state / "audit.jsonl").read_text().splitlines()]

    def children(self) -> set[int]:
        """Return the processes that descend from the server, without its policy workers."""
        return descendants(self._server) - self.judges()

    def judges(self) -> set[int]:
        """Return the processes in which the server has large requests checked, and the one that forks them."""
        return {pid for pid in descendants(self._server) if b"bridge.server.policy_worker" in _command_line(pid)}

    @property
    def _server(self) -> int:
        assert self.process is not None
        return self.process.pid


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def descendants(pid: int) -> set[int]:
    """Return all descendants of a process."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (path / "stat").read_text().rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(path.name))
    found: set[int] = set()
    todo = [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found.update(children)
        todo += children
    return found


HostMaker = Callable[..., BridgeHost]


@contextlib.contextmanager
def bridge_host(directory: Path, **config: Any) -> Iterator[BridgeHost]:
    """Run a server. Its log is printed when the test fails inside."""
    host = BridgeHost(directory, **config)
    host.start()
    try:
        yield host
    except BaseException:
        print(host.log.read_text(), file=sys.stderr)
        raise
    finally:
        if host.process is not None and host.process.poll() is None:
            host.end()
        shutil.rmtree(host.state, ignore_errors=True)


def passable(directory: Path) -> Path:
    """Let every user pass through a temporary directory of pytest's to what is below it."""
    for path in (directory, *directory.parents[:-2]):
        path.chmod(path.stat().st_mode | 0o011)
    return directory


def need_bubblewrap(config: pytest.Config, why: str) -> None:
    """Stop a session that is not root's, and install bubblewrap before any worker starts."""
    if os.geteuid() != 0:
        pytest.exit(why, 1)
    if not hasattr(config, "workerinput"):
        try:
            bridge.have_bubblewrap(say_on_stderr)
        except Problem as problem:
            pytest.exit(str(problem), 1)
