"""Every difference between Claude Code over the bridge and plain on a host, with its reason.

A row rewrites what the plain CLI does into what the bridge does. What is different then is a fault. The document
docs/differences.md is made from this table: `python -m tests.fidelity.differences`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridge.policy.argv import where_it_lives
from bridge.policy.terms import Scope
from tests.fidelity.facts import Facts
from tests.fidelity.sides import HOME

Rewrite = Callable[[str, Any], Any]
"""Takes the name of a fact and the plain CLI's value. Returns the value over the bridge; None means no such fact."""

WITHHELD = ("CronCreate", "CronDelete", "CronList", "EnterWorktree", "ExitWorktree", "ListAgents", "Monitor",
            "ScheduleWakeup", "SendMessage", "Workflow")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Difference:
    """One row: what is different, why, and the facts that it concerns (a pattern for their names)."""

    what: str
    why: str
    facts: str
    rewrite: Rewrite | None = None
    """Rewrites the plain CLI's value into the bridge's."""
    undo: Rewrite | None = None
    """Leaves out what the bridge has in addition."""


def replaced(pattern: str, replacement: str) -> Rewrite:
    """Return a rewrite of all text in a fact."""
    compiled = re.compile(pattern)

    def rewrite(name: str, value: Any) -> Any:
        if isinstance(value, str):
            return compiled.sub(replacement, value)
        if isinstance(value, list):
            return [rewrite(name, entry) for entry in value]
        if isinstance(value, dict):
            return {key: rewrite(name, entry) for key, entry in value.items()}
        return value

    return rewrite


def removed(*lines: str) -> Rewrite:
    """Return a rewrite that leaves out these entries of a list."""
    return lambda _, value: [entry for entry in value if entry not in lines] if isinstance(value, list) else value


def in_turn(*rewrites: Rewrite) -> Rewrite:
    """Return a rewrite that does several, one after another."""

    def rewrite(name: str, value: Any) -> Any:
        for one in rewrites:
            value = value if value is None else one(name, value)
        return value

    return rewrite


def without_tools(*tools: str) -> Rewrite:
    """Return a rewrite that leaves these tools out: out of lists, and what the model is told of each."""
    lines = removed(*tools)
    return lambda name, value: None if name.partition(": tool ")[2] in tools else lines(name, value)


def dropped(pattern: str) -> Rewrite:
    """Return a rewrite that leaves out the lines that match, in lists at any depth."""
    compiled = re.compile(pattern)

    def rewrite(name: str, value: Any) -> Any:
        if isinstance(value, list):
            kept = [line for line in value if not (isinstance(line, str) and compiled.match(line))]
            return [rewrite(name, entry) for entry in kept]
        if isinstance(value, dict):
            return {key: rewrite(name, entry) for key, entry in value.items()}
        return value

    return rewrite


def _untold(_name: str, value: Any) -> Any:
    """Leave out what the bridge tells about the container, and the empty line before it."""
    told = where_it_lives(Scope()).splitlines()
    at = next((at for at in range(len(value)) if value[at : at + len(told)] == told), None)
    if at is None:
        return value
    before = value[:at]
    return (before[:-1] if before[-1:] == [""] else before) + value[at + len(told) :]


def _without_list(value: Any) -> Any:
    """Mark the list of files that a command has changed as unavailable."""
    result = value.get("tool_use_result")
    if not isinstance(result, dict) or "bashEditDiff" not in result:
        return value
    none = {"files": [], "moreFiles": 0, "unavailable": True}
    return {**value, "tool_use_result": {**result, "bashEditDiff": none}}


def _without_command(command: str, value: Any) -> Any:
    """Leave out what is said of a command, in lists at any depth."""
    if isinstance(value, list):
        kept = [entry for entry in value if not (isinstance(entry, dict) and entry.get("name") == command)]
        return [_without_command(command, entry) for entry in kept]
    if isinstance(value, dict):
        return {name: _without_command(command, entry) for name, entry in value.items()}
    return value


