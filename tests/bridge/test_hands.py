"""Claude's commands and the project's hooks and servers run in the container; with both versions.

The container is the lightest one (tests/support/bridge_host.py). Tests recognise it by /app, which exists nowhere else.
Tests with the real images are in test_containers.py. Whether a process is gone is checked on the whole machine: each
process has a unique argument.
"""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from tests.support.bridge_host import SECRET, Place
from tests.support.fake_messages_api import Say, Use, in_turn
from tests.support.real_host import RealHost
from tests.support.stream_json import STREAM, ask, messages, read, user
from tests.support.tool_calls import FREE, GONE_WITHIN_S, SERVER, STARTED_WITHIN_S, WAIT, alive, bash, gone, write
from tests.support.waiting import wait_until


def tell(real: RealHost, place: Place, *commands: str) -> list[str]:
    """Run the commands one after another in one call. Returns the results that Claude is given."""
    real.api.part = in_turn(*(bash(command) for command in commands), Say("done"))
    done = place.run("-p", "go on", FREE)
    assert done.returncode == 0, done.stderr
    told = real.api.prompts[-1].results
    assert len(told) == len(commands)
    return told


# What runs, and where

COMMANDS = {
    "place": "ls /; pwd",
    "file": "echo made > made.txt",
    "code": "echo out; echo err >&2; exit 7",
    "leaves": "cd /app && pwd",
    "is back": "pwd",
    "enters": "mkdir sub && cd sub",
    "persists": "pwd",
    "large": "head -c 5000000 /dev/zero | tr '\\0' x",
    "environment": "env",
    "goes on": "(sleep 0.3; echo late > late.txt) & echo begun",
    "went on": "until test -s late.txt; do sleep 0.1; done; cat late.txt",
    "input": "cat; echo over",
}
"""These run in one conversation, because Claude Code starts each of them separately."""


@pytest.fixture(scope="module")
def told(real_host: RealHost) -> dict[str, str]:
    """What Claude is given of each command; of `file`, what is in the file."""
    place = real_host.place()
    real_host.api.requests.clear()
    results = dict(zip(COMMANDS, tell(real_host, place, *COMMANDS.values()), strict=True))
    return {**results, "file": (place.workspace / "made.txt").read_text()}


def test_command_runs_in_the_container(told: dict[str, str]) -> None:
    names = told["place"].split()
    assert "app" in names
    assert "claude" not in names
    assert names[-1] == "/workspace"


def test_command_s_files_belong_to_the_workspace(told: dict[str, str]) -> None:
    assert told["file"] == "made\n"


def test_exit_code_and_both_outputs(told: dict[str, str]) -> None:
    assert told["code"].startswith("Exit code 7")
    assert {"out", "err"} <= set(told["code"].split())


def test_directory_persists(told: dict[str, str]) -> None:
    assert told["persists"] == "/workspace/sub"


def test_directory_outside_of_the_workspace_is_left_again(told: dict[str, str]) -> None:
    assert told["leaves"].startswith("/app")
    assert told["is back"] == "/workspace"


def test_five_megabytes(told: dict[str, str]) -> None:
    assert "xxxxxxxx" in told["large"]


def test_environment_is_the_container_s_and_holds_no_secret(told: dict[str, str]) -> None:
    assert "CLAUDECODE=1" in told["environment"]
    assert SECRET not in told["environment"]
    for name in ("ANTHROPIC", "PROXY", "CLAUDE_CONFIG_DIR", "MESSAGING", "DESCRIPTOR"):
        assert name not in told["environment"]


def test_background_command_outlives_the_one_that_left_it(told: dict[str, str]) -> None:
    assert told["goes on"] == "begun"
    assert told["went on"] == "late"


def test_command_that_waits_for_input_gets_its_end(told: dict[str, str]) -> None:
    assert told["input"] == "over"


def test_background_task(real: RealHost) -> None:
    place = real.place()
    real.api.part = in_turn(bash("sleep 0.5; touch late.txt", run_in_background=True), Say("done"))
    assert place.run("-p", "go on", FREE).returncode == 0
    assert (place.workspace / "late.txt").exists()


def test_without_permission_nothing_runs(real: RealHost) -> None:
    place = real.place()
    real.api.part = in_turn(bash("touch made.txt"), Say("done"))
    assert place.run("-p", "go on").returncode == 0
    assert not (place.workspace / "made.txt").exists()


def test_claude_is_told_where_it_lives(real: RealHost) -> None:
    place = real.place()
    assert place.run("-p", "hi you", "--append-system-prompt", "And speak of otters.").returncode == 0
    system = real.api.prompts[-1].system
    assert "/workspace, which are the very same files" in system
    assert "And speak of otters." in system


