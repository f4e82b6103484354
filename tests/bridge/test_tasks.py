"""The tasks as a person types them, on a state directory of the test; and agents that they start."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import yaml

from pipeline import bridge
from pipeline.agents import compose, lifecycle
from pipeline.agents.workspace import Owner
from pipeline.build import image as images
from tests.support.bridge_host import FAKE_CLI, OWNER, ROOT, SECRET


@pytest.fixture
def own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state directory and a configuration with the scripted CLI, for this process and its children."""
    directory = tmp_path_factory.mktemp("own")
    monkeypatch.setenv("CLAUDE_BRIDGE_STATE", str(directory / "state"))
    monkeypatch.setenv("CLAUDE_BRIDGE_CONFIG", str(directory / "bridge.yaml"))
    configure(directory, claude=str(FAKE_CLI))
    yield directory
    bridge.down(print)


def configure(directory: Path, **config: str) -> None:
    config_with_key = {**config, "environment": {"ANTHROPIC_API_KEY": SECRET}}
    (directory / "bridge.yaml").write_text(yaml.safe_dump(config_with_key))


@pytest.fixture
def workspace(own_state: Path) -> Path:
    folder = own_state / "workspace"
    folder.mkdir()
    os.chown(folder, OWNER, OWNER)
    return folder


def invoke(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a task as `bin/invoke` does."""
    command = [sys.executable, "-m", "invoke", "--search-root", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, cwd=ROOT)


def test_up_status_doctor_down(own_state: Path, workspace: Path) -> None:
    up = invoke("bridge.up", "--workspace", str(workspace), "--name", "one")
    assert (up.returncode, "9.9.9 (Claude Code)" in up.stdout) == (0, True), up.stderr
    mount = own_state / "state" / "grants" / "one"
    assert f"AGENT_BRIDGE={mount}\n" in up.stdout
    assert (mount / "claude-bridge.sock").is_socket()
    first = up.stdout.split()[2]
    assert invoke("bridge.up").stdout.split()[2] == first, "a server that runs is left alone"
    shown = invoke("bridge.status")
    assert (shown.returncode, str(workspace) in shown.stdout) == (0, True)
    assert invoke("bridge.doctor").returncode == 0
    down = invoke("bridge.down")
    assert (down.returncode, down.stdout) == (0, f"bridge server {first} is stopped\n")
    assert not (mount / "claude-bridge.sock").exists()
    assert mount.is_dir(), "a mount's source stays"
    assert invoke("bridge.status").returncode == 1
    assert "no bridge server runs" in invoke("bridge.down").stdout


def test_host_without_claude_is_said_in_one_line(own_state: Path, workspace: Path) -> None:
    configure(own_state, claude="/nonexistent/claude")
    said: list[str] = []
    mount = bridge.for_agent("one", workspace, said.append)
    assert said == [bridge.NO_CLAUDE]
    assert mount is not None
    assert mount.is_dir(), "later `bridge.up` reaches the agent without making it anew"


def test_mistake_in_the_configuration_keeps_no_agent_from_living(own_state: Path, workspace: Path) -> None:
    (own_state / "bridge.yaml").write_text("x: 1")
    said: list[str] = []
    bridge.for_agent("one", workspace, said.append)
    (line,) = said
    assert "x is not known" in line
    assert line.endswith("going on without the host's Claude Code")
    assert invoke("bridge.up").returncode == 64


@pytest.fixture
def variant(image: str, monkeypatch: pytest.MonkeyPatch) -> images.Variant:
    """The variant of the image under test, in whatever repository it is."""
    monkeypatch.setattr(images, "REPOSITORY", image.rpartition(":")[0])
    return next(one for one in images.VARIANTS.values() if one.tag == image.rpartition(":")[2])


def test_agent_that_up_starts_has_claude(own_state: Path, workspace: Path, variant: images.Variant) -> None:
    name = f"bridge-{uuid.uuid4().hex[:8]}"
    client = docker.from_env()
    said: list[str] = []
    mount = bridge.for_agent(name, workspace, said.append)
    try:
        running = compose.up(client, variant, name, workspace, Owner(OWNER, OWNER), said.append, mount)
        done = subprocess.run(
            ["docker", "exec", running.container, "claude-code", "-p", "touch made;out here"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "here"), done.stderr
        assert (workspace / "made").stat().st_uid == OWNER
        compose.up(client, variant, name, workspace, Owner(OWNER, OWNER), said.append, mount)
        assert f"agent {name} runs already" in said
    finally:
        compose.down(client, [name], said.append)
        client.volumes.get(f"magents-{name}-agent").remove()
        client.close()


def test_lifecycle_asks_claude(own_state: Path, variant: images.Variant) -> None:
    client = docker.from_env()
    steps = {}
    said: list[str] = []
    acting = lifecycle.run_lifecycle(client, variant, said.append)
    for step in acting:
        steps[step.name] = step
        if "Claude" in step.name:
            acting.close()
            break
    client.close()
    asked = steps["ask the host's Claude Code for its version"]
    assert (asked.passed, asked.seen) == (True, "9.9.9 (Claude Code)")
    assert list((own_state / "state" / "grants").iterdir()) == [], "the grant is forgotten"