def _without_key(key: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_without_key(key, entry) for entry in value]
    if isinstance(value, dict):
        return {name: _without_key(key, entry) for name, entry in value.items() if name != key}
    return value


_searched = in_turn(
    replaced(r"\(Read, Edit, Write(, Glob, Grep)?\) — reserve", "(…) — reserve"),
    replaced(r"Otherwise use (`find` or `grep` via the Bash tool|the Glob or Grep) directly", "Otherwise use …"),
    replaced(r"using (`find`/Glob, `grep`/Grep|Glob, Grep), and Read", "using … and Read"),
    replaced(r"(`grep` via the Bash tool|the Grep tool) for a specific", "… for a specific"),
    replaced(r"Avoid using this tool to run `(find`, `grep`, `)?cat`", "Avoid using this tool to run … `cat`"),
    dropped(r" - (File search: Use Glob|Content search: Use Grep|When running `find`|When using `find -regex`)"),
)
"""Leaves out how the CLI tells the model to search: with Glob and Grep where they are offered, else with commands."""

_introduced = replaced(
    r"^You are (a Claude agent, built on Anthropic's Claude Agent SDK|Claude Code, Anthropic's official CLI for "
    r"Claude, running within the Claude Agent SDK)\.$",
    "You are Claude.",
)
"""Makes one of the two first sentences. The CLI takes the second one where something is added to the system prompt."""

_unmentioned = in_turn(
    replaced(r"(?m)^- (Use SendMessage with the agent's ID|A previously spawned agent cannot).* starts fresh", "- …"),
    replaced(r" \(use SendMessage with to: [^)]*\)", ""),
    replaced(r"(, /list-agents\b)?, and \d+ more\. Treat the message", ", and … more. Treat the message"),
    lambda _, value: _without_key("canContinueAgent", value),
)
"""Leaves out what the CLI says of SendMessage and /list-agents in other places. Some versions say it where the tool is
not offered."""


def _below_one_heading(_name: str, value: Any) -> Any:
    """Add the heading of the one file that holds the project's instructions."""
    if not isinstance(value, list):
        return value
    told = [
        at for at, line in enumerate(value) if str(line).startswith("Codebase and user instructions are shown below")
    ]
    for at in reversed(told):
        if value[at + 2 : at + 3] and str(value[at + 2]).startswith("Contents of /workspace/"):
            heading = "Contents of /claude/CLAUDE.md (user's private global instructions for all projects):"
            value = [*value[: at + 2], heading, "", *value[at + 2 :]]
    return value


def _in_rules(_name: str, value: Any) -> Any:
    """Name the files that are told when Claude reads another by their path among the CLI's rules, sorted."""
    if not isinstance(value, list):
        return value
    start, found = None, list(value)
    for at, line in enumerate(value):
        if re.match(r"(tool.call hook .*: )?Contents of (/claude/rules)?/workspace/.*[^)]:$", str(line)):
            found[at] = re.sub(r".*Contents of (?=/workspace)", "Contents of /claude/rules", line)
            start = at if start is None else start
    if start is None:
        return value
    blocks = re.split(r"(?m)^(?=Contents of /claude/rules)", "\n".join(map(str, found[start:])))
    lines = [line for block in sorted(blocks) for line in block.splitlines()]
    return [*found[:start], *(line for line in lines if line not in ("", "<system-reminder>", "</system-reminder>"))]


def _without_nested_agents(_name: str, value: Any) -> Any:
    """Leave out what the AGENTS.md files of packages say. Returns None if nothing else is told."""
    heading = re.compile(r"Contents of (/claude/rules)?/workspace/.+/AGENTS\.md:$")
    if not isinstance(value, list) or not any(heading.match(str(line)) for line in value):
        return value
    left, is_left_out = list[Any](), False
    for line in value:
        if str(line).startswith("Contents of "):
            is_left_out = bool(heading.match(line))
        left += [] if is_left_out else [line]
    return (left[:-1] if left[-1:] == ["<system-reminder>"] else left) or None