def test_claude_is_told_by_an_sdk_s_own_initialize(real: RealHost) -> None:
    with real.place().start(*STREAM) as running:
        running.stdin.write(ask("initialize", hooks=None, appendSystemPrompt="And speak of otters.") + user("hi you"))
        running.stdin.flush()
        next(read(running.line, lambda m: m["type"] == "result"))
        running.end()
    system = real.api.prompts[-1].system
    assert "/workspace, which are the very same files" in system
    assert "And speak of otters." in system


# The project's settings


def test_hook_of_the_project(real: RealHost) -> None:
    place = real.place()
    hook = {"type": "command", "command": "cat > heard.json; ls / > root.txt"}
    write(place, ".claude/settings.json", {"hooks": {"PreToolUse": [{"matcher": "Bash", "hooks": [hook]}]}})
    tell(real, place, "true")
    assert json.loads((place.workspace / "heard.json").read_text())["tool_name"] == "Bash"
    assert "app" in (place.workspace / "root.txt").read_text().split()


def test_permissions_of_the_project(real: RealHost) -> None:
    place = real.place()
    write(place, ".claude/settings.json", {"permissions": {"allow": ["Bash(touch:*)"]}})
    real.api.part = in_turn(bash("touch made.txt"), Say("done"))
    place.run("-p", "go on")
    assert (place.workspace / "made.txt").exists()


def test_server_of_the_project(real: RealHost) -> None:
    place = real.place()
    write(place, "server.py", SERVER)
    entry = {"command": "python3", "args": ["server.py"], "env": {"GREETING": "it's ${WHO:-you}"}}
    write(place, ".mcp.json", {"mcpServers": {"here": entry}})
    real.api.part = in_turn(Use("mcp__here__where"), Say("done"))
    done = place.run("-p", "go on", FREE)
    (told,) = real.api.prompts[-1].results
    assert "app" in told.split(), done.stderr
    assert told.endswith("it's you")


@pytest.mark.parametrize("kind", ["commands/x.md", "skills/x/SKILL.md"])
def test_command_of_the_project(real: RealHost, kind: str) -> None:
    place = real.place()
    write(place, f".claude/{kind}", "---\nname: x\ndescription: x\nallowed-tools: Bash\n---\nhere: !`ls -m /`\n")
    assert place.run("-p", "/x").returncode == 0
    assert "here: app" in real.api.prompts[-1].everything


def test_agent_of_the_project(real: RealHost) -> None:
    place = real.place()
    write(place, ".claude/agents/x.md", "---\nname: x\ndescription: knows of otters\n---\nSpeak of otters.")
    place.run("-p", "hi you", "--agent", "x")
    assert "Speak of otters." in real.api.prompts[-1].system


def test_what_is_left_out_is_told_line_by_line(real: RealHost) -> None:
    place = real.place()
    write(place, ".claude/settings.json", {"apiKeyHelper": "x", "env": {"A": "b"}, "model": "sonnet"})
    write(place, ".claude/settings.local.json", "no JSON")
    assert not place.run("-p", "hi you").stderr
    said = place.run("-p", "hi you", env={"CLAUDE_BRIDGE_NOTES": "always"}).stderr.decode().splitlines()
    assert [line.split(" is left out")[0] for line in said] == [
        "bridge: .claude/settings.json: apiKeyHelper",
        "bridge: .claude/settings.local.json",
    ]


def test_variables_of_the_settings_reach_commands(real: RealHost) -> None:
    """Those of a flag win over those of the project. The CLI's own process gets only those of a fixed list."""
    place = real.place()
    hook = {"hooks": [{"type": "command", "command": "echo $A >hooked"}]}
    steering = {"CLAUDE_CODE_SHELL_PREFIX": "/workspace/run", "BASH_DEFAULT_TIMEOUT_MS": "1000"}
    write(place, ".claude/settings.json", {"env": {"A": "a", "B": "b", **steering}, "hooks": {"Stop": [hook]}})
    write(place, "flag.json", {"env": {"B": "flag"}})
    real.api.part = in_turn(
        Use("Bash", {"command": "echo $A $B", "description": "x"}),
        Use("Bash", {"command": "sleep 30", "description": "x"}),
        Say("done"),
    )
    place.run("-p", "go on", FREE, "--settings", "flag.json")
    first, second = real.api.prompts[-1].results
    assert first == "a flag"
    assert "timed out" in second or "background" in second
    assert (place.workspace / "hooked").read_text() == "a\n"


def test_settings_do_not_count_when_the_client_says_so(real: RealHost) -> None:
    place = real.place()
    hook = {"type": "command", "command": "touch hooked"}
    write(place, ".claude/settings.json", {"hooks": {"UserPromptSubmit": [{"hooks": [hook]}]}})
    place.run("-p", "hi you", "--setting-sources=")
    assert not (place.workspace / "hooked").exists()
    place.run("-p", "hi you")
    assert (place.workspace / "hooked").exists()


# Cancel and death: each process has a unique number as its argument, and is gone from the machine within 2 s


