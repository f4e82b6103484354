"""compose.yaml as people use it: copied alone into an empty folder, and started with `docker compose up`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.compose_folder import SERVICES, ComposeFolder, values

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path, image: str, variant: str) -> Iterator[ComposeFolder]:
    shutil.copy(ROOT / "compose.yaml", tmp_path)
    made = ComposeFolder(tmp_path, SERVICES[variant], {**os.environ, **values(image)})
    try:
        made.up()
        yield made
    finally:
        made.compose("down", "--volumes", "--timeout", "1")


def test_agent_works_on_a_read_only_root(project: ComposeFolder) -> None:
    host = project.container()["HostConfig"]
    assert isinstance(host, dict)
    assert (host["ReadonlyRootfs"], host["CapDrop"]) == (True, ["ALL"])
    assert project.sh(
        "touch /workspace/a /shared/b /agent/c /tmp/d && whoami && tmux list-sessions -F '#S'"
    ).split() == [
        "agent",
        "agent",
    ]
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", project.sh("task-master --version"))


def test_shared_is_the_groups_also_where_it_is_empty(project: ComposeFolder) -> None:
    for _ in range(2):
        assert project.sh("stat -c '%u:%g %a' /shared; id -G").split() == ["0:61000", "2775", "1000", "61000"]
        project.compose("up", "--detach", "--wait", "--force-recreate", project.service)


def test_health_is_published_on_loopback_alone(project: ComposeFolder) -> None:
    published = project.container()["NetworkSettings"]
    assert isinstance(published, dict)
    addresses = {one["HostIp"] for bindings in published["Ports"].values() if bindings for one in bindings}
    assert addresses == {"127.0.0.1"}


def test_down_is_graceful_and_data_stays(project: ComposeFolder) -> None:
    project.sh("for place in workspace shared agent; do echo kept > /$place/record; done")
    project.compose("stop", project.service)
    state = project.container()["State"]
    assert isinstance(state, dict)
    assert state["ExitCode"] == 0
    project.compose("down")
    project.up()
    assert project.sh("cat /workspace/record /shared/record /agent/record").split() == ["kept"] * 3


@pytest.mark.variant("dev")
def test_tcpdump_captures_in_the_dev_profile(project: ComposeFolder) -> None:
    told = project.sh(
        "timeout 20 tcpdump -i lo -c 1 -n > /tmp/packet 2> /tmp/told & pid=$!; "
        "until grep -q listening /tmp/told; do kill -0 $pid || exit 1; done; "
        "curl -s http://127.0.0.1:3999/live > /dev/null; wait $pid; cat /tmp/packet"
    )
    assert "127.0.0.1.3999" in told


def test_grant_that_is_gone_is_an_error_and_no_folder_of_root_s(project: ComposeFolder) -> None:
    gone = project.folder / "grant"
    command = ["docker", "compose", "up", "--detach", project.service]
    environment = {**project.environment, "AGENT_BRIDGE": str(gone)}
    done = subprocess.run(command, cwd=project.folder, env=environment, capture_output=True, text=True)
    assert (done.returncode != 0, str(gone) in done.stderr) == (True, True)
    assert not gone.exists()


def test_copies_in_two_folders_have_nothing_in_common(tmp_path: Path) -> None:
    """Compose calls containers after their project. Volumes have a name of the project's, too."""
    environment = {name: value for name, value in os.environ.items() if name != "COMPOSE_PROJECT_NAME"}
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copy(ROOT / "compose.yaml", tmp_path / name)
        command = ["docker", "compose", "config", "--format", "json"]
        said = subprocess.run(command, cwd=tmp_path / name, env=environment, check=True, capture_output=True).stdout
        project = json.loads(said)
        found.append({project["name"], *(volume["name"] for volume in project["volumes"].values())})
    assert not found[0] & found[1]
    assert "two_agent" in found[1]


def test_every_value_is_in_the_example() -> None:
    template = (ROOT / "compose.yaml").read_text()
    used = set(re.findall(r"\$\{([A-Z_]+)|^    ([A-Z_]+):$", template, re.MULTILINE))
    used = {value or passed_on for value, passed_on in used} | {"COMPOSE_PROJECT_NAME"}
    assert used == set(re.findall(r"^# ([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert yaml.safe_load(template)["services"]