def _without_dependencies(_name: str, value: Any) -> Any:
    """Leave out the instructions of a dependency. Returns None if nothing else is told."""
    left = value
    for at in [at for at, line in enumerate(value) if re.match(r"Contents of .*/node_modules/", str(line))][::-1]:
        left = [*left[:at], *left[at + 2 :]]
    return (left[:-1] if left != value and left[-1:] == ["<system-reminder>"] else left) or None


_without_large = in_turn(removed("huge"), dropped(r"- huge: "))


def _with_directory_of_skill(name: str, value: Any) -> Any:
    """Name both directories of a skill in one line, and leave out empty lines: the bridge's own line stands first or
    last."""
    if isinstance(value, dict):
        return {key: _with_directory_of_skill(name, entry) for key, entry in value.items()}
    if isinstance(value, str) and "\n" in value:
        return "\n".join(_with_directory_of_skill(name, value.split("\n")))
    if not isinstance(value, list):
        return value
    if not any(str(line).startswith("Base directory for this skill: ") for line in value):
        return [_with_directory_of_skill(name, entry) for entry in value]
    told = re.compile(r"\(The files of this skill are in (/workspace/(?:.+/)?\.claude(/skills/[^/]+))\.\)$")
    base = re.compile(r"Base directory for this skill: (/workspace/(?:.+/)?\.claude(/skills/[^/]+))$")
    places = {found[2]: found[1] for line in value for found in (told.match(str(line)), base.match(str(line))) if found}
    lines = [line for line in value if line != "" and not told.match(str(line))]
    for skill, place in places.items():
        both = f"Base directory for this skill: /claude{skill}, and {place}"
        lines = [
            both if line in (both.partition(",")[0], f"Base directory for this skill: {place}") else line
            for line in lines
        ]
    return lines


def _without_news_of_skills(_name: str, value: Any) -> Any:
    """Leave out that skills are new, and whose they are."""
    if isinstance(value, dict) and value.get("subtype") == "commands_changed":
        return replaced(r" \((project|user)\)$", "")(_name, value)
    if not isinstance(value, list) or not any(
        str(line).startswith("The following skills are available") for line in value
    ):
        return value
    return [line for line in value if line and not re.match(r"New skills discovered in|- \w+$", str(line))]


def _by_name(name: str, value: Any) -> Any:
    """Sort the names of skills."""
    if name.startswith("init: ") or not isinstance(value, list):
        return sorted(value)
    start = next(
        (at for at, line in enumerate(value) if str(line).startswith("The following skills are available")), None
    )
    return value if start is None else [*value[:start], *sorted(value[start:], key=str)]


def one_empty_line_less(_name: str, value: Any) -> Any:
    """Leave out an empty line after a line of one word."""
    if not isinstance(value, list):
        return value
    after = [None, *value]
    return [
        entry
        for before, entry in zip(after, value, strict=False)
        if entry != "" or not (isinstance(before, str) and re.fullmatch(r"[\w:.-]+", before))
    ]


def _without_directories(name: str, value: Any) -> Any:
    """Leave out the list of directories, which names the user's alone. The system prompt names all of them."""
    return None if name == "init: additional_directories" else value


