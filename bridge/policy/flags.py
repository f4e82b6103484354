"""The flags of the host's CLI: those that a container may use, and why the others are closed.

A row says how many values a flag takes in the CLI's own parser. With a wrong count, a prompt would be taken for a
value, or a value for a prompt. `check` gets the values and returns those that are passed on, or raises PolicyError.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from bridge.policy.caller import Caller, agents_of, prompt_of, servers_of, settings_of
from bridge.policy.mcp_servers import MAX_SERVERS, servers, written
from bridge.policy.project_policy import (
    MODES,
    hooks_of,
    isolation_of_agent,
    refusal,
    servers_of_agent,
    settings,
)
from bridge.policy.terms import CliError, PolicyError, Scope

NONE, ONE, OPTIONAL, MANY = "none", "one", "optional", "many"
UNKNOWN = "unknown"
"""Number of values of a flag that only the operator knows: a value is written as `--flag=value`."""

Check = Callable[[list[str], Scope, Caller], list[str]]


def anything(values: list[str], scope: Scope, caller: Caller) -> list[str]:
    """Accept text for the model, and values that the CLI checks itself."""
    return values


def nothing(values: list[str], scope: Scope, caller: Caller) -> list[str]:
    """Drop the client's values, for flags that the bridge sets itself."""
    return []


def matching(pattern: str) -> Check:
    """Return a check that accepts values which match the whole pattern."""
    compiled = re.compile(pattern)

    def check(values: list[str], scope: Scope, caller: Caller) -> list[str]:
        for value in values:
            if not compiled.fullmatch(value):
                raise PolicyError("the value {} is not one that the bridge passes on", value)
        return values

    return check


def choice(option: str, *choices: str) -> Check:
    """Return a check that accepts these values. For others it says what the CLI says; `option` is as in its help."""

    def check(values: list[str], scope: Scope, caller: Caller) -> list[str]:
        for value in values:
            if value not in choices:
                known = ", ".join(choices)
                raise CliError(f"error: option '{option}' argument '{value}' is invalid. Allowed choices are {known}.")
        return values

    return check


def sources(values: list[str], scope: Scope, caller: Caller) -> list[str]:
    """Drop the sources of settings, which the bridge sets itself, after a look at their names."""
    for name in (name.strip() for value in values for name in value.split(",")):
        if name not in ("", "user", "project", "local"):
            known = "Valid options are: user, project, local"
            raise CliError(f"Error processing --setting-sources: Invalid setting source: {name}. {known}")
    return []


def offered_tools(values: list[str], scope: Scope, caller: Caller) -> list[str]:
    """Return those of the client's built-in tools that are on offer; an empty value if there are none."""
    names, offered = [rule for value in values for rule in rules_of(value)], scope.tools
    if "default" in names:
        return [",".join(offered)]
    return [",".join(name for name in names if name in offered)]


def tool_rules(values: list[str], scope: Scope, caller: Caller) -> list[str]:
    """Return the permission rules, without rules for tools that are not on offer, because those would be misleading.
    A value without such rules is passed on as it is, and the CLI splits it."""
    denied = frozenset(scope.denied_tools)
    kept = []
    for value in values:
        rules = rules_of(value)
        allowed = [rule for rule in rules if rule.partition("(")[0] not in denied]
        kept += [value] if rules == allowed else allowed
    return kept


def shared_directory(values: list[str], scope: Scope, caller: Caller) -> list[str]:
    """Accept directories that exist in the namespace."""
    for value in values:
        if not scope.contains(caller.path(value)):
            raise PolicyError("{} is not shared with the host; only /workspace and the grant's shares are", value)
    return values


def harmless_servers(values: list[str], scope: Scope, caller: Caller) -> list[str]:
    """Accept MCP servers in the client's own process, in its container or on the network. They are written again."""
    found = servers(servers_of(values, caller), scope)
    return [written({"mcpServers": found})] if found else []


def text_of(kind: str) -> Check:
    """Return a check that replaces the names of files with their texts. `kind` is the CLI's word for the text."""

    def check(values: list[str], scope: Scope, caller: Caller) -> list[str]:
        return [prompt_of(value, kind, caller) for value in values if value]

    return check


def with_commands(values: list[str], scope: Scope, caller: Caller) -> list[str]:
    """Accept flags that let the model run commands without asking, if commands run in the container. There they do
    no harm to the host."""
    if not scope.runs_commands:
        raise PolicyError("it lets the model do anything without being asked")
    return values


