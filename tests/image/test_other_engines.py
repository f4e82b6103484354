"""Engines that are not the usual one, live: rootless, with userns-remap, reached over TCP, Podman.

They run once, with prod: the variant makes no difference here, and copying an image takes long.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker.models.containers import Container

from pipeline.agents import compose
from pipeline.agents.workspace import Owner, owner_of
from pipeline.bootstrap import doctor, engine
from pipeline.build.image import Variant
from pipeline.files import ROOT
from tests.support.second_engine import (
    PERSON,
    REMAPPED_FIRST,
    ROOTLESS,
    Podman,
    RemappedEngine,
    RootlessEngine,
    SecondEngine,
    second_engine,
)
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.variant("prod"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces"),  # the gate runs as root: never there
]


class TheImage(Variant):
    """The image under test, in whatever repository it is."""

    @property
    def reference(self) -> str:
        return self.tag


# Rootless


@pytest.fixture(scope="module")
def rootless(image: str) -> Iterator[SecondEngine]:
    if not Path(ROOTLESS).exists():
        pytest.skip("this machine's Docker has no dockerd-rootless.sh")  # The gate runs on Debian with
        # Debian's package, which has it, so there it never skips. Docker's own packages keep it in one that is apart.
    with second_engine(RootlessEngine) as made:
        made.copy_image(image)
        yield made
        with made.client() as client:
            for container in client.containers.list(all=True):
                container.remove(force=True, v=True)


@pytest.fixture(scope="module")
def workspace(rootless: SecondEngine) -> Path:
    return persons(rootless.folder / "workspace")


def persons(folder: Path) -> Path:
    folder.mkdir()
    os.chown(folder, PERSON, PERSON)
    return folder


@pytest.fixture(scope="module")
def listener(rootless: SecondEngine) -> Iterator[socket.socket]:
    """A socket in place of the bridge's, in a directory as a grant has."""
    with socket.socket(socket.AF_UNIX) as made:
        path = persons(rootless.folder / "grant") / "claude-bridge.sock"
        made.bind(str(path))
        path.chmod(0o666)
        made.listen()
        yield made


@pytest.fixture(scope="module")
def agent(rootless: SecondEngine, image: str, workspace: Path, listener: socket.socket) -> Iterator[Container]:
    """An agent that `up` started: the person's folder, no number chosen by hand."""
    with pytest.MonkeyPatch.context() as patch, rootless.client() as client:
        patch.setenv("DOCKER_HOST", rootless.address)
        owner = owner_of(workspace, engine.kind(), chown=False, as_root=False)
        assert owner == Owner(0, 0, PERSON)
        grant = Path(listener.getsockname()).parent
        running = compose.up(client, TheImage("prod", image), "rootless", workspace, owner, print, grant)
        assert running.status == "healthy"
        yield client.containers.get(running.container)


def test_agent_of_a_rootless_engine_is_the_person_without_a_warning(agent: Container, workspace: Path) -> None:
    assert agent.exec_run(["touch", "/workspace/made"]).exit_code == 0
    assert (workspace / "made").stat().st_uid == (workspace / ".vscode").stat().st_uid == PERSON
    assert b"Read-only file system" in agent.exec_run(["touch", "/workspace/.vscode/made"]).output
    said = agent.logs().decode()
    assert "runs a login shell as 0:0" in said
    assert "WARNING" not in said


def test_bridge_sees_the_person_as_the_peer_of_a_rootless_agent(agent: Container, listener: socket.socket) -> None:
    knock = "import socket; socket.socket(socket.AF_UNIX).connect('/host/claude-bridge.sock')"
    assert agent.exec_run(["python3", "-c", knock]).exit_code == 0
    peer, _ = listener.accept()
    with peer:
        found = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    assert struct.unpack("3i", found)[1] == PERSON


def test_health_of_a_rootless_agent_names_the_number_that_helps(
    rootless: SecondEngine, image: str, workspace: Path
) -> None:
    with rootless.client() as client:
        started = client.containers.run(image, detach=True, user="1000:1000", volumes=[f"{workspace}:/workspace"])
        wait_until(lambda: b"start the container with `--user 0:0`" in started.logs(), 20, "the remedy")


def test_doctor_names_the_person_of_a_rootless_engine(rootless: SecondEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", rootless.address)
    assert [row.detail for row in doctor.examine() if row.what == "users" and f"uid {PERSON} here" in row.detail]


# userns-remap, TCP, Podman: refused before anything is made


@pytest.fixture(scope="module", params=[RemappedEngine, Podman], ids=["remapped", "podman"])
def other(request: pytest.FixtureRequest) -> Iterator[SecondEngine]:
    with second_engine(request.param) as made:
        yield made


def up(address: str, workspace: Path, state: Path) -> str:
    """Run `up` with an engine that it refuses. Returns its only line."""
    own = {"DOCKER_HOST": address, "CLAUDE_BRIDGE_STATE": str(state)}
    command = [sys.executable, "-m", "invoke", "up", "--workspace", str(workspace)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **own}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    return line


def test_up_refuses_another_kind_of_engine_in_one_line_and_makes_nothing(other: SecondEngine, tmp_path: Path) -> None:
    os.chown(tmp_path, 1000, 1000)
    line = up(other.address, tmp_path, tmp_path / "bridge")
    if isinstance(other, RemappedEngine):
        number = REMAPPED_FIRST + 1000
        assert f"type `sudo chown -R {number}:{number} {tmp_path}`" in line
        line = up(other.remote, tmp_path, tmp_path / "bridge")
        assert f"{other.remote} is reached over the network" in line
    else:
        assert f"type `podman run --detach --user 1000:1000 --publish 127.0.0.1:3999:3999 --volume {tmp_path}:" in line
    with other.client() as client:
        assert (client.images.list(), client.containers.list(all=True), client.volumes.list()) == ([], [], [])
    assert list(tmp_path.iterdir()) == []


def test_doctor_names_another_kind_of_engine(other: SecondEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    remapped = isinstance(other, RemappedEngine)
    monkeypatch.setenv("DOCKER_HOST", other.remote if isinstance(other, RemappedEngine) else other.address)
    rows = {row.what: row for row in doctor.examine()}
    if remapped:
        assert f"uid 1000 in containers is uid {REMAPPED_FIRST + 1000} here" in rows["users"].detail
        assert (rows["folders"].state, rows["folders"].remedy) == ("warning", "unset DOCKER_HOST")
    else:
        assert (rows["engine"].state, "Podman" in rows["engine"].detail) == ("missing", True)