def _decided_by_user_settings(name: str, value: Any) -> Any:
    """Name the source of a decision as the CLI does for rules in a user's settings."""
    if isinstance(value, list):
        return [_decided_by_user_settings(name, entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if value.get("reason_type") == "rule" and value.get("source") == "config":
        return {**value, "source": "user_reject" if value.get("decision") == "reject" else "user_permanent"}
    return {key: _decided_by_user_settings(name, entry) for key, entry in value.items()}


def _unknown_flag(name: str, value: Any) -> Any:
    """Make one of the two refusals of an unknown flag. Another refusal of the bridge shows on stderr."""
    if name == "exit code":
        return 1 if value == 126 else value
    refused = [re.match(r"error: unknown option '(.*)'|bridge: (--\S+) is no flag that", line) for line in value]
    return [f"{found[1] or found[2]} is unknown" for found in refused[:1] if found] or value


_unreached = replaced(
    r'^(\S+)( \(\w+\))?: "(SSE error: )?'
    r'(ECONNREFUSED|ENOENT|Executable not found|Connection closed|Error POSTing|Non-200).*"$',
    r"\1: …",
)
"""Leaves out why an MCP server cannot be reached."""

OFFERED = ("Glob", "Grep", "TaskCreate", "TaskGet", "TaskList", "TaskUpdate")
ALL = r".*"
TOLD = r"request \d+: (system|message \d+ .*)"

DIFFERENCES = (
    Difference(
        "The CLI's own files are in `/claude`, not in `~/.claude`.",
        "The container's home is not the CLI's. Both see the same path, so what Claude is told can be read.",
        ALL,
        in_turn(
            replaced(re.escape(f"{HOME}/.claude"), "/claude"),
            replaced(r"(?<![\w/])/tmp/claude-(?=\d)", "/claude/tmp/claude-"),
        ),
    ),
    Difference(
        "The list of files that a Bash command has changed (`bashEditDiff`) is marked as unavailable.",
        "The CLI makes it with a git directory of its own, in which it writes. Only questions to git are passed on.",
        r"message \d+",
        lambda _, value: _without_list(value),
    ),
    Difference(
        f"These tools are not offered: {', '.join(WITHHELD)}. Nor is the command `/list-agents`.",
        "They act outside of the call: they start programs beside the CLI, reach other sessions, or outlive the call.",
        r"init: (tools|slash_commands|messaging_socket_path)|(request \d+: )?(message|tool) .*|stdout",
        in_turn(
            lambda name, value: None if name == "init: messaging_socket_path" else value,
            without_tools(*WITHHELD),
            removed("list-agents"),
            lambda _, value: _without_command("list-agents", value),
            _unmentioned,
        ),
        _unmentioned,
    ),
    Difference(
        f"These tools are always offered: {', '.join(OFFERED)}.",
        "The bridge names the tools one by one, so that no tool of a newer CLI is offered unseen. Some versions of the "
        "CLI leave these out by themselves.",
        r"init: tools|request \d+: ((message|tool) .*|system)",
        in_turn(without_tools(*OFFERED), _searched),
        in_turn(without_tools(*OFFERED), _searched),
    ),
    Difference(
        "The system prompt has one more paragraph, about the container. Subagents do not get it.",
        "Claude has to know which of its tools see which files.",
        r"request \d+: system",
        _introduced,
        in_turn(_untold, _introduced),
    ),
    Difference(
        "What CLAUDE.md files and rules say stands below one more heading, `Contents of /claude/CLAUDE.md`.",
        "The CLI may not follow the links of the workspace. The container reads these files; the CLI gets one file.",
        r"request \d+: message .*",
        _below_one_heading,
    ),
    Difference(
        "CLAUDE.md files and rules that are told when Claude reads a file are named `/claude/rules/workspace/...`.",
        "For the same reason. The CLI gets each as a rule with `paths`; their order is that of the CLI's directory.",
        r"request \d+: message .*",
        _in_rules,
        _in_rules,
    ),
    Difference(
        "The AGENTS.md of a package is told with the result of the tool that read there, not in a message after it.",
        "The CLI's plugin for AGENTS.md may not follow the links of the workspace, so it counts as a rule as well.",
        r"request \d+: message .*",
        _without_nested_agents,
        _without_nested_agents,
    ),
    Difference(
        "CLAUDE.md files below `node_modules`, `venv`, `.venv` and `__pycache__` are not told.",
        "The container sends the files of all directories with each call. Dependencies have too many directories.",
        r"request \d+: message .*",
        _without_dependencies,
    ),
    Difference(
        "Files beyond a limit are left out, and a line on stderr names them and the limit.",
        "The host has to bound what a container can make it read and keep.",
        r"init: (skills|slash_commands)|request \d+: message .*|stderr",
        _without_large,
        dropped(r"bridge: \.claude/commands/huge\.md is left out: a file may have 131072 bytes$"),
    ),
    Difference(
        "A skill's text has one more line, which names its directory in the workspace.",
        "The CLI says `Base directory for this skill: /claude/skills/NAME`, which the container does not have.",
        r"(request \d+: )?message .*",
        _with_directory_of_skill,
        _with_directory_of_skill,
    ),
    Difference(
        "Skills of a package are offered once Claude reads a file there, but are not called new, and are the user's.",
        "The CLI gets them as skills with `paths`.",
        r"message .*|request \d+: message \d+ \(system\)",
        _without_news_of_skills,
        _without_news_of_skills,
    ),
    Difference(
        "Skills of a folder above the call's are listed by name among the others, not after them.",
        "The CLI gets all skills in one folder.",
        r"init: (skills|slash_commands)|request \d+: message \d+ \(system\)",
        _by_name,
        _by_name,
    ),
    Difference(
        "The built-in plugin `sec-default` is on.",
        "The CLI turns it on where there are managed settings. The bridge has some, as a second layer of safety.",
        r"init: plugins",
        undo=lambda _, value: [plugin for plugin in value if plugin["name"] != "cc-plugin-sec-default"],
    ),
    Difference(
        "Commands have one more variable, `CLAUDE_BRIDGE_CALL`.",
        "By it, the bridge knows a call that comes from a command of another call. Both share a place.",
        r"message \d+|request \d+: message .*",
        undo=replaced(r"(?m)^CLAUDE_BRIDGE_CALL(=[0-9a-f]{32})?\n", ""),
    ),
    Difference(
        "Rules and directories of the project's settings count as the user's.",
        "The CLI gets the project's settings, filtered, as the only ones of its user.",
        r"message \d+|init: additional_directories",
        in_turn(_without_directories, _decided_by_user_settings),
        _without_directories,
    ),
    Difference(
        "A flag that the bridge does not know is refused with the bridge's own sentence, and code 126.",
        "A newer CLI can have flags that act on the host. The operator can allow them by name.",
        r"stderr|exit code",
        _unknown_flag,
        _unknown_flag,
    ),
    Difference(
        "A file of `--settings` that is not there is named by its whole path.",
        "The client's files are read in the container, so the sentence is the bridge's: that of the newer CLI.",
        r"stderr",
        replaced(r"^Error: Settings file not found: (?!/)", "Error: Settings file not found: /workspace/"),
    ),
    Difference(
        "A prompt of one word ends with a line feed.",
        "The word could be a command of the CLI's next version, and then it would be run instead of being asked.",
        r"request \d+: message \d+ \(user\)",
        one_empty_line_less,
        one_empty_line_less,
    ),
    Difference(
        "The project's MCP servers have the source `dynamic`, not `project`.",
        "The bridge names them on the CLI's command line. If the CLI read `.mcp.json` itself, it would replace "
        "variables with those of the host.",
        r"init: mcp_servers",
        lambda _, value: [entry | ({"source": "dynamic"} if "source" in entry else {}) for entry in value],
    ),
    Difference(
        "The reason why an MCP server cannot be reached is given in other words.",
        "A server that is a program starts in the container. A server on the network is reached through the proxy, "
        "which refuses addresses that are not public.",
        r"request \d+: message \d+ \(system\)",
        _unreached,
        _unreached,
    ),
)


@dataclasses.dataclass(frozen=True)
class Refusal:
    """One row: calls that the bridge refuses with a sentence and code 126, and why. `words` is a pattern for theirs."""

    what: str
    why: str
    words: str


REFUSED = 126

REFUSALS = (
    Refusal(
        "Subcommands are refused, such as `mcp`, `plugin`, `doctor`, `auth`, `update`.",
        "They manage the host's Claude Code: its account, its settings, its programs.",
        r"(mcp|plugin|doctor|auth|update)( .*)?",
    ),
    Refusal(
        "`--plugin-dir` is refused, and so are plugins of an SDK.",
        "The CLI would start a plugin's hooks and servers itself. What a plugin adds can be in `.claude` instead.",
        r".*--plugin-dir.*",
    ),
    Refusal(
        "In `--settings`, what names programs of the host is refused, such as `apiKeyHelper` and `enabledPlugins`.",
        "The caller would get another account or other tools than asked for. In a project's files they are left out.",
        r".*--settings.*(apiKeyHelper|enabledPlugins).*",
    ),
)


def expected(words: tuple[str, ...], plain: Facts) -> tuple[Facts, set[str]]:
    """Return the facts that the bridge has to show, from those of the plain CLI, and the rows that this needs."""
    if refused := _refused(words):
        assert plain["exit code"] != REFUSED
        return {"exit code": REFUSED, "is told why": True}, refused
    return _rewritten(plain, [(row, row.rewrite) for row in DIFFERENCES])


def shown(words: tuple[str, ...], bridged: Facts) -> tuple[Facts, set[str]]:
    """Return the facts that the bridge shows, without what it has in addition, and the rows that this needs."""
    if refused := _refused(words):
        is_told = any(line.startswith("bridge: ") for line in bridged["stderr"])
        return {"exit code": bridged["exit code"], "is told why": is_told}, refused
    return _rewritten(bridged, [(row, row.undo) for row in DIFFERENCES])


def _refused(words: tuple[str, ...]) -> set[str]:
    return {row.what for row in REFUSALS if re.fullmatch(row.words, " ".join(words))}


def _rewritten(facts: Facts, rewrites: list[tuple[Difference, Rewrite | None]]) -> tuple[Facts, set[str]]:
    side, seen = dict(facts), set[str]()
    for row, rewrite in rewrites:
        for name in [name for name in side if rewrite and side[name] is not None and re.fullmatch(row.facts, name)]:
            assert rewrite
            new = rewrite(name, side[name])
            if new != side[name]:
                seen.add(row.what)
                side[name] = new
    return {name: value for name, value in side.items() if value is not None}, seen


NOT_COMPARED = (
    ("An agent with `isolation: worktree`, or the Agent tool with it, fails with a sentence.",
     "The CLI makes a worktree with git, and only questions to git are passed on."),
    ("MCP servers in the head of an agent's file are not started; those of `--agents` and of an SDK are.",
     "The CLI gets `--strict-mcp-config`, which shuts them out."),
    ("Hooks of other types than `command` and `prompt` are left out, such as `agent`.",
     "They would act with the host's account or from the host's network, not in the container."),
    ("A file outside of the workspace that a prompt names with `@` is not read.",
     "Only the container has it. Claude can read it with a command."),
    ("`claude config` is refused with every version; newer ones take it for a prompt.",
     "It is a subcommand of older ones."),
    ("`--permission-prompt-tool` of an unknown tool and `--add-dir` of a directory outside are refused.",
     "The call would have less than it asked for."),
    ("Of wrong use, some sentences are the bridge's own: a missing argument's name, broken JSON of `--agents`, a line "
     "on stdin that is no JSON.",
     "The bridge reads these before the CLI does. The exit codes are those of the CLI or 126."),
    ("Hooks get `transcript_path` in `/tmp/claude-code-...`.",
     "It is a copy in the container, which is kept up to date while the hook runs."),
)  # fmt: skip
"""What is different and why, where both sides have too little in common to compare the rest."""

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "differences.md"

HEAD = """# Differences from plain Claude Code

`nox -s fidelity_tests` runs the same Claude Code in the same project twice: plain on a host, and over the bridge. It
compares what the model is told, what the session reports, the output and the exit code. What is different is in this
table, which is made from `tests/fidelity/differences.py` by `python -m tests.fidelity.differences`. Anything else is a
fault: please report it. What the plain one does is recorded for each version, and run again every week.

| what is different | why |
| --- | --- |
"""


NEXT = """
These are not compared, because the two sides have too little in common then:

| what is different | why |
| --- | --- |
"""


def document() -> str:
    """Return the text of the document for people."""
    compared = [(row.what, row.why) for row in (*DIFFERENCES, *REFUSALS)]
    first, second = ("".join(f"| {what} | {why} |\n" for what, why in rows) for rows in (compared, NOT_COMPARED))
    return f"{HEAD}{first}{NEXT}{second}"


if __name__ == "__main__":
    DOCUMENT.write_text(document())
