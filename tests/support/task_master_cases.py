"""The command lines on which upstream's Task Master and the bundled one are compared, and the projects for them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from tests.support.one_command import Order

PLACE = "/parity"
"""Where commands run. The name is the same on both sides, because it appears in their output."""

TASKS = "project/.taskmaster/tasks/tasks.json"
CONFIG = "project/.taskmaster/config.json"
STATE = "project/.taskmaster/state.json"
REPORT = "project/.taskmaster/reports/task-complexity-report.json"
LONG_AGO = "2026-01-01T00:00:00.000Z"


def _task(number: int, status: str, dependencies: list[int], **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "title": f"Task number {number}",
        "description": f"What task {number} is about, with an é, a 漢字 and a `code` word",
        "status": status,
        "dependencies": dependencies,
        "priority": ("high", "medium", "low")[number % 3],
        "details": f"1. Begin {number}\n2. **Finish** it\n\n```js\nconst x = {number};\n```",
        "testStrategy": "Look at it :sparkles:",
        "subtasks": [],
        **more,
    }


def _subtask(number: int, status: str, dependencies: list[int]) -> dict[str, Any]:
    return {**_task(number, status, dependencies), "subtasks": None, "title": f"Part {number}"}


TEN_TASKS = [
    _task(1, "done", []),
    _task(2, "done", [1]),
    _task(3, "in-progress", [1], subtasks=[_subtask(1, "done", []), _subtask(2, "pending", [1])]),
    _task(4, "pending", [2]),
    _task(5, "pending", [3, 4]),
    _task(6, "review", [2]),
    _task(7, "deferred", []),
    _task(8, "cancelled", [7]),
    _task(9, "pending", [2, 6]),
    _task(10, "pending", [9], subtasks=[_subtask(1, "pending", [])]),
]
TAG = {"created": LONG_AGO, "updated": LONG_AGO, "description": "Tasks for this tag"}
TAGGED = {
    "master": {"tasks": TEN_TASKS, "metadata": TAG},
    "feature-x": {"tasks": [_task(1, "pending", [])], "metadata": TAG},
}
MODEL = {"provider": "claude-code", "modelId": "sonnet", "maxTokens": 64000, "temperature": 0.2}
SETTINGS = {
    "models": {"main": MODEL, "research": MODEL, "fallback": MODEL},
    "global": {"logLevel": "info", "projectName": "Parity", "defaultTag": "master", "userId": "1234567890"},
    "claudeCode": {},
}
SWITCHED = {"currentTag": "master", "lastSwitched": LONG_AGO, "branchTagMapping": {}, "migrationNoticeShown": True}

EMPTY: dict[str, str] = {}
PROJECT = {TASKS: json.dumps(TAGGED, indent=2), CONFIG: json.dumps(SETTINGS), STATE: json.dumps(SWITCHED)}
BROKEN_DEPENDENCIES = {
    **PROJECT,
    TASKS: json.dumps(
        {"master": {"tasks": [_task(1, "pending", [1, 99]), _task(2, "pending", [1, 1])], "metadata": TAG}}
    ),
}
LEGACY = {**PROJECT, TASKS: json.dumps({"tasks": TEN_TASKS})}
ANALYSIS = {
    "meta": {"generatedAt": LONG_AGO, "tasksAnalyzed": 1, "thresholdScore": 5, "projectName": "Parity"},
    "complexityAnalysis": [
        {
            "taskId": 5,
            "taskTitle": "Task number 5",
            "complexityScore": 8,
            "recommendedSubtasks": 4,
            "expansionPrompt": "Split it",
            "reasoning": "Large",
        }
    ],
}


@dataclass(frozen=True)
class Case:
    """One command line of Task Master in one project."""

    arguments: str
    project: dict[str, str] = field(default_factory=lambda: PROJECT)
    program: str = "task-master"
    env: dict[str, str] = field(default_factory=dict)
    terminal: bool = False
    stdin: str = ""
    dialogue: list[dict[str, Any]] = field(default_factory=list)
    note: str = ""

    @property
    def name(self) -> str:
        """Return the test's name, which is also the name of the directory for the command."""
        text = " ".join(filter(None, [self.program, self.arguments, self.note, "tty" if self.terminal else ""]))
        return "".join(letter if letter.isalnum() or letter in "-=." else "_" for letter in text)

    @property
    def root(self) -> str:
        """Return the directory of the run. The command runs in `project` below it."""
        return f"{PLACE}/{self.name}"

    def order(self) -> Order:
        """Return the order for `one_command.py`. The look for newer releases is off, unless the case is about it."""
        return {
            "root": self.root,
            "argv": [self.program, *self.arguments.split()],
            "files": {"home/.bashrc": "# mine\n", **self.project},
            "env": {"TASKMASTER_SKIP_AUTO_UPDATE": "1", **self.env},
            "stdin": self.stdin,
            "terminal": self.terminal,
            "dialogue": self.dialogue,
            "until": CONNECTED if self.dialogue else "",
        }


