"""What `up` starts: the container of compose.yaml. It replaces those of earlier versions, and keeps one that fits."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.models.containers import Container

from pipeline import bridge
from pipeline.agents import compose, overview, ps
from pipeline.agents import workspace as workspaces
from pipeline.agents.host import NO_IDENTITY, PROXIES, Host, findings
from pipeline.agents.starting import Wanted
from pipeline.agents.workspace import Owner
from pipeline.bootstrap import engine
from pipeline.build import derived
from pipeline.build.derived import Derived
from pipeline.build.image import CA_VARIABLES, VARIANTS, Options, Variant
from pipeline.errors import Problem
from pipeline.files import ROOT
from pipeline.up import from_bare_machine
from tests.support import certificate, schemas
from tests.support.containers import Agent
from tests.support.waiting import wait_until

of_this_machine = pytest.mark.variant("prod")
"""What is tested is this machine's side, which is one for both variants."""

UID = 1000
OWN = ("Binds", "Mounts", "NetworkMode", "PortBindings", "ContainerIDFile")
"""These differ between containers. Everything else that the engine shows must come from compose.yaml."""


@dataclass
class Person:
    """A person who runs `up`, `agents.ps` and `agents.down` for one agent."""

    client: docker.DockerClient
    variant: Variant
    name: str
    folder: Path
    told: list[str]

    def workspace(self, name: str = "workspace") -> Path:
        made = self.folder / name
        made.mkdir(exist_ok=True)
        os.chown(made, UID, UID)
        return made

    def up(self, workspace: Path | None = None, host: Host | None = None) -> Container:
        self.told.clear()
        folder = workspace or self.workspace()
        owner = Owner(UID, UID)
        running = compose.up(self.client, self.variant, self.name, folder, owner, self.told.append, host=host)
        assert running.status == "healthy"
        return self.client.containers.get(running.container)

    def down(self) -> None:
        compose.down(self.client, [self.name], self.told.append)


@pytest.fixture
def person(
    client: docker.DockerClient, image: str, variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Person]:
    name = f"test-{uuid.uuid4().hex[:8]}"
    monkeypatch.setattr(compose, "SHARED_VOLUME", f"magents-{name}-shared")
    yield Person(client, Derived(variant, image), name, tmp_path, [])
    for container in client.containers.list(all=True, filters={"name": f"magents-{name}"}):
        container.remove(force=True)
    for volume in client.volumes.list(filters={"name": f"magents-{name}"}):
        volume.remove(force=True)


def settings(container: Container) -> dict[str, Any]:
    host = {key: value for key, value in container.attrs["HostConfig"].items() if key not in OWN}
    config = {key: container.attrs["Config"][key] for key in ("User", "StopTimeout", "Image", "Entrypoint", "Cmd")}
    return host | config


