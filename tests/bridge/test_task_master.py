"""Task Master in live containers of both images, with the real CLI on the host as its model, without any setup."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support import agent_sdk
from tests.support.bridge_box import Box
from tests.support.bridge_host import OWNER, HostMaker
from tests.support.containers import Agents
from tests.support.fake_messages_api import Json, Reply, Request
from tests.support.planner import DOCUMENT, REQUIREMENTS, SENTENCE, planner
from tests.support.real_host import RealHost
from tests.support.waiting import wait_until

INIT = ("task-master", "init", "--yes", "--no-git", "--no-aliases", "--rules=claude")
CONFIG, TASKS = ".taskmaster/config.json", ".taskmaster/tasks/tasks.json"
SHARED = "/shared/taskmaster/config.json"
ONE_TASK = {
    "id": 1, "title": "Weigh the parcel", "description": "x", "status": "pending", "dependencies": [],
    "priority": "high", "details": "x", "testStrategy": "x", "subtasks": [],
}  # fmt: skip
VERSION_LIMIT_S = 1.0
"""Task Master's own limit for `claude --version`, in seconds."""

# Projects


def tasks(box: Box) -> list[Json]:
    found: list[Json] = json.loads((box.place.workspace / TASKS).read_text())["master"]["tasks"]
    return found


def put(box: Box, path: str, text: str) -> None:
    """Write a file in the container, as its user."""
    script = 'mkdir -p "$(dirname "$0")" && cat > "$0"'
    done = box.run("bash", "-c", script, path, stdin=text.encode())
    assert done.returncode == 0, done.stderr


def plan(box: Box, *argv: str) -> str:
    """Run a Task Master command that must succeed. Returns its output."""
    done = box.run("task-master", *argv)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


class Planning:
    """A project in which four commands ran one after another: their output, and the processes that ran meanwhile."""

    def __init__(self, box: Box, host: RealHost) -> None:
        self.box = box
        self.asked: list[list[str]] = []
        self.started: list[list[str]] = []
        host.api.requests.clear()
        host.api.part = self._part
        put(box, "prd.md", DOCUMENT)
        self.said = [plan(box, "parse-prd", "prd.md", "--num-tasks=6")]
        self.parsed = tasks(box)
        self.said.append(plan(box, "expand", "--id=2", "--num=2"))
        self.said.append(plan(box, "update-task", "--id=1", "--prompt=The scale is of steel"))
        self.said.append(plan(box, "analyze-complexity"))
        self.tasks = tasks(box)

    def _part(self, request: Request) -> Reply:
        """Record the command lines of the CLI and of the wrapper while the CLI waits for an answer."""
        if request.tools and not request.results:
            lines = self.box.place.processes().values()
            self.asked += [line[3:] for line in lines if "/usr/local/bin/claude" in line]
            self.started += self.box.place.cli().values()
        return planner(request)


@pytest.fixture(scope="module")
def planning(newest_host: RealHost, image: str, no_leftovers: None) -> Iterator[Planning]:
    agents = Agents(image)
    try:
        yield Planning(Box(agents, newest_host.place()), newest_host)
    finally:
        agents.close(show=False)


def test_parse_prd_makes_a_task_of_each_requirement(planning: Planning) -> None:
    assert [task["title"] for task in planning.parsed] == REQUIREMENTS


def test_expand_splits_one(planning: Planning) -> None:
    assert [len(task["subtasks"]) for task in planning.tasks] == [0, 2, 0, 0, 0, 0]


def test_update_task_changes_one(planning: Planning) -> None:
    assert [task["title"] for task in planning.tasks] == ["Read the scale of steel", *REQUIREMENTS[1:]]


def test_analyze_complexity_reports_on_all(planning: Planning) -> None:
    report = planning.box.place.workspace / ".taskmaster" / "reports" / "task-complexity-report.json"
    scores = [entry["complexityScore"] for entry in json.loads(report.read_text())["complexityAnalysis"]]
    assert scores == [7] * len(REQUIREMENTS)


def test_tasks_file_is_valid_afterwards(planning: Planning) -> None:
    assert "valid" in plan(planning.box, "validate-dependencies").lower()
    assert len(json.loads(plan(planning.box, "list", "--format=json"))["tasks"]) == len(REQUIREMENTS)


def test_the_probe_for_the_version_was_answered(planning: Planning) -> None:
    assert "does not answer" not in "".join(planning.said)


