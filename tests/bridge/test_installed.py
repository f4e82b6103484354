"""The bridge on a host without this repository: a wheel, installed with pip, that serves a live container."""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import docker
import docker.errors
import pytest

from bridge import __version__
from pipeline.build.image import VARIANTS
from tests.support import bridge_cli, bridge_wheel
from tests.support.bridge_box import Box
from tests.support.bridge_host import BridgeHost
from tests.support.containers import Agents
from tests.support.fake_messages_api import FakeMessagesApi, echo


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bridge_wheel.built(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def commands(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of commands in an empty environment after the wheel was installed there."""
    return bridge_wheel.installed(wheel, tmp_path_factory.mktemp("installed"))


def test_wheel_holds_the_bridge_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        facts = f"claude_code_bridge-{__version__}.dist-info"
        metadata = archive.read(f"{facts}/METADATA").decode()
        scripts = archive.read(f"{facts}/entry_points.txt").decode().split()
    assert {name.split("/")[0] for name in names} == {"bridge", facts}
    source = {str(path.relative_to(bridge_wheel.ROOT)) for path in bridge_wheel.ROOT.glob("bridge/**/*.py")}
    assert {name for name in names if name.startswith("bridge/")} == source
    head = metadata.split("\n\n")[0].splitlines()
    assert [line for line in head if line.startswith("Requires-")] == [
        "Requires-Python: >=3.11",
        "Requires-Dist: pyyaml>=6",
    ]
    assert scripts == ["[console_scripts]", "claude-bridge-server", "=", "bridge.server.operator.cli:main"]


@pytest.mark.parametrize("name", ["agent", "healthcheck", "pipeline"])
def test_no_other_package_of_the_repository_is_installed(commands: Path, tmp_path: Path, name: str) -> None:
    program = f"import bridge, importlib.util; print(importlib.util.find_spec({name!r}))"
    words = [str(commands / "python"), "-c", program]
    assert subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, text=True).stdout == "None\n"
    assert not (commands / "agent-status").exists()


class InstalledHost(BridgeHost):
    """A server that runs from the environment, in a folder without the repository."""

    def __init__(self, directory: Path, commands: Path, **config: object) -> None:
        super().__init__(directory, **config)
        self.program = (str(commands / "claude-bridge-server"),)
        self.cwd = directory


@pytest.fixture
def installed_host(commands: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InstalledHost]:
    """Such a server with the real CLI and our own Messages API."""
    with FakeMessagesApi() as api:
        api.part = echo
        environment = {"ANTHROPIC_BASE_URL": api.url, "CLAUDE_CODE_MAX_RETRIES": "0"}
        cli = str(bridge_cli.installed(bridge_cli.NEWEST))
        host = InstalledHost(tmp_path_factory.mktemp("host"), commands, claude=cli, environment=environment)
        host.start()
        yield host
        assert host.end() == 0


@pytest.fixture
def prod_image(request: pytest.FixtureRequest) -> str:
    reference = f"{request.config.getoption('--repository')}:{VARIANTS['prod'].tag}"
    client = docker.from_env()
    try:
        client.images.get(reference)
    except docker.errors.ImageNotFound:
        pytest.exit(f"image {reference} is missing; run `bin/invoke build.prod`", 1)
    finally:
        client.close()
    return reference


def test_installed_server_serves_a_live_container(
    installed_host: InstalledHost, prod_image: str, no_leftovers: None
) -> None:
    place = installed_host.grant("alpha")
    agents = Agents(prod_image)
    try:
        done = Box(agents, place).run("claude-code", "-p", "hello there")
    finally:
        agents.close(show=False)
    assert (done.returncode, done.stdout.decode().strip()) == (0, "heard: hello there"), done.stderr
    assert installed_host.tell("doctor").returncode == 0
    assert installed_host.status()["served"] == 1
