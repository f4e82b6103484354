"""The flags of the host's CLI: those that a container may use, and why the others are closed.

A row says how many values a flag takes in the CLI's own parser. With a wrong count, a prompt would be taken for a
value, or a value for a prompt. `check` gets the values and returns those that are passed on, or raises PolicyError.
"""

from __future__ import annotations

import dataclasses
import json
import posixpath
import re
from collections.abc import Callable
from typing import Any

from bridge.policy.mcp_servers import servers, written
from bridge.policy.project_policy import MODES_WITH_COMMANDS, settings
from bridge.policy.terms import PolicyError, Scope

NONE, ONE, OPTIONAL, MANY = "none", "one", "optional", "many"
ATTACHED = "attached"
"""A value that is written as --flag=value, or none. This is for flags of which nothing is known."""

Check = Callable[[list[str], Scope, str], list[str]]


def anything(values: list[str], scope: Scope, cwd: str) -> list[str]:
    """Accept text for the model, and values that the CLI checks itself."""
    return values


def nothing(values: list[str], scope: Scope, cwd: str) -> list[str]:
    """Drop the client's values, for flags that the bridge sets itself."""
    return []


def matching(pattern: str) -> Check:
    """Return a check that accepts values which match the whole pattern."""
    compiled = re.compile(pattern)

    def check(values: list[str], scope: Scope, cwd: str) -> list[str]:
        for value in values:
            if not compiled.fullmatch(value):
                raise PolicyError("the value {} is not one that the bridge passes on", value)
        return values

    return check


def offered_tools(values: list[str], scope: Scope, cwd: str) -> list[str]:
    """Return those of the client's built-in tools that are on offer; an empty value if there are none."""
    names, offered = _names(values), scope.tools
    if "default" in names:
        return [",".join(offered)]
    return [",".join(name for name in names if name in offered)]


def tool_rules(values: list[str], scope: Scope, cwd: str) -> list[str]:
    """Return the permission rules, without rules for tools that are not on offer, because those would be misleading."""
    denied = frozenset(scope.denied_tools)
    return [rule for rule in _names(values) if rule.partition("(")[0] not in denied]


def shared_directory(values: list[str], scope: Scope, cwd: str) -> list[str]:
    """Accept directories that exist in the namespace."""
    for value in values:
        if not scope.contains(posixpath.join(cwd, value)):
            raise PolicyError("{} is not shared with the host; only /workspace and the grant's shares are", value)
    return values


def harmless_servers(values: list[str], scope: Scope, cwd: str) -> list[str]:
    """Accept MCP servers in the client's own process, in its container or on the network. They are written again."""
    found: dict[str, Any] = {}
    for value in values:
        found |= servers(parse_object(value).get("mcpServers"), scope)
    return [written({"mcpServers": found})] if found else []


def with_commands(values: list[str], scope: Scope, cwd: str) -> list[str]:
    """Accept flags that let the model run commands without asking, if commands run in the container. There they do
    no harm to the host."""
    if not scope.runs_commands:
        raise PolicyError("it lets the model do anything without being asked")
    return values


def permission_mode(values: list[str], scope: Scope, cwd: str) -> list[str]:
    """Accept the modes in which everything that the model does without asking is safe for the host."""
    if not set(values) <= MODES_WITH_COMMANDS:
        raise PolicyError("the value {} is no permission mode", values[0])
    if {"bypassPermissions", "auto"} & set(values):
        return with_commands(values, scope, cwd)
    return values


def harmless_agents(values: list[str], scope: Scope, cwd: str) -> list[str]:
    """Accept agents that define no hooks, servers or permissions."""
    return [written(agents(parse_object(value))) for value in values]


def harmless_settings(values: list[str], scope: Scope, cwd: str) -> list[str]:
    """Accept settings that affect only the conversation and what runs in the container."""

    def complain(what: str, why: str) -> None:
        raise PolicyError("the setting {}: {}", what, why)

    found = [settings(parse_object(value), scope, complain) for value in values if value]
    return [written(one) for one in found if one]


