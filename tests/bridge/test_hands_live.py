"""Commands and the terminal in live containers of both images, with both versions of the real CLI."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bridge_box import Box
from tests.support.bridge_host import OWNER
from tests.support.containers import Agents
from tests.support.fake_messages_api import Say, Use, echo, in_turn
from tests.support.real_host import RealHost
from tests.support.screen import PROMPT, READY, SHELL, Screen, play_session
from tests.support.tool_calls import FREE, GONE_WITHIN_S, SERVER, STARTED_WITHIN_S, WAIT, alive, bash, gone, write
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def box_of_module(real_host: RealHost, image: str, no_leftovers: None) -> Iterator[Box]:
    """One container for the tests that do not change it."""
    agents = Agents(image)
    try:
        yield Box(agents, real_host.place())
    finally:
        agents.close(show=False)


@pytest.fixture
def box(box_of_module: Box, real_host: RealHost) -> Box:
    real_host.api.part = echo
    real_host.api.requests.clear()
    return box_of_module


def test_commands_run_in_the_container(real_host: RealHost, box: Box) -> None:
    """Three of the image's tools run files in the container, the directory persists, exit code 7 is reported."""
    commands = [
        "mkdir -p made && cd made && printf 'console.log(40+2)' > a.js && node a.js",
        "printf 'print(40+3)' > a.py && python3 a.py && pwd",
        "printf '#include <cstdio>\\nint main(){std::puts(\"44\");}' > a.cc && g++ -o /tmp/a a.cc && /tmp/a",
        "hostname; id -u; ls -d /agent /shared; test ! -e /claude",
        "head -c 5000000 /dev/zero | tr '\\0' x; exit 7",
        "(sleep 0.5; touch /workspace/late) & sleep 1; ls /workspace/late",
        'mkdir tool && cd tool && echo \'{"name":"made","version":"1.0.0","bin":"made.js"}\' > package.json'
        " && printf '#!/usr/bin/env node\nconsole.log(45)' > made.js && npm install -g --silent . && made",
    ]
    uses = [Use("Bash", {"command": command, "description": "x"}) for command in commands]
    real_host.api.part = in_turn(*uses, Say("done"))
    done = box.run("claude-code", "-p", "go on", "--dangerously-skip-permissions")
    assert done.returncode == 0, done.stderr
    told = real_host.api.prompts[-1].results
    assert told[0] == "42"
    assert told[1].split() == ["43", "/workspace/made"]
    assert told[2] == "44"
    assert told[3].split() == [box.agent.id[:12], str(OWNER), "/agent", "/shared"]
    assert told[4].startswith("Exit code 7")
    assert told[5] == "/workspace/late"
    assert told[6] == "45"


def test_interrupt_in_the_middle_of_a_command(real_host: RealHost, box: Box) -> None:
    number = str(100_000 + time.monotonic_ns() % 800_000)
    real_host.api.part = in_turn(bash(f"setsid {WAIT.format(n=number)} & {WAIT.format(n=number)}"), Say("done"))
    stream = ("--output-format", "stream-json", "--verbose")
    with box.begin("claude-code", "-p", "go on", FREE, *stream) as process:
        wait_until(lambda: alive(number), STARTED_WITHIN_S, "the command")
        assert number.encode() in box.run("pgrep", "-af", "perl").stdout
        box.run("pkill", "-INT", "-f", "claude-code -p")
        gone(number)
        out, _ = process.communicate(timeout=10)
        # Not the last message: the newest CLI exits 120 ms after the interrupt, also before it has written its result.
        assert b"[Request interrupted by user for tool use]" in out
        assert process.returncode == 0
    wait_until(lambda: not real_host.host.calls(box.place), 5, "the CLI to be gone")


def test_project_s_hook_and_server_run_in_the_container(real_host: RealHost, agents: Agents) -> None:
    box = Box(agents, real_host.place())
    box.agent.sh("mkdir -p ~/.local/bin && cp /usr/bin/hostname ~/.local/bin/installed")
    hook = {"type": "command", "command": "installed > hooked.txt; id -u >> hooked.txt"}
    write(box.place, ".claude/settings.json", {"hooks": {"PreToolUse": [{"matcher": "*", "hooks": [hook]}]}})
    write(box.place, "server.py", SERVER.replace('os.environ["GREETING"]', "os.uname().nodename"))
    write(box.place, ".mcp.json", {"mcpServers": {"here": {"command": "python3", "args": ["server.py"]}}})
    real_host.api.part = in_turn(Use("mcp__here__where"), Say("done"))
    done = box.run("claude-code", "-p", "go on", FREE)
    (told,) = real_host.api.prompts[-1].results
    assert {"agent", "shared", box.agent.id[:12]} <= set(told.split()), done.stderr
    assert (box.place.workspace / "hooked.txt").read_text().split() == [box.agent.id[:12], str(OWNER)]


