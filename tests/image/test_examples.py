"""The examples of docs/examples that make an agent: one with a browser, and a dev container."""

from __future__ import annotations

import json
import os
import re
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.models.containers import Container

from pipeline.agents.compose import folder_at
from pipeline.build import derived
from pipeline.build.image import VARIANTS
from tests.support import npm_tools
from tests.support.containers import compose_project

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
PAGE = "<title>drawn</title><script>document.title += ' and run ' + 6 * 7</script><body style='background: #0a0b0c'>"
TITLE = "drawn and run 42"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of the image's user."""
    made = tmp_path / "workspace"
    made.mkdir()
    os.chown(made, 1000, 1000)
    return made


# The browser is built once, because Debian's packages take a minute and both variants have the same base.


@pytest.fixture(scope="module")
def browser_image(client: docker.DockerClient, image: str) -> Iterator[str]:
    tag = f"magents-test:{uuid.uuid4().hex[:8]}"
    command = ["docker", "build", "--quiet", "--build-arg", f"AGENT_IMAGE={image}", "--tag", tag]
    subprocess.run([*command, str(EXAMPLES / "browser")], check=True, timeout=600)
    yield tag
    client.images.remove(tag)


@pytest.fixture
def browser(client: docker.DockerClient, browser_image: str, folder: Path) -> Iterator[Container]:
    """An agent of compose.yaml with the browser, and with the page in its workspace."""
    (folder / "page.html").write_text(PAGE)
    tools = {**folder_at(npm_tools.MOUNT, npm_tools.installed()), "read_only": True}
    project = compose_project(browser_image, "prod", volumes=[folder_at("/workspace", folder), tools])
    try:
        project.up()
        container = project.container(client)
        assert container
        yield container
    finally:
        project.remove()


@pytest.mark.variant("prod")
def test_page_is_rendered_under_the_default_hardening(
    client: docker.DockerClient, browser: Container, browser_image: str
) -> None:
    assert derived.require(client, browser_image, VARIANTS["prod"]).reference == browser_image
    host = browser.attrs["HostConfig"]
    hardening = (host["CapDrop"], host["ReadonlyRootfs"], host["SecurityOpt"])
    assert hardening == (["ALL"], True, ["no-new-privileges:true"])

    def run(*command: str) -> str:
        code, output = browser.exec_run([*command], workdir="/workspace", demux=True)
        assert code == 0, output
        return (output[0] or b"").decode()

    page = "file:///workspace/page.html"
    assert f"<title>{TITLE}</title>" in run("chromium", "--headless", "--dump-dom", page)
    run("chromium", "--headless", "--window-size=300,200", "--screenshot=/tmp/page.png", page)
    picture = run("sh", "-c", "head -c 24 /tmp/page.png | od -A n -t x1 | tr -d ' \n'")
    assert picture == f"89504e470d0a1a0a0000000d49484452{300:08x}{200:08x}"
    titles = run("node", f"{npm_tools.MOUNT}/titles.cjs", page).splitlines()
    assert len(titles) == 4
    assert {line.partition(": ")[2] for line in titles} == {TITLE}


# A dev container, brought up by VS Code's own command


def configuration(image: str, **changes: Any) -> str:
    """Return the example for the image under test."""
    text = re.sub(r"^//.*$", "", (EXAMPLES / "devcontainer" / "devcontainer.json").read_text(), flags=re.MULTILINE)
    return json.dumps({**json.loads(text), "image": image, **changes})


@pytest.fixture
def project(client: docker.DockerClient, folder: Path, image: str) -> Iterator[Path]:
    """A project with the example in it."""
    (folder / ".devcontainer").mkdir()
    (folder / ".devcontainer" / "devcontainer.json").write_text(configuration(image))
    yield folder
    for container in client.containers.list(all=True, filters={"label": f"devcontainer.local_folder={folder}"}):
        volumes = [mount["Name"] for mount in container.attrs["Mounts"] if mount["Type"] == "volume"]
        container.remove(force=True, v=True)
        for name in volumes:
            if name.startswith("agent-"):  # the others have no name, and went with the container
                client.volumes.get(name).remove()


@pytest.mark.variant("dev")
@pytest.mark.parametrize("user", ["1000", "4321:4321"])
def test_dev_container_is_an_agent(client: docker.DockerClient, project: Path, image: str, user: str) -> None:
    own = {} if user == "1000" else {"containerUser": user}
    (project / ".devcontainer" / "devcontainer.json").write_text(configuration(image, **own))
    uid = int(user.partition(":")[0])
    os.chown(project, uid, uid)
    up = npm_tools.dev_container("up", project)
    assert up.returncode == 0, up.stderr
    started = json.loads(up.stdout)
    assert (started["remoteUser"], started["remoteWorkspaceFolder"]) == (user.partition(":")[0], "/workspace")
    script = "pwd && id -u && whoami && touch made && agent-health-probe && tmux list-sessions -F '#S'"
    done = npm_tools.dev_container("exec", project, "sh", "-c", script)
    assert done.returncode == 0, done.stdout
    place, number, name, health, session = done.stdout.splitlines()
    assert (place, number, session) == ("/workspace", str(uid), "agent")
    assert name == ("agent" if uid == 1000 else f"agent{uid}")
    assert json.loads(health)["status"] in ("healthy", "degraded")
    assert (project / "made").stat().st_uid == uid


@pytest.mark.variant("dev")
def test_dev_container_without_the_entry_point_says_so(client: docker.DockerClient, project: Path, image: str) -> None:
    (project / ".devcontainer" / "devcontainer.json").write_text(configuration(image, overrideCommand=True))
    assert npm_tools.dev_container("up", project).returncode == 0
    done = npm_tools.dev_container("exec", project, "agent-health-probe")
    assert (done.returncode, done.stdout.count("\n")) == (1, 1)
    assert '"overrideCommand": false' in done.stdout