def _request(number: int, method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


CONNECTED = "providers not registered"
"""The MCP server prints this once it knows its client. It checks every 100 ms, so this comes among the answers."""

HELLO = [
    _request(
        1,
        "initialize",
        protocolVersion="2025-06-18",
        capabilities={},
        clientInfo={"name": "parity", "version": "1"},
    ),
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
    _request(2, "tools/list"),
]


def _mcp(note: str, program: str = "task-master-mcp", tools: str = "all", **arguments: Any) -> Case:
    """Greet the server and ask for its tools. With arguments, also call the tool that the case is named after."""
    case = Case("", program=program, env={"TASK_MASTER_TOOLS": tools}, dialogue=HELLO, note=note)
    if not arguments:
        return case
    given = {name: case.root + "/project" if name == "projectRoot" else value for name, value in arguments.items()}
    return replace(case, dialogue=[*HELLO, _request(3, "tools/call", name=note, arguments=given)])


HELPED = [
    "init",
    "models",
    "parse-prd",
    "generate",
    "list",
    "set-status",
    "sync-readme",
    "update",
    "update-task",
    "update-subtask",
    "add-task",
    "remove-task",
    "add-subtask",
    "remove-subtask",
    "clear-subtasks",
    "analyze-complexity",
    "complexity-report",
    "expand",
    "research",
    "next",
    "show",
    "start",
    "tags",
    "add-tag",
    "use-tag",
    "rename-tag",
    "copy-tag",
    "delete-tag",
    "add-dependency",
    "remove-dependency",
    "validate-dependencies",
    "fix-dependencies",
    "rules",
    "migrate",
    "move",
    "lang",
    "scope-up",
    "scope-down",
    "export",
    "export-tag",
    "autopilot",
    "loop",
    "auth",
    "login",
    "logout",
    "context",
    "briefs",
    "tui",
    "help",
]  # in the help's own order

CASES = [
    Case("--version", EMPTY),
    Case("--help", EMPTY),
    Case("", EMPTY),
    Case("no-such-command", EMPTY),
    Case("list --no-such-option"),
    *[Case(f"{command} --help", EMPTY) for command in HELPED],
    # Setting up a project
    Case("init --yes --no-git --no-aliases", EMPTY),
    Case("init --yes --git --aliases --rules=cursor,claude,windsurf,roo,gemini,kiro,vscode,codex", EMPTY),
    Case("init --yes --name=Named --description=Described --dry-run", EMPTY),
    Case("init --yes --no-git --rules=no-such-profile", EMPTY),
    Case("init --yes --no-git --no-aliases --rules=claude", PROJECT, note="again"),
    Case("rules add cursor roo --force"),
    Case("rules remove claude --force"),
    Case("rules frobnicate"),
    Case("migrate --yes", {"project/tasks/tasks.json": json.dumps({"tasks": TEN_TASKS})}),
    # Commands that read
    Case("list"),
    Case("list", terminal=True),
    Case("list --no-banner", terminal=True, env={"NO_COLOR": "1"}),
    Case("list", env={"FORCE_COLOR": "1"}, note="coloured"),
    Case("list", env={"FORCE_COLOR": "3", "COLUMNS": "60"}, note="narrow"),
    Case("list --with-subtasks --status=pending"),
    Case("list --json"),
    Case("list --format=compact"),
    Case("list --ready"),
    Case("list --tag=feature-x"),
    Case("list --all-tags"),
    Case("list --tag=no-such-tag"),
    Case("list", EMPTY, note="without_project"),
    Case("list", LEGACY, note="legacy"),
    Case("list", {**PROJECT, TASKS: "{ broken"}, note="broken_tasks"),
    Case("list", {**PROJECT, TASKS: json.dumps({"master": {"tasks": [], "metadata": TAG}})}, note="empty"),
    Case("list", env={"TASKMASTER_SKIP_AUTO_UPDATE": ""}, note="update_check_without_network"),
    Case("list", env={"TASKMASTER_TAG": "feature-x"}, note="tag_by_variable"),
    Case("show 3"),
    Case("show 3", terminal=True),
    Case("show 3.2"),
    Case("show 1,4,99"),
    Case("show 3 --format=json"),
    Case("show"),
    Case("next"),
    Case("next", terminal=True),
    Case("next --format=json"),
    Case("complexity-report"),
    Case("complexity-report", {**PROJECT, REPORT: json.dumps(ANALYSIS)}, note="with_report"),
    Case("sync-readme"),
    Case("tags --show-metadata"),
    # Commands that change
    Case("set-status --id=4 --status=done"),
    Case("set-status 4,5 in-progress"),
    Case("set-status --id=3.2 --status=done"),
    Case("set-status --id=4 --status=no-such-status"),
    Case("set-status --id=99 --status=done"),
    Case("set-status"),
    Case("add-dependency --id=9 --depends-on=4"),
    Case("add-dependency --id=1 --depends-on=2"),
    Case("add-dependency --id=99 --depends-on=1"),
    Case("remove-dependency --id=5 --depends-on=3"),
    Case("remove-dependency --id=5 --depends-on=9"),
    Case("validate-dependencies"),
    Case("validate-dependencies", BROKEN_DEPENDENCIES, note="broken"),
    Case("fix-dependencies", BROKEN_DEPENDENCIES),
    Case("add-task --title=By-hand --description=Nobody-asked-a-model --dependencies=2 --priority=high"),
    Case("add-subtask --parent=4 --title=Small --description=Smaller"),
    Case("remove-subtask --id=3.2 --convert"),
    Case("clear-subtasks --all"),
    Case("remove-task --id=7 --yes"),
    Case("move --from=9 --to=11"),
    Case("generate"),
    Case("add-tag fresh --description=New"),
    Case("tags add copied --copy-from feature-x"),
    Case("use-tag feature-x"),
    Case("use-tag no-such-tag"),
    Case("rename-tag feature-x feature-y"),
    Case("copy-tag master copied"),
    Case("delete-tag feature-x --yes"),
    # Models
    Case("models"),
    Case("models --set-main=opus --claude-code"),
    Case("models --set-main=no-such-model"),
    Case("lang --response=Deutsch"),
    # Commands that need a model, and have none
    Case("parse-prd no-such-file.txt"),
    Case("add-task"),
    Case("expand --id=99"),
    Case("update-task --id=4"),
    Case("auth status"),
    Case("tui"),
    # The MCP server
    _mcp("all"),
    _mcp("standard", tools="standard"),
    _mcp("core", program="task-master-ai", tools=""),
    _mcp("get_tasks", projectRoot=True, withSubtasks=True),
    _mcp("next_task", projectRoot=True),
    _mcp("set_task_status", projectRoot=True, id="4", status="done"),
    _mcp("get_task", id=[]),
    _mcp("no_such_tool", id=1),
]
