"""The real CLI for live containers of both images: the image's user, a read-only root, no capabilities."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fidelity.differences import expected, shown
from tests.fidelity.facts import facts
from tests.fidelity.projects import PROJECTS
from tests.fidelity.sides import Outcome, Plain, give
from tests.support import agent_sdk
from tests.support.attached import KEYS_ARE_ON, SECONDARY_ATTRIBUTES, SHIFT_ENTER, attached
from tests.support.bridge_box import Box
from tests.support.bridge_host import OWNER, SECRET, passable
from tests.support.containers import Agents
from tests.support.fake_messages_api import FakeMessagesApi, Say, Use, directed, echo
from tests.support.real_host import RealHost
from tests.support.screen import READY
from tests.support.stream_json import STREAM, messages, user
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def sdks() -> Path:
    return agent_sdk.installed()


@pytest.fixture(scope="module")
def box_of_module(newest_host: RealHost, image: str, no_leftovers: None, sdks: Path) -> Iterator[Box]:
    """One container for the tests that do not change it."""
    agents = Agents(image)
    try:
        yield Box(agents, newest_host.place(), {sdks: agent_sdk.MOUNT})
    finally:
        agents.close(show=False)


@pytest.fixture
def box(box_of_module: Box, newest_host: RealHost) -> Box:
    newest_host.api.part = echo
    newest_host.api.requests.clear()
    return box_of_module


def test_container_is_locked_down(box: Box) -> None:
    status = box.run("grep", "-E", "^(Uid|CapBnd|CapEff|NoNewPrivs)", "/proc/self/status").stdout.decode().split("\n")
    assert [line.split()[1] for line in status if line] == [str(OWNER), "0" * 16, "0" * 16, "1"]
    assert box.run("touch", "/x").returncode != 0


@pytest.mark.parametrize("name", ["claude-code", "claude"])
def test_prompt(box: Box, name: str) -> None:
    done = box.run(name, "-p", "hello there")
    assert (done.returncode, done.stdout.decode().strip()) == (0, "heard: hello there"), done.stderr


def test_prompt_from_a_pipe(box: Box) -> None:
    done = box.run("sh", "-c", "echo from a pipe | claude-code -p")
    assert done.stdout.decode().strip() == "heard: from a pipe", done.stderr


def test_json(box: Box) -> None:
    done = box.run("claude-code", "-p", "hi you", "--output-format", "json")
    assert json.loads(done.stdout)["result"] == "heard: hi you"


def test_stream_json(box: Box) -> None:
    done = box.run("claude-code", "-p", "hi you", "--output-format", "stream-json", "--verbose")
    assert [message["type"] for message in messages(done.stdout)][-1] == "result"


def test_conversation_of_two_turns(box: Box) -> None:
    done = box.run("claude-code", *STREAM, stdin=user("first words") + user("second words"))
    results = [message["result"] for message in messages(done.stdout) if message["type"] == "result"]
    assert (done.returncode, results) == (0, ["heard: first words", "heard: second words"])


def test_version_is_the_host_s(box: Box, newest_host: RealHost) -> None:
    done = box.run("claude", "--version")
    assert done.stdout.decode().strip() == newest_host.host.status()["cli"]
    assert done.stdout


def test_health_sees_the_bridge(box: Box, newest_host: RealHost) -> None:
    check = box.agent.check("bridge")
    assert check["status"] == "pass"
    assert newest_host.host.status()["cli"] in check["detail"]
    connections = newest_host.host.status()["grants"][box.place.name]["connections"]
    assert connections == 1, "health keeps one connection"


def test_no_secret_is_in_the_container(box: Box) -> None:
    box.run("claude-code", "-p", "hello there")
    found = box.run("sh", "-c", f"grep -rsl {SECRET} /workspace /agent /shared /tmp /run /proc/[0-9]*/environ; true")
    assert found.stdout == b""


def test_agent_in_a_workspace_that_was_replaced_is_told_the_cause(newest_host: RealHost, agents: Agents) -> None:
    """Its working directory has no name any more."""
    place = newest_host.place()
    box = Box(agents, place)
    box.agent.expect("health: volumes")
    place.workspace.rename(place.workspace.with_name("earlier"))
    shutil.rmtree(place.workspace.with_name("earlier"))
    place.workspace.mkdir()
    done = box.agent.container.exec_run(["sh", "-c", "cd /workspace && claude-code -p hi"], workdir="/")
    assert done.exit_code == 125
    assert b"the workspace of grant " in done.output
    assert b" was replaced by another directory" in done.output
    assert b"and then `docker restart` of this container" in done.output


def test_conversation_is_resumed_in_a_container_made_anew(newest_host: RealHost, agents: Agents) -> None:
    newest_host.api.part = echo
    place = newest_host.place()
    first = Box(agents, place)
    told = json.loads(first.run("claude-code", "-p", "first words", "--output-format", "json").stdout)
    agents.remove(first.agent)
    second = Box(agents, place)
    assert second.run("claude-code", "-p", "second words", "--resume", told["session_id"]).returncode == 0
    assert "first words" in newest_host.api.prompts[-1].everything
    assert second.run("claude-code", "-p", "third words", "--continue").returncode == 0
    assert "second words" in newest_host.api.prompts[-1].everything


def test_server_s_restart_leaves_containers_alone(newest_host: RealHost, box: Box) -> None:
    newest_host.host.end()
    gone = box.run("claude-code", "-p", "hi you")
    newest_host.host.start()
    assert (gone.returncode, b"bridge: " in gone.stderr) == (125, True)
    assert box.run("claude-code", "-p", "hi you").returncode == 0


# Both SDKs


@pytest.fixture(params=agent_sdk.SCENES)
def scene(request: pytest.FixtureRequest) -> list[str]:
    return agent_sdk.SCENES[request.param]


def play(box: Box, scene: list[str], name: str) -> dict[str, object]:
    done = box.run(*scene, name)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_sdk_query(box: Box, scene: list[str]) -> None:
    assert play(box, scene, "plain")["result"] == "heard: hello from the SDK"


def test_sdk_in_process_tool(box: Box, scene: list[str], newest_host: RealHost) -> None:
    newest_host.api.part = lambda request: (
        Say(f"told: {request.results[-1]}") if request.results else Use("mcp__mine__add", {"a": 2, "b": 3})
    )
    assert play(box, scene, "tool") == {"result": "told: SUM=5", "seen": [[2, 3]]}


def test_sdk_permission_callback(box: Box, scene: list[str], newest_host: RealHost) -> None:
    written = box.place.workspace / "asked.txt"
    written.unlink(missing_ok=True)
    newest_host.api.part = lambda request: (
        Say("done") if request.results else Use("Write", {"file_path": "/workspace/asked.txt", "content": "asked"})
    )
    assert play(box, scene, "permission") == {"result": "done", "seen": ["Write"]}
    assert (written.read_text(), written.stat().st_uid) == ("asked", OWNER)


def test_sdk_interrupt(box: Box, scene: list[str], newest_host: RealHost) -> None:
    newest_host.api.part = lambda request: Say("late words", after=20) if "slow" in request.heard else Say("soon")
    assert play(box, scene, "interrupt")["result"] == "error_during_execution"


@pytest.mark.parametrize("program", agent_sdk.PROGRAMS)
def test_program_for_an_sdk_says_what_it_says_on_a_host(
    newest_host: RealHost, agents: Agents, sdks: Path, program: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    project = next(project for project in PROJECTS if project.name == f"program {program}")
    directory = passable(tmp_path_factory.mktemp("plain"))
    workspace, home = directory / "workspace", directory / "home"
    for path in (workspace, home):
        path.mkdir()
        give(path)
    box = Box(agents, newest_host.place(), {sdks: agent_sdk.MOUNT})
    for path in (workspace, box.place.workspace):
        project.make(path)
    with FakeMessagesApi() as api:
        plain = Plain(Path(newest_host.cli), workspace, home, api).run(project.calls[0])
    newest_host.api.part = directed
    done = box.run(*agent_sdk.command(program))
    bridged = Outcome(done.returncode, done.stdout, done.stderr, [])
    words = project.calls[0].argv
    left, right = (facts(dataclasses.replace(one, stderr=b"", requests=[])) for one in (plain, bridged))
    assert plain.code == 0, plain.stderr
    assert shown(words, right)[0] == expected(words, left)[0], done.stderr


def test_interface_in_the_agent_s_session(box: Box, newest_host: RealHost) -> None:
    """From a terminal through the image's tmux and the bridge: Shift+Enter, colours, and what /copy copies."""

    def shows(pattern: str) -> bool:
        return bool(re.search(pattern, box.agent.tmux("capture-pane", "-p")))

    def wait_for(pattern: str) -> None:
        wait_until(lambda: shows(pattern), 90, pattern)

    def has_left() -> bool:
        terminal.type(b"\x03")
        return shows(r"\$\s*$")

    with attached(box.agent) as terminal:
        terminal.type(SECONDARY_ATTRIBUTES)
        terminal.wait(KEYS_ARE_ON)
        terminal.type(b"clear; claude-code\r")
        wait_for(READY)
        terminal.type(b"what are otters")
        wait_for("otters")
        terminal.type(SHIFT_ENTER)
        terminal.type(b"and beavers")
        wait_for(r"otters *\n *and beavers")
        terminal.type(b"\r")
        wait_for("heard: and beavers")
        assert newest_host.api.requests[-1].heard.endswith("what are otters\nand beavers")
        assert terminal.sees("\x1b[38;2;")
        terminal.type(b"/copy")
        wait_for("/copy")
        terminal.type(b"\r")
        terminal.wait("\x1b]52;")
        terminal.wait(base64.b64encode(b"heard: and beavers").decode())
        wait_until(has_left, 90, "the shell")