def test_the_host_s_cli_was_started_as_the_policy_shows(planning: Planning, newest_host: RealHost) -> None:
    assert len(planning.asked) == len(planning.started) == 4
    for asked, started in zip(planning.asked, planning.started, strict=True):
        workspace = str(planning.box.place.workspace)
        shown = newest_host.host.tell("explain", "--project", workspace, "--", *asked).stdout
        (runs,) = [line.removeprefix("runs     claude ") for line in shown.splitlines() if line.startswith("runs ")]
        assert [json.dumps(word) for word in started[1:]] == _words(runs)


def _words(line: str) -> list[str]:
    """Return the JSON strings in a line."""
    return re.findall(r'"(?:[^"\\]|\\.)*"', line)


def test_no_project_got_a_configuration_of_its_own(planning: Planning) -> None:
    assert not (planning.box.place.workspace / CONFIG).exists()


# Which configuration applies


@pytest.fixture(scope="module")
def box_of_module(newest_host: RealHost, image: str, no_leftovers: None) -> Iterator[Box]:
    agents = Agents(image)
    try:
        yield Box(agents, newest_host.place())
    finally:
        agents.close(show=False)


@pytest.fixture
def box(box_of_module: Box, newest_host: RealHost) -> Box:
    """A container whose workspace and shared volume are empty."""
    newest_host.api.part = planner
    assert box_of_module.run("sh", "-c", "find /workspace /shared -mindepth 1 -delete").returncode == 0
    return box_of_module


def models(box: Box) -> list[str]:
    """Return provider and model of each role."""
    found = re.findall(r"│ (?:Main|Research|Fallback) +│ (\S+) +│ (\S+)", plan(box, "models"))
    return [f"{provider}/{model}" for provider, model in found]


def config(**roles: str) -> str:
    """Return a configuration with a model, written as `provider/model`, for each role named."""
    chosen = {role: dict(zip(("provider", "modelId"), text.split("/"), strict=True)) for role, text in roles.items()}
    return json.dumps({"models": chosen})


ALL = ("main", "research", "fallback")
OPUS = config(**dict.fromkeys(ALL, "claude-code/opus"))
HAIKU = config(**dict.fromkeys(ALL, "claude-code/haiku"))


def test_without_any_file_the_host_s_claude_has_every_role(box: Box) -> None:
    assert models(box) == ["claude-code/sonnet"] * 3


def test_shared_file_counts_for_a_project_without_one(box: Box) -> None:
    put(box, SHARED, OPUS)
    assert models(box) == ["claude-code/opus"] * 3


def test_role_without_a_setting_is_the_host_s_claude(box: Box) -> None:
    put(box, SHARED, config(main="openai/gpt-5.1"))
    assert models(box) == ["openai/gpt-5.1", "claude-code/sonnet", "claude-code/sonnet"]


def test_project_s_file_wins_and_is_left_as_it_is(box: Box) -> None:
    put(box, SHARED, OPUS)
    put(box, CONFIG, HAIKU)
    put(box, TASKS, json.dumps({"tasks": [ONE_TASK]}))  # in the old format, which the first command converts
    put(box, "prd.md", DOCUMENT)
    plan(box, "validate-dependencies")
    assert models(box) == ["claude-code/haiku"] * 3
    plan(box, "parse-prd", "prd.md", "--num-tasks=6", "--force")
    assert (box.place.workspace / CONFIG).read_text() == HAIKU


def test_init_gives_the_project_what_counted_before(box: Box) -> None:
    put(box, SHARED, OPUS)
    assert box.run(*INIT).returncode == 0
    assert box.run("rm", SHARED).returncode == 0
    assert models(box) == ["claude-code/opus"] * 3


def test_init_by_an_mcp_client_does_so_as_well(box: Box, tmp_path: Path) -> None:
    put(box, SHARED, OPUS)
    call = ["initialize_project", {"projectRoot": "/workspace", "yes": True, "initGit": False, "addAliases": False}]
    exec_ = ["docker", "exec", "-i", "-e", "TASK_MASTER_TOOLS=all", box.agent.id, "task-master-mcp"]
    play = agent_sdk.installed() / "mcp.mjs"
    command = ["node", str(play), str(tmp_path / "said"), json.dumps([call]), *exec_]
    subprocess.run(command, check=True, timeout=90)
    assert box.run("rm", SHARED).returncode == 0
    assert models(box) == ["claude-code/opus"] * 3


