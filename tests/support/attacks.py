"""What an attack needs: a workspace that the attacker fills, an API of the attacker, and a file to steal."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.bridge_cli import NEWEST, VERSIONS
from tests.support.bridge_host import OWNER, SECRET, Place, make_way
from tests.support.fake_messages_api import FakeMessagesApi, echo
from tests.support.real_host import RealHost, real_server
from tests.support.stream_json import STREAM, ask, reply, user

HOST_TEXT = "text-of-a-file-of-the-host"
VARIABLE = "aws-secret-of-the-operator"
OPERATOR = {"AWS_SECRET_ACCESS_KEY": VARIABLE}
"""The CLI takes this secret only as a variable."""
RUN = "test -d /app || touch marker"
"""Leaves the marker everywhere except in the container, which alone has /app. A command may run there."""
HOOK = {"hooks": [{"type": "command", "command": RUN}]}
HOOKS = {
    name: [{"matcher": "", **HOOK}]
    for name in ("SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse", "Stop", "SessionEnd")
}
SERVER = {"command": "/bin/sh", "args": ["-c", RUN]}


class Range:
    """A workspace that the attacker fills, an API of the attacker, and a file of the host to steal."""

    def __init__(self, real: RealHost, evil: FakeMessagesApi, secret: Path) -> None:
        self.real = real
        self.evil = evil
        self.secret = secret
        self.place: Place = real.place()

    def write(self, name: str, content: str | dict[str, Any]) -> None:
        """Write a file in the workspace, with the workspace's owner."""
        path = self.place.workspace / name
        path.parent.mkdir(parents=True, exist_ok=True)
        make_way(path)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        for made in (path, *path.parents):
            if self.place.workspace in made.parents:
                os.chown(made, OWNER, OWNER)

    def call(
        self,
        *argv: str,
        stdin: bytes | None = None,
        env: dict[str, str] | None = None,
        code: int = 0,
        asks: bool = True,
    ) -> str:
        """Make a call that must end with exit code `code`, check that no attack succeeded, and return all output.

        With `asks`, the model must have been asked: a case that never gets that far proves nothing.
        """
        before = len(self.real.api.prompts)
        done = self.place.run(*argv, stdin=stdin, env=env)
        said = (done.stdout + done.stderr).decode("utf-8", "replace")
        assert done.returncode == code, said
        assert not asks or len(self.real.api.prompts) > before, f"the model was never asked: {said}"
        self.check(said)
        return said

    def check(self, said: str) -> None:
        """Check that nothing ran and nothing was stolen."""
        assert not self.marker, "a command of the attacker's ran on the host"
        assert not self.evil.requests, "the attacker's API was spoken to"
        heard = said + "".join(request.everything for request in self.real.api.requests)
        assert SECRET not in heard
        assert VARIABLE not in heard
        assert HOST_TEXT not in heard
        assert "root:x:0" not in heard

    @property
    def marker(self) -> bool:
        return any(self.place.workspace.glob("**/marker"))

    def directly(self, *argv: str, stdin: bytes = b"", **env: str) -> None:
        """Run the CLI without a bridge, as a naive bridge would."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.place.workspace.parent / "home"), **env}
        environment |= {"ANTHROPIC_API_KEY": SECRET, "CLAUDE_CODE_MAX_RETRIES": "0"}
        environment.setdefault("ANTHROPIC_BASE_URL", self.real.api.url)
        words = [self.real.cli, *argv]
        subprocess.run(
            words, cwd=self.place.workspace, env=environment, input=stdin, capture_output=True, timeout=120, check=False
        )


NONE = f"{NEWEST} without a namespace"


@pytest.fixture(scope="module", params=[*VERSIONS, NONE])
def attacked_host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealHost]:
    """A server for each version, and one with `confinement: none`, which must be safe too except for files."""
    if request.param != NONE:
        with real_server(tmp_path_factory.mktemp("real"), request.param, environment=OPERATOR) as host:
            yield host
        return
    # pytest's own directories are closed to all other users, and the CLI has to reach its scratch directory.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as passable:
        Path(passable).chmod(0o755)
        with real_server(Path(passable), NEWEST, confinement="none") as host:
            yield host


@pytest.fixture(scope="module", params=VERSIONS)
def confined_host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealHost]:
    """For cases that are safe only in a namespace. Without one, the file tools reach all that the user can reach."""
    with real_server(tmp_path_factory.mktemp("real"), request.param, environment=OPERATOR) as host:
        yield host


@pytest.fixture(scope="module")
def newest_attacked_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealHost]:
    """For cases in which the policy decides before any CLI is started, so that the version does not matter."""
    with real_server(tmp_path_factory.mktemp("real"), NEWEST, environment=OPERATOR) as host:
        yield host


@pytest.fixture
def secret(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file that everyone on the host can read. No container can."""
    path = Path("/var/tmp") / f"bridge-secret-{os.getpid()}"
    path.write_text(HOST_TEXT)
    path.chmod(0o644)
    yield path
    path.unlink()


@contextmanager
def _range(host: RealHost, secret: Path) -> Iterator[Range]:
    """A new grant, and an API without recorded requests that repeats what it is sent."""
    host.api.part = echo
    host.api.requests.clear()
    with FakeMessagesApi() as evil:
        yield Range(host, evil, secret)


@pytest.fixture
def field(attacked_host: RealHost, secret: Path) -> Iterator[Range]:
    with _range(attacked_host, secret) as found:
        yield found


@pytest.fixture
def confined(confined_host: RealHost, secret: Path) -> Iterator[Range]:
    with _range(confined_host, secret) as found:
        yield found


@pytest.fixture
def newest(newest_attacked_host: RealHost, secret: Path) -> Iterator[Range]:
    with _range(newest_attacked_host, secret) as found:
        yield found


def approve_everything(field: Range, *argv: str) -> None:
    """Hold a conversation of one turn, with a client that approves everything it is asked."""
    with field.place.start(*STREAM, "--permission-prompt-tool", "stdio", *argv) as running:
        running.stdin.write(ask("initialize", hooks=None) + user("go on"))
        running.stdin.flush()
        while raw := running.line():
            message = json.loads(raw)
            if message.get("request", {}).get("subtype") == "can_use_tool":
                allowed = {"behavior": "allow", "updatedInput": message["request"]["input"]}
                running.stdin.write(reply(message, allowed))
                running.stdin.flush()
            if message["type"] == "result":
                break
        running.end()