LONG = [f"{WAIT} & setsid {WAIT} & nohup {WAIT} >/dev/null 2>&1 & {WAIT}", f"trap '' TERM INT HUP; {WAIT}"]


@pytest.fixture(params=LONG, ids=["daemons", "ignores"])
def long_command(request: pytest.FixtureRequest) -> tuple[str, str]:
    number = str(100_000 + time.monotonic_ns() % 800_000)
    return request.param.format(n=number), number


def test_interrupt_ends_the_command(real: RealHost, long_command: tuple[str, str]) -> None:
    command, number = long_command
    real.api.part = in_turn(bash(command), Say("done"))
    with real.place().start(*STREAM, FREE) as running:
        running.stdin.write(user("go on"))
        running.stdin.flush()
        wait_until(lambda: alive(number), STARTED_WITHIN_S, "the command")
        running.stdin.write(ask("interrupt"))
        running.stdin.flush()
        gone(number)
        running.end()


def test_time_out_ends_the_command(real: RealHost, long_command: tuple[str, str]) -> None:
    """The command is a hook's. The newest CLI moves a Bash command that takes too long to the background."""
    command, number = long_command
    place = real.place()
    hook = {"type": "command", "command": command, "timeout": 1}
    write(place, ".claude/settings.json", {"hooks": {"UserPromptSubmit": [{"hooks": [hook]}]}})
    with place.start("-p", "go on") as running:
        wait_until(lambda: alive(number), STARTED_WITHIN_S, "the command")
        assert running.end()[0] == 0
        gone(number)


@pytest.mark.parametrize("number_of_signal", [signal.SIGTERM, signal.SIGKILL])
def test_client_s_end_ends_the_command(
    real: RealHost, long_command: tuple[str, str], number_of_signal: signal.Signals
) -> None:
    command, number = long_command
    real.api.part = in_turn(bash(command), Say("done"))
    place = real.place()
    with place.start("-p", "go on", FREE) as running:
        wait_until(lambda: alive(number), STARTED_WITHIN_S, "the command")
        clients = [pid for pid, line in place.processes().items() if "/app/claude" in line and line[0] != "bwrap"]
        os.kill(min(clients), number_of_signal)  # the client's forked reaper has the same command line
        gone(number)
        wait_until(lambda: not real.host.calls(place), GONE_WITHIN_S, "the CLI to be gone")
        running.process.wait(10)


def test_cli_s_end_ends_the_command(real: RealHost, long_command: tuple[str, str]) -> None:
    command, number = long_command
    real.api.part = in_turn(bash(command), Say("done"))
    place = real.place()
    with place.start("-p", "go on", FREE) as running:
        wait_until(lambda: alive(number), STARTED_WITHIN_S, "the command")
        for pid in place.cli():
            os.kill(pid, signal.SIGKILL)
        gone(number)
        assert running.end()[0] == 128 + signal.SIGKILL


def test_server_s_end_ends_the_command(real: RealHost, long_command: tuple[str, str]) -> None:
    command, number = long_command
    real.api.part = in_turn(bash(command), Say("done"))
    with real.place().start("-p", "go on", FREE) as running:
        wait_until(lambda: alive(number), STARTED_WITHIN_S, "the command")
        real.host.end(signal.SIGKILL)
        try:
            gone(number)
            assert running.end()[0] == 125
        finally:
            real.host.start()


# Attacks on the executor


ATTACKS = {
    "kills its keeper": "kill -9 $PPID; sleep {n}",
    "kills its client": "kill -9 $(ps -o ppid= -p $PPID); sleep {n}",
    "leaves daemons": "for i in 1 2 3; do (setsid sh -c 'trap \"\" TERM HUP; sleep {n}' &) ; done; true",
    "closes everything": "exec 0<&- 1>&- 2>&- 99>&-; sleep 0.2; setsid sleep {n} & true",
    "writes the protocol": "printf '\\211magents-bridge\\n\\0\\0\\0\\0\\022\\200\\0\\0\\0'; setsid sleep {n} & true",
    "tells a place of its own": "echo /etc >&99; setsid sleep {n} & true",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_attack_on_the_executor_leaves_nothing(real: RealHost, attack: str) -> None:
    number = str(100_000 + time.monotonic_ns() % 800_000)
    place = real.place()
    real.api.part = in_turn(bash(attack.format(n=number)), bash("echo still here"), Say("done"))
    with place.start("-p", "go on", FREE) as running:
        running.end(timeout=STARTED_WITHIN_S)
        gone(number)
    wait_until(lambda: not real.host.calls(place), GONE_WITHIN_S, "the CLI to be gone")
    assert tell(real, place, "echo and again") == ["and again"]


def test_flood_of_output_is_bounded(real: RealHost) -> None:
    real.api.part = in_turn(bash("timeout 5 yes"), Say("done"))
    done = real.place().run("-p", "go on", FREE, "--output-format", "json")
    assert messages(done.stdout)[-1]["result"] == "done"