BROKEN = {"no JSON": "{ broken", "no object": "[]", "half": '{"models": {"main"'}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("path", [CONFIG, SHARED])
def test_broken_file_is_one_line_and_the_next_one_counts(box: Box, path: str, text: str) -> None:
    if path == CONFIG:
        put(box, SHARED, OPUS)
    put(box, path, text)
    done = box.run("task-master", "list")
    (line,) = [line for line in done.stderr.decode().splitlines() if "config" in line]
    assert line.startswith(f"task-master: {path if path == SHARED else '/workspace/' + path} is left out (")
    assert line.endswith("; mend it, or remove it")
    assert done.returncode == 0
    assert models(box) == ["claude-code/opus" if path == CONFIG else "claude-code/sonnet"] * 3


def test_broken_file_is_not_written_over(box: Box) -> None:
    put(box, CONFIG, BROKEN["no JSON"])
    box.run("task-master", "models", "--set-main=opus", "--claude-code")
    assert (box.place.workspace / CONFIG).read_text() == BROKEN["no JSON"]


def test_variables_pass_through(newest_host: RealHost, agents: Agents) -> None:
    """They reach the agent's session, where Task Master reads them."""
    box = Box(agents, newest_host.place(), environment={
        "TASKMASTER_TAG": "season", "AGENT_COMMAND": "task-master list > seen.txt", "AGENT_ON_EXIT": "stay",
    })  # fmt: skip
    seen = box.place.workspace / "seen.txt"
    wait_until(lambda: seen.exists() and "season" in seen.read_text(), 20, "the list of the tag")


# The probe for the version


def test_version_is_known_at_once_while_twenty_run(host_per_test: HostMaker, agents: Agents) -> None:
    host = host_per_test(limits={"running": 20, "per_grant": 20})
    box = Box(agents, host.grant("alpha"))
    many = "for n in $(seq 20); do claude-code -p wait & done; wait"
    with subprocess.Popen(box.command("sh", "-c", many)) as process:
        wait_until(lambda: host.status()["running"] == 20, 30, "twenty calls")
        for _ in range(5):
            assert box.run("timeout", str(VERSION_LIMIT_S), "claude", "--version").returncode == 0
        box.run("pkill", "-TERM", "-f", "claude-code")
        process.wait(20)


def test_version_is_known_at_the_first_call_after_a_start(host_per_test: HostMaker, agents: Agents) -> None:
    host = host_per_test()
    place = host.grant("alpha")
    host.end()
    box = Box(agents, place)
    box.agent.expect("bridge")
    host.start()
    assert box.run("timeout", str(VERSION_LIMIT_S), "claude", "--version").returncode == 0


# Two at once


def test_two_projects_at_once_are_kept_apart(newest_host: RealHost, agents: Agents) -> None:
    newest_host.api.part = planner
    newest_host.api.requests.clear()
    things = ("parcel", "pumpkin")
    boxes = [Box(agents, newest_host.place()) for _ in things]

    def work(number: int) -> str:
        put(boxes[number], "prd.md", DOCUMENT.replace("parcel", things[number]))
        said = plan(boxes[number], "parse-prd", "prd.md", "--num-tasks=6")
        return said + plan(boxes[number], "expand", "--id=1", "--num=2") + plan(boxes[number], "list")

    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(work, range(2)))
    for number, thing in enumerate(things):
        other = things[1 - number]
        assert [task["title"] for task in tasks(boxes[number])] == [
            title.replace("parcel", thing) for title in REQUIREMENTS
        ]
        kept = newest_host.host.state / "private" / boxes[number].place.name
        conversations = "".join(path.read_text() for path in kept.rglob("*.jsonl"))
        files = "".join(path.read_text() for path in boxes[number].place.workspace.rglob("*") if path.is_file())
        for text in (outputs[number], conversations, files):
            assert thing in text
            assert other not in text


# The MCP server, for a client made with an official SDK


CALLS = json.dumps([
    ["get_tasks", {"projectRoot": "/workspace"}],
    ["expand_task", {"projectRoot": "/workspace", "id": "1", "num": "2"}],
])  # fmt: skip
PLANNED = json.dumps({"master": {"tasks": [ONE_TASK], "metadata": {"created": "2026-01-01T00:00:00Z"}}})
EXAMPLE = json.loads((Path(__file__).parents[2] / "docs" / "examples" / "mcp.json").read_text())["mcpServers"]


def check_conversation(path: Path, box: Box) -> None:
    """Check that the server gives its name, lists its tools, and carried out two calls."""
    found = json.loads(path.read_text())
    assert {"get_tasks", "next_task", "parse_prd", "expand_task"} <= set(found["tools"])
    looked, expanded = found["told"]
    assert (looked["isError"], "Weigh the parcel" in looked["text"]) == (False, True)
    assert not expanded["isError"], expanded["text"]
    assert [[part["title"] for part in task["subtasks"]] for task in tasks(box)] == [[SENTENCE] * 2]


