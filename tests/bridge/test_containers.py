"""The real CLI for live containers of both images: the image's user, a read-only root, no capabilities."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bridge.conftest import RealHost
from tests.bridge.test_hands import FREE, SERVER, WAIT, alive, bash, gone, write
from tests.bridge.test_real_cli import STREAM, messages, user
from tests.bridge.test_terminal import PROMPT, READY, SHELL, Screen, play_session
from tests.support import agent_sdk
from tests.support.bridge_box import Box
from tests.support.bridge_host import OWNER, SECRET
from tests.support.containers import Agents
from tests.support.fake_messages_api import Say, Use, echo, in_turn
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def sdks() -> Path:
    return agent_sdk.installed()


@pytest.fixture(scope="module")
def box_of_module(newest_host: RealHost, image: str, no_leftovers: None, sdks: Path) -> Iterator[Box]:
    """One container for the tests that leave it as it is."""
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


# Hands in the box, with the images' own tools


def test_commands_run_in_the_container(newest_host: RealHost, box: Box) -> None:
    """A file is made, run by three of the image's tools; the directory persists; 7 is 7; the place is the box."""
    commands = [
        "mkdir -p made && cd made && printf 'console.log(40+2)' > a.js && node a.js",
        "printf 'print(40+3)' > a.py && python3 a.py && pwd",
        "printf '#include <cstdio>\\nint main(){std::puts(\"44\");}' > a.cc && g++ -o /tmp/a a.cc && /tmp/a",
        "hostname; id -u; ls -d /agent /shared; test ! -e /claude",
        "head -c 5000000 /dev/zero | tr '\\0' x; exit 7",
        "(sleep 0.5; touch /workspace/late) & sleep 1; ls /workspace/late",
    ]
    uses = [Use("Bash", {"command": command, "description": "x"}) for command in commands]
    newest_host.api.part = in_turn(*uses, Say("done"))
    done = box.run("claude-code", "-p", "go on", "--dangerously-skip-permissions")
    assert done.returncode == 0, done.stderr
    told = newest_host.api.prompts[-1].results
    assert told[0] == "42"
    assert told[1].split() == ["43", "/workspace/made"]
    assert told[2] == "44"
    assert told[3].split() == [box.agent.id[:12], str(OWNER), "/agent", "/shared"]
    assert told[4].startswith("Exit code 7")
    assert told[5] == "/workspace/late"


def test_interrupt_in_the_middle_of_a_command(newest_host: RealHost, box: Box) -> None:
    number = str(100_000 + time.monotonic_ns() % 800_000)
    newest_host.api.part = in_turn(bash(f"setsid {WAIT.format(n=number)} & {WAIT.format(n=number)}"), Say("done"))
    with box.begin("claude-code", "-p", "go on", FREE) as process:
        wait_until(lambda: alive(number), 20, "the command")
        assert number.encode() in box.run("pgrep", "-af", "perl").stdout
        box.run("pkill", "-INT", "-f", "claude-code -p")
        gone(number)
        out, _ = process.communicate(timeout=10)
        assert b"Execution error" in out  # with 0: what the CLI makes of an interrupt
    wait_until(lambda: not newest_host.host.status()["running"], 5, "the CLI to be gone")


def test_project_s_hook_and_server_run_in_the_container(newest_host: RealHost, agents: Agents) -> None:
    box = Box(agents, newest_host.place())
    hook = {"type": "command", "command": "hostname > hooked.txt; id -u >> hooked.txt"}
    write(box.place, ".claude/settings.json", {"hooks": {"PreToolUse": [{"matcher": "*", "hooks": [hook]}]}})
    write(box.place, "server.py", SERVER.replace('os.environ["GREETING"]', "os.uname().nodename"))
    write(box.place, ".mcp.json", {"mcpServers": {"here": {"command": "python3", "args": ["server.py"]}}})
    newest_host.api.part = in_turn(Use("mcp__here__where"), Say("done"))
    done = box.run("claude-code", "-p", "go on", FREE)
    (told,) = newest_host.api.prompts[-1].results
    assert {"agent", "shared", box.agent.id[:12]} <= set(told.split()), done.stderr
    assert (box.place.workspace / "hooked.txt").read_text().split() == [box.agent.id[:12], str(OWNER)]