def test_up_is_as_tight_as_the_template(person: Person, shared_agent: Container, variant: str) -> None:
    found = settings(person.up())
    assert found == settings(shared_agent)
    assert (found["ReadonlyRootfs"], found["CapDrop"], found["Memory"]) == (True, ["ALL"], 8 << 30)
    assert (found["PidsLimit"], set(found["Tmpfs"]), found["ShmSize"]) == (4096, {"/tmp", "/run"}, 1 << 30)
    assert found["SecurityOpt"] == (None if variant == "dev" else ["no-new-privileges:true"])
    assert found["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}


@of_this_machine
def test_up_again_leaves_a_running_agent_alone(person: Person) -> None:
    first = person.up()
    second = person.up()
    assert (first.id, first.attrs["State"]["StartedAt"]) == (second.id, second.attrs["State"]["StartedAt"])
    assert f"agent {person.name} runs already" in person.told


@of_this_machine
def test_up_starts_a_stopped_agent_again(person: Person) -> None:
    first = person.up()
    first.stop()
    assert person.up().id == first.id
    assert not [line for line in person.told if "replaced" in line]


@of_this_machine
def test_folders_of_one_name_have_agents_of_their_own(
    person: Person, image: str, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three `up` at the same time, two of them on one folder. Then the name of that folder's agent is taken away."""
    monkeypatch.setenv("CLAUDE_BRIDGE_STATE", str(person.folder / "state"))
    monkeypatch.setattr(bridge, "for_agent", lambda *_: None)
    folders = [person.workspace(place) / person.name for place in "ab"]
    for folder in folders:
        folder.mkdir()
        os.chown(folder, UID, UID)
    a, b = folders

    def up(folder: Path, name: str | None = None, *, replace: bool = False) -> compose.Running:
        wanted = Wanted(folder, name, VARIANTS[variant], image, replace=replace)
        return from_bare_machine([wanted], Options(), person.told.append, print)[0]

    with ThreadPoolExecutor(3) as pool:
        first, same, other = pool.map(up, (a, a, b))
    assert first == same
    assert f"agent {first.name} runs already" in person.told, "the second one waited for the first"
    assert {first.name, other.name} == {person.name, f"{person.name}-2"}
    container = person.client.containers.get(first.container)
    assert container.exec_run(["sh", "-c", "echo kept > /agent/record"]).exit_code == 0
    with pytest.raises(
        Problem, match=f"^agent {first.name} belongs to {a}, .* add --replace to end {first.name} there$"
    ):
        up(b, first.name)
    started = container.attrs["State"]["StartedAt"]
    container.reload()
    assert (container.status, container.attrs["State"]["StartedAt"]) == ("running", started)

    taken = person.client.containers.get(up(b, first.name, replace=True).container)
    assert taken.exec_run(["cat", "/agent/record"]).exit_code == 1
    again = up(a)
    assert again.name == f"{person.name}-3"
    assert person.client.containers.get(again.container).exec_run(["cat", "/agent/record"]).output == b"kept\n"


@of_this_machine
def test_any_name_of_a_folder_can_be_the_workspace(person: Person) -> None:
    odd = "a:b, $c ${AGENT_NAME} é '\"` \\ [x] #~\t\u3000\u2028\x0c "
    folder = person.workspace(odd)
    for name in (" :ro", "x" * 250):
        folder = person.workspace(f"{folder.relative_to(person.folder)}/{name}")
    (person.folder / "link").symlink_to(folder)
    container = person.up(workspaces.named(str(person.folder / "link")))
    assert container.exec_run(["touch", "/workspace/made"]).exit_code == 0
    assert (folder / "made").exists()
    assert "/workspace can be written" in Agent(container).check("volumes")["detail"]


def test_workspace_that_was_replaced_is_told_by_health_and_mended_by_up(person: Person) -> None:
    """It is moved away with its parent. tests/image/test_volumes_users.py removes one."""
    folder = person.workspace("parent") / "ws"
    folder.mkdir()
    os.chown(folder, UID, UID)
    (folder / "old").touch()
    first = person.up(folder)
    folder.parent.rename(person.folder / "elsewhere")
    folder.mkdir(parents=True)
    os.chown(folder, UID, UID)
    (folder / "new").touch()

    agent = Agent(first)
    agent.sh("mkdir -p ~/.local/bin && cd ~/.local/bin && printf '#!/bin/sh\\nexec sleep 99' > sh && chmod +x sh")
    agent.run("/bin/sh", "-c", "cd ~/.local/bin && /bin/cp sh stat && /bin/cp sh cat")  # `up` runs none of these
    wait_until(lambda: "was replaced on the host" in agent.check("volumes")["detail"], 10, "health to say so")
    second = person.up(folder)
    assert second.id == first.id
    assert second.attrs["State"]["StartedAt"] != first.attrs["State"]["StartedAt"]
    assert f"{folder} was replaced under agent {person.name}, which is restarted to get the new folder" in person.told
    assert second.exec_run(["ls", "/workspace"]).output == b"new\n"
    third = person.up(folder)
    assert third.attrs["State"]["StartedAt"] == second.attrs["State"]["StartedAt"]


@of_this_machine
def test_agent_of_an_earlier_version_is_taken_over_with_its_data(person: Person) -> None:
    """The old container is made as `up` of 0.1.0 made it: through the engine's API, with the same names and labels."""
    workspace = person.workspace()
    volumes = {compose.SHARED_VOLUME: "/shared", f"magents-{person.name}-agent": "/agent", str(workspace): "/workspace"}
    labels = {ps.LABEL: person.name, f"{ps.LABEL}.workspace": str(workspace), f"{ps.LABEL}.user": f"{UID}:{UID}"}
    earlier = person.client.containers.run(
        person.variant.reference,
        name=f"magents-{person.name}",
        labels={**labels, f"{ps.LABEL}.bridge": ""},
        volumes=[f"{name}:{place}" for name, place in volumes.items()],
        ports={f"{ps.HEALTH_PORT}/tcp": ("127.0.0.1", None)},
        detach=True,
    )
    assert earlier.exec_run(["sh", "-c", "echo kept > /agent/record; echo kept > /shared/record"]).exit_code == 0
    now = person.up()
    assert [line for line in person.told if "of an earlier version" in line and "its volumes stay" in line]
    assert now.exec_run(["cat", "/agent/record", "/shared/record"]).output == b"kept\nkept\n"
    assert now.attrs["HostConfig"]["ReadonlyRootfs"]


@of_this_machine
def test_down_leaves_the_volumes_and_no_container(person: Person) -> None:
    person.up()
    person.down()
    assert not person.client.containers.list(all=True, filters={"name": f"magents-{person.name}"})
    kept = {volume.name for volume in person.client.volumes.list(filters={"name": f"magents-{person.name}"})}
    assert kept == {f"magents-{person.name}-agent", f"magents-{person.name}-shared"}


def invoke(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ROOT / "bin" / "invoke", *words], capture_output=True, text=True, timeout=120)


@of_this_machine
def test_programs_see_what_an_agent_does_and_wait_for_it(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its command ends when a file is there. The documents are all that is printed."""
    monkeypatch.setenv("AGENT_COMMAND", "until test -e /workspace/go; do sleep 0.1; done")
    container = person.up()
    listed = invoke("agents.ps", "--json")
    early = invoke("agents.wait", person.name, "--until", "finished", "--timeout", "0", "--json")
    assert (listed.returncode, early.returncode) == (0, 124)
    assert listed.stderr == early.stderr == ""
    found = json.loads(listed.stdout), json.loads(early.stdout)
    schemas.check("agents-ps", found[0])
    schemas.check("agents-wait", found[1])
    [seen] = [each for each in found[0]["agents"] if each["name"] == person.name]
    assert (seen["state"], seen["container"], seen["variant"]) == ("working", container.id, person.variant.name)
    assert seen["since"] == pytest.approx(time.time(), abs=600)
    assert seen["health"]["address"] == f"http://127.0.0.1:{ps.published_port(container)}/health"
    told = invoke("agents.wait", person.name, "--until", "waiting", "--timeout", "0")
    assert (told.returncode, told.stderr) == (124, f"not waiting after 0 s: {person.name} is working\n")

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(invoke, "agents.wait", person.name, "--until", "finished", "--timeout", "60")
        container.exec_run(["touch", "/workspace/go"])
        assert (waiting.result().returncode, waiting.result().stdout) == (0, f"finished: {person.name}\n")
    assert invoke("agents.wait", person.name, "--until", "healthy").returncode == 0
    watch_twice(person.name)
    container.kill()
    [failed] = [each for each in overview.every(person.client) if each.name == person.name]
    assert (failed.state.name, failed.state.why) == ("failed", "its container ended with 137")
    assert invoke("agents.wait", person.name, "nosuch").returncode == 64
    told = invoke("agents.ps", "--watch")
    assert (told.returncode, told.stdout, told.stderr.count("\n")) == (64, "", 1)


def watch_twice(name: str) -> None:
    """Watch the agents on a terminal until the name was drawn twice, and end that as a person does."""
    own, theirs = os.openpty()
    os.set_blocking(own, False)
    seen = b""

    def is_drawn_twice() -> bool:
        nonlocal seen
        with suppress(BlockingIOError):
            seen += os.read(own, 1 << 16)
        return seen.count(name.encode()) >= 2

    watching = subprocess.Popen([ROOT / "bin" / "invoke", "agents.ps", "--watch"], stdout=theirs, stderr=theirs)
    wait_until(is_drawn_twice, 60, "the list to be drawn again")
    watching.send_signal(signal.SIGINT)
    assert watching.wait(60) == 0
    os.close(own)
    os.close(theirs)
    assert b"\x1b[1A" in seen, "drawn in place"
    assert b"Traceback" not in seen


@of_this_machine
def test_limits_come_from_the_environment_as_for_compose(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_MEMORY", "1g")
    monkeypatch.setenv("AGENT_SHM_SIZE", "256m")
    host = person.up().attrs["HostConfig"]
    assert (host["Memory"], host["ShmSize"]) == (1 << 30, 256 << 20)


def test_agent_that_does_not_become_healthy_is_told_with_its_last_words(
    person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compose, "HEALTHY_S", 5)
    monkeypatch.setenv("AGENT_RESTART", "sometimes")
    with pytest.raises(Problem, match=r"did not become healthy; its last words:\n(.*\n)*.*AGENT_RESTART.*sometimes"):
        person.up()


@of_this_machine
@pytest.mark.parametrize("broken", ["workspace", "image"])
def test_agent_that_cannot_be_started_is_told_why(person: Person, broken: str) -> None:
    workspace = person.workspace()
    if broken == "image":
        person.variant = Derived(person.variant.name, "magents/nosuch:image")
        expected = "image magents/nosuch:image is missing"
    else:
        workspace = person.folder / "gone"
        expected = f"workspace {workspace} is gone"
    with pytest.raises(Problem, match=expected):
        person.up(workspace)


# up --image


@pytest.fixture
def build_from(client: docker.DockerClient, image: str) -> Iterator[Callable[[str], str]]:
    """Builds an image of two lines and gives its name: FROM the image under test, and the given line."""
    tags = []

    def build(line: str, base: str = image) -> str:
        tags.append(f"magents-test:{uuid.uuid4().hex[:8]}")
        text = f"FROM {base}\n{line}\n"
        subprocess.run(["docker", "build", "--quiet", "--tag", tags[-1], "-"], input=text, text=True, check=True)
        return tags[-1]

    yield build
    for tag in tags:
        client.images.remove(tag)


def test_image_made_from_ours_is_run_and_replaced_by_ours(
    person: Person, build_from: Callable[[str], str], image: str
) -> None:
    reference = build_from("ENV OF_MY_OWN=here")
    person.variant = derived.require(person.client, reference, VARIANTS["prod"])
    first = person.up()
    assert first.exec_run(["printenv", "OF_MY_OWN"]).output == b"here\n"
    assert first.exec_run(["sh", "-c", "echo kept > /agent/record"]).exit_code == 0
    assert person.up().attrs["State"]["StartedAt"] == first.attrs["State"]["StartedAt"]
    person.variant = derived.require(person.client, image, VARIANTS["prod"])
    second = person.up()
    assert [line for line in person.told if "was replaced" in line]
    assert second.exec_run(["printenv", "OF_MY_OWN"]).exit_code == 1
    assert second.exec_run(["cat", "/agent/record"]).output == b"kept\n"


@of_this_machine
@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('ENTRYPOINT ["bash"]', r"has its own ENTRYPOINT, .*; take that out of its Dockerfile"),
        ('CMD ["bash"]', r"has its own CMD, .*; take that out of its Dockerfile"),
        ("HEALTHCHECK NONE", r"has its own HEALTHCHECK, .*; take that out of its Dockerfile"),
        ("ENV HOME=/root", r"has its own ENV HOME, .*; take that out of its Dockerfile"),
        ("USER root", r"would run as root .*; end its Dockerfile with `USER 1000`"),
        ("LABEL io.magents.protocol=0", r"is made FROM another version .*; run `bin/invoke build`"),
        ("LABEL io.magents.variant=other", r"is not made FROM magents/agent .*; begin its Dockerfile with"),
    ],
)
def test_image_that_is_no_agent_is_refused_with_a_line(
    client: docker.DockerClient, build_from: Callable[[str], str], line: str, told: str
) -> None:
    reference = build_from(line)
    with pytest.raises(Problem, match=rf"^image {reference} {told}.*$"):
        derived.require(client, reference, VARIANTS["prod"])


@of_this_machine
@pytest.mark.parametrize("reference", ["magents/nosuch:image", "No Name", "sha256:" + "0" * 64])
def test_image_that_is_not_here_is_told(client: docker.DockerClient, reference: str) -> None:
    with pytest.raises(Problem, match=rf"^image {reference} is not on this machine, .*$"):
        derived.require(client, reference, VARIANTS["prod"])


@of_this_machine
def test_port_that_another_took_in_the_meantime_is_no_obstacle(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setattr(compose, "_port", lambda _before: str(port))
        assert ps.published_port(person.up()) not in {0, port}


def variables(container: Container) -> dict[str, str]:
    lines = container.exec_run(["env"]).output.decode().splitlines()
    return dict(line.split("=", 1) for line in lines)


def renewed(container: Container) -> str:
    """Return what the agent says when it looks at the host's certificates, which it does every 30 s by itself."""
    ask = (
        "import sys; sys.path.insert(0, '/usr/lib/magents'); from agent import certificates; "
        "print(certificates.renew(print))"
    )
    return str(container.exec_run(["python3", "-IS", "-c", ask]).output.decode())


def lacking(container: Container) -> str:
    """Return what `engine.doctor` says of an agent."""
    with engine.connected() as client:
        return next((found.detail for found in findings(client) if found.what == container.name), "")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host has neither certificates of its own nor proxies."""
    for name in (*CA_VARIABLES, *PROXIES, "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def test_host_s_certificates_come_along_and_follow_its_changes(
    person: Person, no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bun $dle", "other"):
        (person.folder / name).mkdir()
        certificate.make(person.folder / name)
    bundle, other = (person.folder / name / "certificate.pem" for name in ("bun $dle", "other"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    first = person.up()
    assert first.exec_run(["sh", "-c", "cat $NODE_EXTRA_CA_CERTS"]).output == bundle.read_bytes()
    with bundle.open("ab") as file:
        file.write(other.read_bytes())
    assert "added=2, problem=''" in renewed(first)
    assert person.up().id == first.id, "the running agent has them already"
    os.replace(other, bundle)  # noqa: PTH105 - as update-ca-certificates does it
    assert "was replaced since this container started; run `bin/invoke up`" in renewed(first)
    assert lacking(first) == "lacks what this host has: its present certificates"
    second = person.up()
    assert (second.id != first.id, lacking(second)) == (True, "")
    assert second.exec_run(["sh", "-c", "cat $NODE_EXTRA_CA_CERTS"]).output == bundle.read_bytes()
    bundle.unlink()
    with pytest.raises(Problem, match=re.escape(f"{bundle} is to be handed to the agent")):
        person.up()


def test_proxy_on_this_machine_s_loopback_is_told_without_its_password(
    person: Person, no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = person.up()
    assert not {name.upper() for name in variables(before)} & {*CA_VARIABLES, *PROXIES, "NO_PROXY"}
    proxy = "http://someone:secret@127.0.0.1:3128"
    monkeypatch.setenv("https_proxy", proxy)
    assert lacking(before) == "lacks what this host has: HTTPS_PROXY"
    now = person.up()
    found = variables(now)
    assert found["HTTPS_PROXY"] == found["https_proxy"] == proxy
    (line,) = [line for line in person.told if "HTTPS_PROXY is http://127.0.0.1:3128, which is this container" in line]
    assert ("secret" in line, lacking(now)) == (False, "")


def test_identity_and_ssh_agent_of_the_person_are_handed_over(person: Person, ssh_agent: Path) -> None:
    assert person.up().exec_run(["git", "config", "user.name"]).exit_code == 1
    assert NO_IDENTITY in person.told
    given = Host(ssh_agent=ssh_agent, identity={"AGENT_GIT_NAME": "A $B", "AGENT_GIT_EMAIL": "a@b"})
    container = person.up(host=given)
    assert container.exec_run(["git", "config", "user.name"]).output == b"A $B\n"
    assert container.exec_run(["ssh-add", "-l"]).output == b"The agent has no identities.\n", "it answers"
    assert person.up().exec_run(["ssh-add", "-l"]).exit_code == 2, "only on request"


@pytest.fixture
def ssh_agent() -> Iterator[Path]:
    """A real ssh agent of the workspace's owner."""
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are root's
    os.chown(folder, UID, UID)
    command = ["ssh-agent", "-D", "-a", str(folder / "socket")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, user=UID, group=UID)
    try:
        assert process.stdout
        process.stdout.readline()
        yield folder / "socket"
    finally:
        process.terminate()
        process.communicate()
        shutil.rmtree(folder)