def parse_object(text: str) -> dict[str, Any]:
    """Return the JSON object in a value. Raises PolicyError for anything else, also for a file's name: the CLI
    would read the file on the host."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise PolicyError("over the bridge this is a JSON object, not the name of a file")
    return value


AGENT_FIELDS = frozenset({
    "background", "color", "criticalSystemReminder_EXPERIMENTAL", "description", "disallowedTools", "effort",
    "initialPrompt", "maxTurns", "model", "observer", "prompt", "skills", "tools",
})  # fmt: skip


def agents(definitions: object) -> dict[str, Any]:
    """Return the agents. Raises PolicyError if one has a field that could do more than affect the conversation."""
    if not isinstance(definitions, dict) or not all(isinstance(a, dict) for a in definitions.values()):
        raise PolicyError("agents are given as an object of objects")
    for name, agent in definitions.items():
        for field in sorted(set(agent) - AGENT_FIELDS):
            if agent[field]:
                raise PolicyError("the agent {} has {}, which could run commands on the host", name, field)
    return {
        name: {field: value for field, value in agent.items() if field in AGENT_FIELDS}
        for name, agent in definitions.items()
    }


def _names(values: list[str]) -> list[str]:
    """Return the names in a list that is separated by commas or blanks outside of parentheses."""
    found = []
    for value in values:
        at, last = 0, value.rfind(")")
        while word := _WORD.search(value, at):
            at = word.end()
            if at < last and value[at] == "(":
                at = value.find(")", at) + 1
            found.append(value[word.start() : at])
    return found


_WORD = re.compile(r"[^\s,(]+")


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag that a container may use."""

    names: tuple[str, ...]
    values: str
    check: Check = anything


