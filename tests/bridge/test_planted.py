"""Nothing that an agent plants in a person's folder runs on the host; and what still does is known and found.

An agent writes in two ways: with a shell in its container, and through the file tools of the host's Claude. Then the
person works in the folder with the host's real git, husky, direnv, Claude Code, and by the schemas of editors. Each
plant would leave a marker of its own (tests/support/planted.py). All are planted at once, because they do not differ in
what protects them.
"""

from __future__ import annotations

import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
import yaml
from docker.models.containers import Container

from pipeline import bridge
from pipeline.agents import arrived, audit, compose, exchange, ps
from pipeline.agents import clone as clones
from pipeline.agents.workspace import Owner
from pipeline.build import image as images
from pipeline.build.image import VARIANTS
from pipeline.errors import Problem
from tests.support import planted
from tests.support.bridge_cli import NEWEST, installed
from tests.support.bridge_host import OWNER, ROOT, SECRET
from tests.support.fake_messages_api import FakeMessagesApi, Reply, Request, Say, Together, Use, echo
from tests.support.planted import PROTECTED, REMAINING, TRICKS, Plant, Project, marker
from tests.support.tool_calls import FREE

pytestmark = pytest.mark.every_row
"""Nearly all rows look at what one fixture has done."""

WRITERS = ("claude", "shell")


@pytest.fixture(scope="module", autouse=True)
def _direnv() -> None:
    planted.have_direnv()


@dataclass(frozen=True)
class Outcome:
    """What the person and the audit find after an agent has planted everything. All are names of markers."""

    held: set[str]
    """What was in its file."""
    ran: set[str]
    found: dict[str, str]
    """Who runs it, by path."""


@contextmanager
def folder() -> Iterator[Path]:
    """Give an empty directory that everybody can enter, unlike pytest's."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="planted-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def test_every_plant_runs_where_nothing_protects_the_folder() -> None:
    with folder() as directory, FakeMessagesApi() as api:
        person = planted.project(directory)
        person.act(planted.shell_script(person, PROTECTED, {}))
        planted.work(person)
        person.ask_claude(installed(NEWEST), api.url)
        assert person.ran == {f"shell-{plant.name}" for plant in PROTECTED if plant.runs}


@pytest.fixture(scope="module")
def direct(image: str) -> Iterator[Outcome]:
    """An agent in `direct` mode, which works in the person's folder itself."""
    with folder() as directory, FakeMessagesApi() as api, host_with_claude(directory, api.url):
        person = planted.project(directory)
        with running(image, person.folder) as (client, name):
            container = ps.require(client, name)
            held = plant(container, person, api)
            planted.work(person)
            person.ask_claude(installed(NEWEST), api.url)
            shell(container, planted.shell_script(person, (), TRICKS))
            planted.work(person)
            for remaining in REMAINING.values():
                person.act(remaining.first)
            plant_the_rest(container, person)
            found = audit.of_agent(container).found
            for remaining in reversed(REMAINING.values()):
                person.act(remaining.act)
            found += audit.of_agent(container).found
        yield Outcome(held, person.ran, {one.path: one.who for one in found})


def plant(container: Container, person: Project, api: FakeMessagesApi) -> set[str]:
    """Plant the files in both ways. Returns which were in place afterwards."""
    held = set()
    for writer in WRITERS:
        if writer == "claude":
            plant_by_claude(container, person, api)
        else:
            shell(container, planted.shell_script(person, PROTECTED, {}))
        held |= {f"{writer}-{each.name}" for each in PROTECTED if person.holds(each, writer)}
    return held


def plant_the_rest(container: Container, person: Project) -> None:
    shell(container, planted.shell_script(person, (), {name: one.plant for name, one in REMAINING.items()}))