def permission_mode(values: list[str], scope: Scope, caller: Caller) -> list[str]:
    """Accept the modes in which everything that the model does without asking is safe for the host."""
    if not set(values) <= MODES:
        with_commands(values, scope, caller)  # no mode allows more than bypassPermissions does
    return WORD(values, scope, caller)


def harmless_agents(values: list[str], scope: Scope, caller: Caller) -> list[str]:
    """Accept agents whose hooks and servers run in the container, and whose permissions do no harm to the host."""
    found = [agents_of(value, caller) for value in values if value]
    return [written(agents(one, scope, caller.variables)) for one in found]


def harmless_settings(values: list[str], scope: Scope, caller: Caller) -> list[str]:
    """Accept settings that affect only the conversation and what runs in the container."""

    def complain(what: str, why: str, matters: bool) -> None:
        if matters:
            raise refusal(what, why)
        caller.notes.append(f"--settings: {what} is left out: {why}")

    found = [settings(settings_of(value, caller), scope, complain, caller.cwd) for value in values if value]
    for one in found:
        caller.env = one.pop("env", {})
    return [written(one) for one in found if one]


AGENT_FIELDS = frozenset({
    "autoCompactWindow", "background", "color", "criticalSystemReminder_EXPERIMENTAL", "description",
    "disallowedTools", "effort", "initialPrompt", "maxTurns", "memory", "model", "observer", "observerMessage",
    "omitClaudeMd", "prompt", "skills", "tools",
})  # fmt: skip