WORD = matching(r"[\w.:\[\]/@-]{1,128}")
NUMBER = matching(r"\d{1,9}(\.\d{1,9})?")
UUID = matching(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

FLAGS = (
    Flag(("-p", "--print"), NONE),
    Flag(("--output-format",), ONE, matching("text|json|stream-json")),
    Flag(("--input-format",), ONE, matching("text|stream-json")),
    Flag(("--verbose",), NONE),
    Flag(("--include-partial-messages",), NONE),
    Flag(("--include-hook-events",), NONE),
    Flag(("--forward-subagent-text",), NONE),
    Flag(("--replay-user-messages",), NONE),
    Flag(("--session-mirror",), NONE),
    Flag(("--prompt-suggestions",), OPTIONAL, matching("true|false|1|0|yes|no|on|off")),
    Flag(("--json-schema",), ONE),
    Flag(("--model",), ONE, WORD),
    Flag(("--fallback-model",), ONE, matching(r"[\w.:\[\]/@,-]{1,256}")),
    Flag(("--effort",), ONE, WORD),
    Flag(("--thinking",), ONE, WORD),
    Flag(("--thinking-display",), ONE, WORD),
    Flag(("--max-thinking-tokens",), ONE, NUMBER),
    Flag(("--max-turns",), ONE, NUMBER),
    Flag(("--max-budget-usd",), ONE, NUMBER),
    Flag(("--task-budget",), ONE, NUMBER),
    Flag(("--autocompact",), ONE, WORD),
    Flag(("--betas",), MANY, matching(r"[\w.,-]{1,256}")),
    Flag(("--system-prompt",), ONE),
    Flag(("--append-system-prompt",), ONE),
    Flag(("--system-prompt-snapshot",), ONE, matching("on|off")),
    Flag(("--exclude-dynamic-system-prompt-sections",), NONE),
    Flag(("--agent",), ONE, WORD),
    Flag(("--agents",), ONE, harmless_agents),
    Flag(("-n", "--name"), ONE),
    Flag(("-c", "--continue"), NONE),
    Flag(("-r", "--resume"), OPTIONAL),
    Flag(("--resume-session-at",), ONE, UUID),
    Flag(("--session-id",), ONE, UUID),
    Flag(("--fork-session",), NONE),
    Flag(("--no-session-persistence",), NONE),
    Flag(("--permission-mode",), ONE, permission_mode),
    Flag(("--dangerously-skip-permissions",), NONE, with_commands),
    Flag(("--allow-dangerously-skip-permissions",), NONE, with_commands),
    Flag(("--permission-prompt-tool",), ONE, matching(r"stdio|mcp__[\w-]{1,120}")),
    Flag(("--permission-prompts",), ONE, matching("host|none")),
    Flag(("--tools",), MANY, offered_tools),
    Flag(("--allowedTools", "--allowed-tools"), MANY, tool_rules),
    Flag(("--disallowedTools", "--disallowed-tools"), MANY),
    Flag(("--add-dir",), MANY, shared_directory),
    Flag(("--mcp-config",), MANY, harmless_servers),
    Flag(("--settings",), ONE, harmless_settings),
    Flag(("--bare",), NONE),
    Flag(("--safe-mode",), NONE),
    Flag(("--restricted",), NONE),
    Flag(("--brief",), NONE),
    Flag(("--ax-screen-reader",), NONE),
    Flag(("--advisor",), ONE, WORD),
    Flag(("--fast-mode",), ONE, matching("on|off")),
    Flag(("--include-unsupported-models",), NONE),
    Flag(("--inherit-permission-mode",), ONE, permission_mode),
    Flag(("--plan-mode-instructions",), ONE),
    Flag(("--append-subagent-system-prompt",), ONE),
    Flag(("--prefill",), ONE),
    Flag(("--no-chrome",), NONE, nothing),
    Flag(("--strict-mcp-config",), NONE, nothing),
    Flag(("--setting-sources",), ONE, nothing),
    Flag(("--disable-slash-commands",), NONE, nothing),
)

BY_NAME = {name: flag for flag in FLAGS for name in flag.names}

HOSTS = "it hands the session to others"
ACCOUNT = "it acts with the host's account elsewhere"
LINK = "it belongs to links that start Claude Code on the host"
TEAM = "it joins other sessions of the host"
SETTINGS = "the host's settings are the operator's"
LOGIN = "the host's login is the operator's"
RARE = "no program in a container has needed it yet; the host's operator can allow it by name"

# Closed flags: the number of values, in case the operator allows the flag by its name, and the reason for the
# person who asked.
CLOSED = {
    "--plugin-dir": (ONE, "a plugin brings code that would run on the host"),
    "--plugin-dir-no-mcp": (ONE, "a plugin brings code that would run on the host"),
    "--plugin-url": (ONE, "a plugin brings code that would run on the host"),
    "--system-prompt-file": (ONE, "it reads a file of the host; use --system-prompt"),
    "--append-system-prompt-file": (ONE, "it reads a file of the host; use --append-system-prompt"),
    "--debug": (OPTIONAL, "it tells about the host"),
    "-d": (OPTIONAL, "it tells about the host"),
    "--debug-to-stderr": (NONE, "it tells about the host"),
    "--debug-file": (ONE, "it writes to a file of the host"),
    "--worktree": (OPTIONAL, "it runs git on the host; make the worktree in the container"),
    "-w": (OPTIONAL, "it runs git on the host; make the worktree in the container"),
    "--tmux": (NONE, "it starts programs on the host"),
    "--bg": (NONE, "it would leave a daemon on the host"),
    "--background": (NONE, "it would leave a daemon on the host"),
    "--ide": (NONE, "it connects to programs of the host"),
    "--chrome": (NONE, "it connects to programs of the host"),
    "--desktop": (NONE, "it starts programs on the host"),
    "--cloud": (OPTIONAL, ACCOUNT),
    "--teleport": (OPTIONAL, ACCOUNT),
    "--environment": (ONE, ACCOUNT),
    "--remote-control": (OPTIONAL, HOSTS),
    "--sdk-url": (ONE, HOSTS),
    "--from-pr": (OPTIONAL, ACCOUNT),
    "--file": (MANY, ACCOUNT),
    "--managed-settings": (ONE, SETTINGS),
    "--managed-settings-in-initialize": (NONE, SETTINGS),
    "--await-initialize": (
        NONE,
        "settings and plugins that come later would change the host's; leave them out",
    ),
    "--initialize-fields": (
        ONE,
        "settings and plugins that come later would change the host's; leave them out",
    ),
    "--init": (NONE, "it runs set-up hooks; run the commands in the container"),
    "--init-only": (NONE, "it runs set-up hooks; run the commands in the container"),
    "--maintenance": (NONE, "it runs set-up hooks; run the commands in the container"),
    "--append-subagent-system-prompt-file": (ONE, "it reads a file of the host; use --append-subagent-system-prompt"),
    "--project-config-root": (ONE, "it reads files of the host"),
    "--enable-auth-status": (NONE, LOGIN),
    "--host-auth-is-org-sign-in": (NONE, LOGIN),
    "--allow-other-models": (NONE, SETTINGS),
    "--forward-home-settings": (ONE, SETTINGS),
    "--client-data-url": (ONE, "it reads from an address with the host's account"),
    "--workload": (ONE, ACCOUNT),
    "--watch-artifact": (ONE, ACCOUNT),
    "--watch-artifact-no-autoreact": (ONE, ACCOUNT),
    "--remote": (OPTIONAL, ACCOUNT),
    "--pool": (ONE, ACCOUNT),
    "--correlation-id": (ONE, ACCOUNT),
    "--metadata": (ONE, ACCOUNT),
    "--ref": (ONE, ACCOUNT),
    "--on-branch": (ONE, ACCOUNT),
    "--rc": (OPTIONAL, HOSTS),
    "--remote-control-session-name-prefix": (ONE, HOSTS),
    "--attach-serve": (ONE, HOSTS),
    "--await-claim": (NONE, HOSTS),
    "--runner-declares": (ONE, HOSTS),
    "--hold-repository-while-parked": (NONE, HOSTS),
    "--session-began-as-copy": (ONE, HOSTS),
    "--channels": (MANY, "other programs could write into the session"),
    "--dangerously-load-development-channels": (MANY, "other programs could write into the session"),
    "--messaging-socket-path": (ONE, TEAM),
    "--agents-view-if-allowed": (NONE, TEAM),
    "--agent-id": (ONE, TEAM),
    "--agent-name": (ONE, TEAM),
    "--agent-color": (ONE, TEAM),
    "--agent-type": (ONE, TEAM),
    "--team-name": (ONE, TEAM),
    "--teammate-mode": (ONE, TEAM),
    "--plan-mode-required": (NONE, TEAM),
    "--parent-session-id": (ONE, TEAM),
    "--lead-verify-key": (ONE, TEAM),
    "--deep-link-origin": (NONE, LINK),
    "--deep-link-repo": (ONE, LINK),
    "--deep-link-last-fetch": (ONE, LINK),
    "--deep-link-cwd-b64": (ONE, LINK),
    "--prefill-b64": (ONE, LINK),
    "--enable-auto-mode": (NONE, "use --permission-mode auto"),
    "--rewind-files": (ONE, "use the control request rewind_files"),
    "--reply-on-resume": (NONE, RARE),
    "--proactivity": (ONE, RARE),
    "--resume-drops-turn": (ONE, RARE),
    "--version": (NONE, "ask for it alone"),
    "-v": (NONE, "ask for it alone"),
    "--help": (NONE, "ask for it alone"),
    "-h": (NONE, "ask for it alone"),
}

# Words that the CLI takes for its own commands if they come first. They are not accepted as prompts.
SUBCOMMANDS = frozenset({
    "agents", "attach", "auth", "auto-mode", "config", "daemon", "design-login", "doctor", "edit-chrome-settings",
    "edit-hook", "edit-memory-settings", "edit-permission-rules", "edit-sandbox-settings", "edit-skill-overrides",
    "gateway", "import", "import-conversations", "install", "kill", "login", "logout", "logs", "mcp",
    "migrate-installer", "open", "plugin", "plugins", "project", "purge", "remote-control", "respawn", "rm", "sandbox",
    "server", "setup-token", "ssh", "stop", "ultrareview", "update", "upgrade", "workspace-trust", "worktree-hook",
})  # fmt: skip