@contextmanager
def host_with_claude(directory: Path, url: str) -> Iterator[None]:
    """Give this process a bridge of its own, with the real CLI and our Messages API."""
    own = directory / "bridge"
    own.mkdir(mode=0o700)
    environment = {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": SECRET}
    (own / "bridge.yaml").write_text(yaml.safe_dump({"claude": str(installed(NEWEST)), "environment": environment}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLAUDE_BRIDGE_STATE", str(own / "state"))
        patch.setenv("CLAUDE_BRIDGE_CONFIG", str(own / "bridge.yaml"))
        try:
            yield
        finally:
            bridge.down(print)


@contextmanager
def running(image: str, workspace: Path, *, in_clone: bool = False) -> Iterator[tuple[docker.DockerClient, str]]:
    """Run an agent as `up` does. Yields its name. What it says is shown when a test fails."""
    name = f"planted-{uuid.uuid4().hex[:8]}"
    variant = next(one for one in VARIANTS.values() if one.tag == image.rpartition(":")[2])
    owner = Owner(OWNER, OWNER)
    with closing(docker.from_env()) as client, pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "REPOSITORY", image.rpartition(":")[0])
        made = clones.make(client, variant.reference, name, workspace, owner, (), print) if in_clone else None
        mount = bridge.for_agent(name, made.workspace if made else workspace, print)
        try:
            compose.up(client, variant, name, workspace, owner, print, mount, clone=made)
            yield client, name
        finally:
            compose.down(client, [name], print)
            clones.end(name, print, remove_it=True)
            client.volumes.get(ps.volume_name(name)).remove()


def shell(container: Container, script: str) -> None:
    command = ["docker", "exec", "--workdir", "/workspace", str(container.id), "bash", "-c", script]
    done = subprocess.run(command, text=True, capture_output=True, timeout=60, check=False)
    print(done.stdout + done.stderr)  # pytest shows it when a test fails


def plant_by_claude(container: Container, person: Project, api: FakeMessagesApi) -> None:
    """Let the model change each file: those that are there by Edit and by Write, the others by Write."""
    texts: dict[str, str] = {}
    for each in PROTECTED:
        texts[each.path] = texts.get(each.path, "") + each.content(person.run(f"claude-{each.name}"))
    present = {path: (person.folder / path).read_text() for path in texts if (person.folder / path).is_file()}
    first = {path: old.splitlines()[0] for path, old in present.items() if old}
    reads = [Use("Read", {"file_path": f"/workspace/{path}"}) for path in first]
    edits = [
        Use("Edit", {"file_path": f"/workspace/{path}", "old_string": line, "new_string": f"{texts[path]}\n{line}"})
        for path, line in first.items()
    ]
    writes = [Use("Write", {"file_path": f"/workspace/{path}", "content": text}) for path, text in texts.items()]

    def part(request: Request) -> Reply:
        if not request.tools:
            return Say("title")
        done = {0: Together(tuple(reads)), len(reads): Together((*edits, *writes))}
        return done.get(len(request.results), Say("done"))

    api.part = part
    command = ["docker", "exec", "--workdir", "/workspace", str(container.id), "claude", "-p", "go on", FREE]
    done = subprocess.run(command, text=True, capture_output=True, timeout=90, check=False)
    assert done.stdout.strip() == "done", done.stdout + done.stderr
    assert len(api.prompts[-1].results) == len(reads + edits + writes)
    api.part = echo


# What holds in direct mode


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("plant", PROTECTED, ids=lambda plant: plant.name)
def test_a_protected_file_is_not_planted_and_does_not_run(direct: Outcome, plant: Plant, writer: str) -> None:
    assert f"{writer}-{plant.name}" not in direct.held | direct.ran


@pytest.mark.parametrize("trick", TRICKS)
def test_no_way_leads_around_a_protected_path(direct: Outcome, trick: str) -> None:
    assert marker(trick) not in direct.ran


# What remains, as SECURITY.md says


@pytest.mark.parametrize("name", [name for name, remaining in REMAINING.items() if remaining.act])
def test_what_remains_runs(direct: Outcome, name: str) -> None:
    assert marker(name) in direct.ran


@pytest.mark.parametrize("path", [remaining.path for remaining in REMAINING.values() if remaining.path])
def test_what_remains_is_found(direct: Outcome, path: str) -> None:
    assert path in direct.found


# Clone mode


def test_nothing_of_a_clone_runs_on_the_host(image: str) -> None:
    """The person fetches what the agent made, looks at it, and works in the own folder."""
    with folder() as directory, FakeMessagesApi() as api, host_with_claude(directory, api.url):
        person = planted.project(directory)
        with running(image, person.folder, in_clone=True) as (client, name):
            container = ps.require(client, name)
            plant_the_rest(container, person)
            came = exchange.fetch(client, name, exchange.MEGABYTES, exchange.MINUTES)
            lines = [line for branch in arrived.branches(name) for line in arrived.lines(branch)]
            held = plant(container, person, api)
            shell(container, planted.shell_script(person, (), TRICKS))
            with suppress(Problem):  # ignored because the agent has broken its repository by now
                exchange.fetch(client, name, exchange.MEGABYTES, exchange.MINUTES)
            planted.work(person)
            person.ask_claude(installed(NEWEST), api.url)
            for remaining in reversed(REMAINING.values()):
                person.act(remaining.act)
        assert (held, person.ran) == (set(), set())
        assert any(".husky/post-checkout" in line for line in lines), (came, lines)


def test_security_md_names_what_remains() -> None:
    table = (ROOT / "SECURITY.md").read_text()
    assert [name for name in REMAINING if f"| {name} |" not in table] == []