def test_forks_without_end_are_the_container_s_own_and_end_with_the_call(newest_host: RealHost, agents: Agents) -> None:
    """The limit of the container holds them; with the call they go, and the next call works."""
    box = Box(agents, newest_host.place(), pids_limit=300)
    box.agent.expect("see the pids limit")
    newest_host.api.part = in_turn(bash("touch begun; b() { b | b & }; b 2>/dev/null; sleep 3"), Say("done"))
    before = len(newest_host.host.children())
    process = subprocess.Popen(box.command("claude-code", "-p", "go on", FREE))
    try:
        wait_until((box.place.workspace / "begun").exists, 20, "the command")
        wait_until(lambda: len(box.processes()) > 250, 20, "many processes")
        assert len(newest_host.host.children()) - before < 30, "and few of them are the host's"
        process.wait(60)
        wait_until(lambda: len(box.processes()) < 20, 2, "all processes of the call to be gone")
    finally:
        process.kill()
        process.wait()
    newest_host.api.part = in_turn(bash("echo still here"), Say("done"))
    assert box.run("claude-code", "-p", "go on", FREE).returncode == 0
    assert newest_host.api.prompts[-1].results == ["still here"]


@pytest.fixture
def screen(box: Box, tmp_path: Path) -> Iterator[Screen]:
    """A terminal through `docker exec -it`."""
    with terminal(box, tmp_path / "tmux") as screen:
        yield screen


@contextlib.contextmanager
def terminal(box: Box, socket: Path) -> Iterator[Screen]:
    """A person's terminal, in which `docker exec -it` runs a shell."""
    screen = Screen(socket, ["docker", "exec", "-it", "-e", PROMPT, box.agent.id, *SHELL], "claude")
    try:
        yield screen
    finally:
        screen.close()


def test_session_through_docker_exec(screen: Screen) -> None:
    play_session(screen)


def test_agent_whose_command_is_claude(newest_host: RealHost, agents: Agents, tmp_path: Path) -> None:
    """Its tmux session is Claude at work and outlives who looks; a stop ends it, the next start offers to go on."""
    newest_host.api.part = echo
    box = Box(agents, newest_host.place(), environment={"AGENT_COMMAND": "claude-code"})

    def screen() -> str:
        return box.run("tmux", "capture-pane", "-p", "-t", "agent").stdout.decode()

    wait_until(lambda: READY in screen(), 30, "the interface")
    assert "claude-code" in box.run("agent-status").stdout.decode()
    assert box.agent.get("/status")[1]["agent"]["runs"] == "claude-code"
    with terminal(box, tmp_path / "tmux") as person:
        person.type("tmux attach -t agent", "Enter")
        person.wait(READY)
        person.type("hello there")
        person.wait("hello there")
        person.type("", "Enter")
        person.wait("heard: hello there")
        person.type("", "C-b", "d")
        person.wait("detached")
        box.run("tmux", "send-keys", "-t", "agent", "-l", "while away")
        wait_until(lambda: "while away" in screen(), 10, "what was typed")
        box.run("tmux", "send-keys", "-t", "agent", "Enter")
        wait_until(lambda: "heard: while away" in screen(), 20, "the answer")
        person.type("clear; tmux attach -t agent", "Enter")
        person.wait("heard: while away")
    box.agent.container.stop(timeout=30)
    box.agent.container.start()
    box.agent.wait_healthy()
    wait_until(lambda: "/resume" in screen(), 30, "the offer to go on")
    wait_until(lambda: newest_host.host.status()["running"], 5, "one call")


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