def test_fork_bomb_stays_in_the_container(real_host: RealHost, agents: Agents) -> None:
    """The container's process limit stops the fork bomb. Its processes end with the call, and the next call works."""
    box = Box(agents, real_host.place(), pids_limit=300)
    box.agent.expect("see the pids limit")
    real_host.api.part = in_turn(bash("touch begun; b() { b | b & }; b 2>/dev/null; sleep 3"), Say("done"))
    before = len(real_host.host.children())
    process = subprocess.Popen(box.command("claude-code", "-p", "go on", FREE))
    try:
        wait_until((box.place.workspace / "begun").exists, STARTED_WITHIN_S, "the command")
        wait_until(lambda: len(box.processes()) > 250, STARTED_WITHIN_S, "many processes")
        assert len(real_host.host.children()) - before < 30, "and few of them are the host's"
        process.wait(60)
        wait_until(lambda: len(box.processes()) < 20, 2, "all processes of the call to be gone")
    finally:
        process.kill()
        process.wait()
    real_host.api.part = in_turn(bash("echo still here"), Say("done"))
    assert box.run("claude-code", "-p", "go on", FREE).returncode == 0
    assert real_host.api.prompts[-1].results == ["still here"]


@pytest.fixture
def screen(box: Box, tmp_path: Path) -> Iterator[Screen]:
    """A terminal through `docker exec -it`."""
    with terminal(box, tmp_path / "tmux") as screen:
        yield screen


@contextlib.contextmanager
def terminal(box: Box, socket: Path) -> Iterator[Screen]:
    """The terminal of a person, in which `docker exec -it` runs a shell."""
    screen = Screen(socket, ["docker", "exec", "-it", "-e", PROMPT, box.agent.id, *SHELL], "claude")
    try:
        yield screen
    finally:
        screen.close()


def test_session_through_docker_exec(screen: Screen) -> None:
    play_session(screen)


def test_agent_whose_command_is_claude(real_host: RealHost, agents: Agents, tmp_path: Path) -> None:
    """Claude runs in the tmux session and goes on after people detach. After a stop, the next start can continue it."""
    real_host.api.part = echo
    box = Box(agents, real_host.place(), environment={"AGENT_COMMAND": "claude-code"})

    def screen() -> str:
        return box.run("tmux", "capture-pane", "-p", "-t", "agent").stdout.decode()

    wait_until(lambda: READY in screen(), STARTED_WITHIN_S, "the interface")
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
        wait_until(lambda: "while away" in screen(), STARTED_WITHIN_S, "what was typed")
        box.run("tmux", "send-keys", "-t", "agent", "Enter")
        wait_until(lambda: "heard: while away" in screen(), STARTED_WITHIN_S, "the answer")
        person.type("clear; tmux attach -t agent", "Enter")
        person.wait("heard: while away")
    box.agent.container.stop(timeout=30)
    box.agent.container.start()
    box.agent.wait_healthy()
    wait_until(lambda: "/resume" in screen(), STARTED_WITHIN_S, "the offer to go on")
    wait_until(
        lambda: [call["state"] for call in real_host.host.calls(box.place)] == ["idle"],
        STARTED_WITHIN_S,
        "one call, at rest",
    )


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_container_s_end_ends_the_call_and_its_command(real_host: RealHost, agents: Agents, way: str) -> None:
    number = str(100_000 + time.monotonic_ns() % 800_000)
    real_host.api.part = in_turn(bash(f"setsid {WAIT.format(n=number)} & {WAIT.format(n=number)}"), Say("done"))
    box = Box(agents, real_host.place())
    with box.begin("claude-code", "-p", "go on", FREE):
        wait_until(lambda: alive(number), STARTED_WITHIN_S, "the command")
        getattr(box.agent.container, way)()
        gone(number)
        wait_until(lambda: not real_host.host.calls(box.place), GONE_WITHIN_S, "the CLI to be gone")
