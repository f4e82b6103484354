"""Several agents by one command, as a person types it: up, restart, update, send, down, and what a KILL leaves."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import docker.errors
import pytest
from docker.models.containers import Container

from tests.chaos.kills import kill_at_random
from tests.support.fleets import Fleet
from tests.support.waiting import wait_until

pytestmark = pytest.mark.variant("prod")  # what is tested is this machine's side, which is one for both
MakeFleet = Callable[[int], Fleet]
UNHEALTHY = "USER root\nRUN rm /usr/lib/magents/agent/main.py\nUSER 1000"
"""What an image has in its Dockerfile that never becomes healthy."""


@pytest.fixture
def fleet(client: docker.DockerClient, image: str) -> Iterator[MakeFleet]:
    made: list[Fleet] = []
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:  # pytest's own folders are closed to others

        def make(size: int) -> Fleet:
            place = Path(directory) / str(len(made))
            place.mkdir()
            Path(directory).chmod(0o755)
            made.append(Fleet(client, place, size, image=image))
            return made[-1]

        yield make
        for each in made:
            each.remove()


def variables(container: Container) -> dict[str, str]:
    return dict(line.partition("=")[::2] for line in container.attrs["Config"]["Env"])


def marks(containers: list[Container]) -> list[tuple[str, str]]:
    return [(str(each.id), each.attrs["State"]["StartedAt"]) for each in containers]


def volumes_of(fleet: Fleet) -> set[str]:
    """Return the volumes of all containers of a fleet, also of those that prepare volumes."""
    every = [each for each in fleet.client.containers.list(all=True) if fleet.name in str(each.name)]
    assert len(every) == 2 * fleet.size
    return {mount["Name"] for each in every for mount in each.attrs["Mounts"] if mount["Type"] == "volume"}


def limits(container: Container) -> tuple[int, int, str, str]:
    settings, given = container.attrs["HostConfig"], variables(container)
    return settings["NanoCpus"], settings["Memory"], given["AGENT_COMMAND"], given.get("FLEET_TOKEN", "")


def test_agents_of_one_command_keep_their_settings_and_leave_nothing(fleet: MakeFleet) -> None:
    """Up, up again, restart, down, half an agent, up again in the old way, and down with volumes."""
    two = fleet(2)
    token = f"secret-{uuid.uuid4().hex} $HOME"
    command = 'echo "it\'s $HOME" > said; exec sleep 1000'
    chosen = ["--command", command, "--cpus", "0.5", "--memory", "300m", "--env", "FLEET_TOKEN"]
    refused = two.run(*two.up, *chosen)
    assert refused.returncode == 64
    assert "--env FLEET_TOKEN: it is not set in this shell, so nothing was started" in refused.stderr
    two.good(*two.up, *chosen, given={"FLEET_TOKEN": token})
    containers = two.containers()
    expected = (500_000_000, 300 << 20, command, token)
    assert [limits(each) for each in containers] == [expected] * 2
    assert volumes_of(two) == {"magents-shared", *(f"magents-{name}-agent" for name in two.names)}, "all have a name"
    assert two.grants() == two.names
    texts = [two.workspaces / name / "said" for name in two.names]
    wait_until(lambda: all(map(Path.exists, texts)), 20, "the commands")
    assert wait_until(lambda: {path.read_text() for path in texts} - {""}, 20, "a text") == {"it's /agent/home\n"}
    kept = "".join(path.read_text() for path in (two.state / "agents").iterdir())
    assert token not in kept + json.dumps([each.labels for each in containers]), "its value is in the container alone"
    assert [probe["ExitCode"] for each in containers for probe in each.attrs["State"]["Health"]["Log"]] == [0, 0], (
        "the engine's first question waits for the agent"
    )
    unknown = two.run("agents.down", two.names[0], "nobody")
    assert (unknown.returncode, "there is no agent nobody" in unknown.stderr) == (64, True)
    assert unknown.stderr.rstrip().endswith("so nothing was stopped; leave that name out")
    two.good(*two.up)
    assert marks(two.containers()) == marks(containers), "up again changes nothing, and needs no variable"
    assert two.good("agents.restart", two.names[0]) == f"agent {two.names[0]} is restarted and healthy\n"
    two.containers()[0].pause()
    two.good(*two.up)
    now = two.containers()
    assert [(each.id, each.status) for each in now] == [(each.id, "running") for each in containers]
    assert (marks(now)[0] != marks(containers)[0], marks(now)[1]) == (True, marks(containers)[1])

    now[0].remove(force=True)  # half an agent
    assert two.known() == set(two.names)
    assert f"agent {two.names[0]} had no container; what was left of it is ended" in two.good(*two.down)
    assert list(two.left()) == []
    assert not two.known()
    assert two.run("agents.up", two.names[0]).returncode == 64, "a value that is nowhere is asked for"
    two.good("agents.up", two.names[0], "--env", "", "--cpus", "0")
    (one,) = two.containers()
    assert limits(one) == (0, 300 << 20, command, "")

    asked = two.run("agents.down", "--volumes", *two.names)
    assert (asked.returncode, len(two.containers())) == (64, 1)
    assert f"removes for good: agent {two.names[1]}: volume magents-{two.names[1]}-agent" in asked.stderr
    two.good("agents.down", "--volumes", "--yes", *two.names)
    assert list(two.left()) == []
    assert two.client.volumes.list(filters={"name": two.name}) == []
    assert [path.name for path in (two.state / "agents").iterdir() if two.name in path.name] == []
    assert "there is no agent" in two.run(*two.down).stderr


@pytest.fixture
def images(client: docker.DockerClient, image: str) -> Iterator[Callable[[str, str], str]]:
    """Give a tag to an image made FROM the one under test."""
    made: list[str] = []

    def build(tag: str, more: str) -> str:
        text = f"FROM {image}\n{more}\n"
        done = subprocess.run(
            ["docker", "build", "--quiet", "--tag", tag, "-"], input=text, text=True, check=True, capture_output=True
        )
        made.extend((tag, done.stdout.strip()))
        return done.stdout.strip()

    yield build
    for each in dict.fromkeys(reversed(made)):
        with contextlib.suppress(docker.errors.ImageNotFound):  # ignored because the last tag of an image removes it
            client.images.remove(each, force=True)


def test_update_is_one_at_a_time_and_goes_back_from_an_image_that_is_not_healthy(
    images: Callable[[str, str], str], fleet: MakeFleet
) -> None:
    two = fleet(2)
    two.image = tag = f"magents-test:{uuid.uuid4().hex[:8]}"
    first = images(tag, "LABEL test=1")
    two.good(*two.up, "--command", "exec sleep 1000", "--memory", "300m")
    for each in two.containers():
        assert each.exec_run(["sh", "-c", "echo kept > /agent/record"]).exit_code == 0
    same = two.run("agents.update", *two.names)
    assert (same.returncode, same.stdout.count("has the newest image already"), same.stderr) == (0, 2, "")
    second = images(tag, "LABEL test=2")
    two.containers()[1].stop()
    told = two.good("agents.update", *two.names)
    assert re.findall(r"agent (\S+) is (?:healthy|stopped and stays so)", told) == two.names[::-1], (
        "who is stopped comes first"
    )
    assert [each.status for each in two.containers()] == ["running", "exited"]
    assert two.run("agents.wait", two.names[1]).returncode == 1
    two.good("agents.up", two.names[1])
    assert [each.attrs["Image"] for each in two.containers()] == [second] * 2
    images(tag, UNHEALTHY)
    before = two.containers()
    failed = two.run("agents.update", *two.names)
    assert failed.returncode == 1
    assert f"agent {two.names[0]} did not come up with {tag} and is back on the image that it had" in failed.stderr
    now = two.containers()
    assert [each.attrs["Image"] for each in now] == [second] * 2
    assert [each.attrs["State"]["Health"]["Status"] for each in now] == ["healthy"] * 2
    assert marks(now)[1] == marks(before)[1], "those after it are left alone"
    for each in now:
        assert each.exec_run(["cat", "/agent/record"]).output == b"kept\n"
        assert limits(each) == (0, 300 << 20, "exec sleep 1000", "")
    assert first not in (second, now[0].attrs["Image"])


TEXT = "printf '%s\\n' \"it's\" '--dash' 'ä🙂' > said\n# " + "x" * 100_000 + "\nwc -c < said > size\n"


def test_text_reaches_the_pane_as_it_is(fleet: MakeFleet) -> None:
    one = fleet(1)
    one.good(*one.up)
    (name,) = one.names
    place = one.workspaces / name
    assert one.good("agents.send", name, "-", text=TEXT) == f"agent {name}: the text is typed into its pane\n"
    size = place / "size"
    wait_until(lambda: size.exists() and size.read_text(), 60, "the end of the text")
    assert (place / "said").read_text() == "it's\n--dash\nä🙂\n"
    refused = one.run("agents.send", name, "-", text="a\x1b[201~b")
    assert (refused.returncode, "control character" in refused.stderr) == (64, True), refused.stderr
    one.containers()[0].stop()
    assert "does not run (exited), so nothing was sent" in one.run("agents.send", name, "true").stderr


def test_next_call_finishes_what_a_killed_one_began(fleet: MakeFleet) -> None:
    two = fleet(2)
    seed = int(os.environ.get("FLEET_SEED", "21"))  # a `down` at two thirds of its time, and an `up` in its middle
    assert len(list(kill_at_random(two, random.Random(seed), 2))) == 2