def agents(definitions: object, scope: Scope, variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the agents. Fields that the CLI does not know are left out. `variables` are for their MCP servers. Raises
    PolicyError if one has a field that could act on the host."""
    if not isinstance(definitions, dict) or not all(isinstance(a, dict) for a in definitions.values()):
        raise PolicyError("agents are given as an object of objects")
    left = [MAX_SERVERS]
    return {name: _agent(name, agent, scope, variables, left) for name, agent in definitions.items()}


def _agent(
    name: str, agent: dict[str, Any], scope: Scope, variables: Mapping[str, str] | None, left: list[int]
) -> dict[str, Any]:
    def complain(what: str, why: str, matters: bool) -> None:
        raise PolicyError("the agent {} has {}: " + why.replace("{", "{{").replace("}", "}}"), name, what)

    kept = {field: value for field, value in agent.items() if field in AGENT_FIELDS}
    mode, hooks, servers_ = agent.get("permissionMode"), agent.get("hooks"), agent.get("mcpServers")
    if isinstance(mode, str) and (mode in MODES or scope.runs_commands):
        kept["permissionMode"] = mode  # no mode allows more than bypassPermissions does
    elif mode is not None:
        complain("permissionMode", "it lets the model do anything without being asked", True)
    if hooks and not scope.runs_commands:
        complain("hooks", "they would run on the host", True)
    if isinstance(hooks, dict):
        kept["hooks"] = hooks_of(hooks, complain)
    if agent.get("isolation"):
        kept["isolation"] = isolation_of_agent(agent["isolation"], complain)
    if isinstance(servers_, list):
        kept["mcpServers"] = servers_of_agent(servers_, scope, variables, left)
    return kept


def rules_of(value: str) -> list[str]:
    """Return the rules in a list, split as the CLI splits it: at commas and blanks outside of parentheses. A closing
    parenthesis ends all that are open."""
    found, word, is_inside = [], "", False
    for char in value:
        if char in ", " and not is_inside:
            found.append(word)
            word = ""
        else:
            is_inside = char == "(" or (is_inside and char != ")")
            word += char
    return [rule for word in [*found, word] if (rule := word.strip())]


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag that a container may use."""

    names: tuple[str, ...]
    values: str
    check: Check = anything
    is_file: bool = False
    """Whether a value can be the name of a file, which the client reads in the container."""


WORD = matching(r"[\w.:\[\]/@ -]{0,128}")
NUMBER = matching(r"[\w.+-]{0,32}")
"""Also what is no number: the CLI says so in its own words."""
SWITCHES = ("true", "false", "1", "0", "yes", "no", "on", "off")
ID = matching(r"[\w-]{0,64}")

FLAGS = (
    Flag(("-p", "--print"), NONE),
    Flag(("--output-format",), ONE, choice("--output-format <format>", "text", "json", "stream-json")),
    Flag(("--input-format",), ONE, choice("--input-format <format>", "text", "stream-json")),
    Flag(("--verbose",), NONE),
    Flag(("--include-partial-messages",), NONE),
    Flag(("--include-hook-events",), NONE),
    Flag(("--forward-subagent-text",), NONE),
    Flag(("--replay-user-messages",), NONE),
    Flag(("--session-mirror",), NONE),
    Flag(("--prompt-suggestions",), OPTIONAL, choice("--prompt-suggestions [value]", *SWITCHES)),
    Flag(("--json-schema",), ONE),
    Flag(("--model",), ONE, WORD),
    Flag(("--fallback-model",), ONE, matching(r"[\w.:\[\]/@, -]{0,256}")),
    Flag(("--effort",), ONE, WORD),
    Flag(("--thinking",), ONE, WORD),
    Flag(("--thinking-display",), ONE, WORD),
    Flag(("--max-thinking-tokens",), ONE, NUMBER),
    Flag(("--max-turns",), ONE, NUMBER),
    Flag(("--max-budget-usd",), ONE, NUMBER),
    Flag(("--task-budget",), ONE, NUMBER),
    Flag(("--autocompact",), ONE, WORD),
    Flag(("--betas",), MANY, matching(r"[\w., -]{0,256}")),
    Flag(("--system-prompt",), ONE),
    Flag(("--append-system-prompt",), ONE),
    Flag(("--system-prompt-file",), ONE, text_of("System prompt"), is_file=True),
    Flag(("--append-system-prompt-file",), ONE, text_of("Append system prompt"), is_file=True),
    Flag(("--system-prompt-snapshot",), ONE, choice("--system-prompt-snapshot <on|off>", "on", "off")),
    Flag(("--exclude-dynamic-system-prompt-sections",), NONE),
    Flag(("--agent",), ONE, WORD),
    Flag(("--agents",), ONE, harmless_agents, is_file=True),
    Flag(("-n", "--name"), ONE),
    Flag(("-c", "--continue"), NONE),
    Flag(("-r", "--resume"), OPTIONAL),
    Flag(("--resume-session-at",), ONE, ID),
    Flag(("--session-id",), ONE, ID),
    Flag(("--fork-session",), NONE),
    Flag(("--no-session-persistence",), NONE),
    Flag(("--permission-mode",), ONE, permission_mode),
    Flag(("--dangerously-skip-permissions",), NONE, with_commands),
    Flag(("--allow-dangerously-skip-permissions",), NONE, with_commands),
    Flag(("--permission-prompt-tool",), ONE, matching(r"stdio|mcp__[\w-]{1,120}")),
    Flag(("--permission-prompts",), ONE, choice("--permission-prompts <target>", "host", "none")),
    Flag(("--tools",), MANY, offered_tools),
    Flag(("--allowedTools", "--allowed-tools"), MANY, tool_rules),
    Flag(("--disallowedTools", "--disallowed-tools"), MANY),
    Flag(("--add-dir",), MANY, shared_directory),
    Flag(("--mcp-config",), MANY, harmless_servers, is_file=True),
    Flag(("--settings",), ONE, harmless_settings, is_file=True),
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
    Flag(("--setting-sources",), ONE, sources),
    Flag(("--disable-slash-commands",), NONE),
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
    "--worktree": (OPTIONAL, "it runs git on the host; make the worktree in the container"),
    "-w": (OPTIONAL, "it runs git on the host; make the worktree in the container"),
    "--tmux": (NONE, "it starts programs on the host"),
    "--bg": (NONE, "it would leave a daemon on the host"),
    "--background": (NONE, "it would leave a daemon on the host"),
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

LEFT_OUT = {
    "--debug": (OPTIONAL, "the debug log tells about the host"),
    "-d": (OPTIONAL, "the debug log tells about the host"),
    "--debug-to-stderr": (NONE, "the debug log tells about the host"),
    "--debug-file": (ONE, "the debug log tells about the host"),
    "--ide": (NONE, "the host's Claude Code sees no editor of the container"),
}
"""Flags that cannot take effect here, and whose absence does not change what a program gets. They are left out with
a note. The operator can allow them by name."""

# Words that the CLI takes for its own commands if they come first. They are not accepted as prompts.
SUBCOMMANDS = frozenset({
    "agents", "attach", "auth", "auto-mode", "config", "daemon", "design-login", "doctor", "edit-chrome-settings",
    "edit-hook", "edit-memory-settings", "edit-permission-rules", "edit-sandbox-settings", "edit-skill-overrides",
    "gateway", "import", "import-conversations", "install", "kill", "login", "logout", "logs", "mcp",
    "migrate-installer", "open", "plugin", "plugins", "project", "purge", "remote-control", "respawn", "rm", "sandbox",
    "server", "setup-token", "ssh", "stop", "ultrareview", "update", "upgrade", "workspace-trust", "worktree-hook",
})  # fmt: skip