def server(name: str, container: str = "") -> list[str]:
    """Return the command of the example's entry."""
    entry = EXAMPLE[name]
    return [word.replace("magents-agent", container) for word in (entry["command"], *entry["args"])]


def test_mcp_client_on_the_host_through_docker_exec(box: Box, tmp_path: Path) -> None:
    put(box, TASKS, PLANNED)
    play = agent_sdk.installed() / "mcp.mjs"
    command = ["node", str(play), str(tmp_path / "said"), CALLS, *server("task-master-in-agent", box.agent.id)]
    subprocess.run(command, check=True, timeout=90)
    check_conversation(tmp_path / "said", box)


def test_mcp_client_that_is_the_agent_s_command(newest_host: RealHost, agents: Agents) -> None:
    newest_host.api.part = planner
    place = newest_host.place()
    path = place.workspace / TASKS
    path.parent.mkdir(parents=True)
    path.write_text(PLANNED)
    for made in (path, *path.parents):
        if place.workspace in made.parents:
            os.chown(made, OWNER, OWNER)
    (place.workspace / "calls").write_text(CALLS)
    words = " ".join(server("task-master"))
    command = f'node {agent_sdk.MOUNT}/mcp.mjs /workspace/said "$(cat calls)" {words}'
    box = Box(agents, place, {agent_sdk.installed(): agent_sdk.MOUNT}, environment={"AGENT_COMMAND": command})
    wait_until((place.workspace / "said").exists, 90, "the conversation")
    check_conversation(place.workspace / "said", box)


def test_mcp_entry_of_init_starts_the_image_s_own_server(box: Box, tmp_path: Path) -> None:
    """`npx -y task-master-ai` finds the installed program. It downloads nothing, although there is a network."""
    assert box.run(*INIT).returncode == 0
    put(box, TASKS, PLANNED)
    entry = json.loads((box.place.workspace / ".mcp.json").read_text())["mcpServers"]["task-master-ai"]
    exec_ = ["docker", "exec", "-i", "-e", "npm_config_offline=true", box.agent.id]
    command = ["node", str(agent_sdk.installed() / "mcp.mjs"), str(tmp_path / "said"), CALLS, *exec_]
    subprocess.run([*command, entry["command"], *entry["args"]], check=True, timeout=90)
    check_conversation(tmp_path / "said", box)


# Without a bridge


@pytest.fixture(scope="module")
def alone(image: str, no_leftovers: None) -> Iterator[Any]:
    """A container without a bridge, and a project in it."""
    agents = Agents(image)
    try:
        agent = agents.healthy()
        agent.sh(" ".join(INIT))
        yield agent
    finally:
        agents.close(show=False)


NEEDS_A_MODEL = [
    "parse-prd prd.md --force",
    "add-task --prompt=x",
    "expand --id=1 --force",
    "update-task --id=1 --prompt=x",
]
NEEDS_NONE = [
    "list", "next", "show 1", "set-status --id=1 --status=done", "validate-dependencies",
    "add-task --title=x --description=y",
]  # fmt: skip


@pytest.mark.parametrize("command", NEEDS_A_MODEL)
@pytest.mark.parametrize("size", [20, 60_000], ids=["short", "long"])
def test_command_that_needs_a_model_tells_the_bridge_s_sentence(alone: Any, command: str, size: int) -> None:
    """This also holds when the prompt is longer than what the wrapper reads before it ends."""
    alone.sh(f"cat > {TASKS} <<'E'\n{PLANNED}\nE\nseq {size} > prd.md")
    code, said = alone.try_run("task-master", *command.split())
    assert code == 1
    fact = "bridge: the host's bridge is not mounted: there is no directory /host"
    assert f"{fact}; on the host: `claude-bridge-server serve`" in said
    assert not re.search(r"^ +at .*[:(]", said, re.MULTILINE), "frames of Node's"
    assert "promptExcerpt" not in said


@pytest.mark.parametrize("command", NEEDS_NONE)
def test_command_that_needs_no_model_works(alone: Any, command: str) -> None:
    alone.sh(f"cat > {TASKS} <<'E'\n{PLANNED}\nE")
    code, said = alone.try_run("task-master", *command.split())
    assert code == 0, said
    assert "bridge" not in said
