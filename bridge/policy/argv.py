"""Parses arguments as the CLI's own parser does, checks them against the table of flags, and writes new arguments."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable

from bridge.policy.flags import ATTACHED, BY_NAME, CLOSED, MANY, NONE, ONE, SUBCOMMANDS, Flag
from bridge.policy.mcp_servers import variables, with_variables
from bridge.policy.project_policy import Project, read
from bridge.policy.terms import MAX_SHOWN, WORKSPACE, Decision, PolicyError, Scope, printable

BARE_WORD = re.compile(r"[\w:.-]+")
LOOKS_LIKE_A_FLAG = re.compile(r"-|[A-Za-z][\w+.-]*://")


@dataclasses.dataclass
class Plan:
    """The arguments that are run in place of the client's."""

    argv: list[str] = dataclasses.field(default_factory=list)
    decisions: list[Decision] = dataclasses.field(default_factory=list)
    flags: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    prompt: str | None = None
    project: Project = dataclasses.field(default_factory=Project)
    prompt_addition: str = ""
    """Text that the bridge adds to the system prompt."""
    variables: dict[str, str] = dataclasses.field(default_factory=dict)
    """The container's variables, for MCP servers alone."""

    @property
    def controls(self) -> bool:
        """Whether stdin is a channel of control messages, which has to be filtered."""
        return self.flags.get("--input-format", ["text"])[-1:] == ["stream-json"]

    @property
    def servers(self) -> set[str]:
        """The names of the call's MCP servers."""
        configured = [
            json.loads(value).get("mcpServers") or {} for value in self.flags.get("--mcp-config", []) if value
        ]
        return {*self.project.servers, *(name for servers in configured for name in servers)}

    @property
    def prints(self) -> bool:
        """Whether the client itself asked for print mode; then a terminal makes no difference."""
        return "--print" in self.flags or self.controls

    @property
    def bypasses(self) -> bool:
        """Whether the client switched all questions off."""
        mode = self.flags.get("--permission-mode", [""])[-1]
        return "--dangerously-skip-permissions" in self.flags or mode == "bypassPermissions"

    @property
    def sources(self) -> str:
        """The sources of settings that the client wants to use, separated by commas."""
        if {"--bare", "--safe-mode", "--restricted"} & self.flags.keys():
            return ""
        return self.flags.get("--setting-sources", ["user,project,local"])[-1]

    @property
    def reads_project(self) -> bool:
        """Whether the project's CLAUDE.md is used. It is not if the client lists sources without `project`."""
        return "project" in self.sources.split(",")


def rewrite(
    argv: list[str],
    scope: Scope,
    cwd: str = WORKSPACE,
    *,
    files: Iterable[bytes] = (),
    env: Iterable[bytes] = (),
    interactive: bool = False,
) -> Plan:
    """Return what to run for these arguments (without the program's name). Raises PolicyError if they are refused.

    `files` and `env` are the project's files and the variables, as the client sent them. `interactive` says that
    the client has a terminal; then a session without `--print` shows the CLI's interface.
    """
    env = list(env)
    plan = Plan(variables=variables(env))
    prompts = _read(argv, plan, scope, cwd)
    asks = interactive and not plan.prints and not plan.bypasses
    plan.project = read(files, env, scope, plan.sources, asks)
    if "--strict-mcp-config" in plan.flags:
        plan.project.servers = {}
    _add_own(plan, scope, interactive)
    _add_prompt(plan, prompts)
    return plan


def _read(argv: list[str], plan: Plan, scope: Scope, cwd: str) -> list[str]:
    """Parse the arguments from left to right. Returns those that are neither flags nor values of flags."""
    rest = list(argv)
    prompts: list[str] = []
    while rest:
        word = rest.pop(0)
        if word == "--":
            return prompts + rest
        if not word.startswith("-") or word == "-":
            prompts.append(word)
            continue
        rest = _expand(word, rest)
        name = rest.pop(0)
        flag = _flag(name, scope)
        values, rest = _take(flag, name, rest)
        _judge(plan, flag, values, scope, cwd)
    return prompts


def _expand(word: str, rest: list[str]) -> list[str]:
    """Split `--flag=value` into two words, and mark the value as belonging to the flag. Split `-pc` into `-p -c`."""
    name, equals, value = word.partition("=")
    if word.startswith("--"):
        return [name, _Value(value), *rest] if equals else [word, *rest]
    if len(word) == 2:
        return [word, *rest]
    letters = ["-" + letter for letter in word[1:]]
    if all(letter in BY_NAME and BY_NAME[letter].values == NONE for letter in letters):
        return [*letters, *rest]
    raise PolicyError("the argument {} is no flag that the bridge knows", word)


class _Value(str):
    """The value in `--flag=value`. It belongs to its flag even if it begins with a hyphen."""

    __slots__ = ()


def _flag(name: str, scope: Scope) -> Flag:
    flag = BY_NAME.get(name)
    if flag and scope.permits(flag.names[-1], by_default=True):
        return flag
    if name in CLOSED:
        values, why = CLOSED[name]
        if scope.permits(name, by_default=False):
            return Flag((name,), values)
        raise PolicyError(f"{name} is not passed on to the host: {why}")
    if flag:
        raise PolicyError(f"{name} is refused by the host's operator")
    named = printable(name, MAX_SHOWN)
    if name.startswith("--") and scope.permits(name, by_default=False):
        return Flag((name,), ATTACHED)
    unknown = PolicyError(
        f"{named} is no flag that the bridge knows; if the host's operator adds it to policy.allow in bridge.yaml, "
        "it is passed on, with a value as --FLAG=VALUE"
    )
    unknown.kind = "a flag that the bridge does not know"
    raise unknown


def _take(flag: Flag, name: str, rest: list[str]) -> tuple[list[str], list[str]]:
    """Return a flag's values and the other words. Values are counted as by the CLI's own parser (commander)."""
    own = [rest.pop(0)] if rest and isinstance(rest[0], _Value) else None
    if flag.values == ATTACHED and own is None:
        return [], rest
    if flag.values == NONE:
        if own is not None:
            raise PolicyError(f"{name} takes no value")
        return [], rest
    if own is not None:
        return [str(own[0])], rest
    if flag.values == ONE:
        if not rest:
            raise PolicyError(f"{name} needs a value")
        return [rest[0]], rest[1:]
    first = 1 if flag.values == MANY else 0  # the first of many values may begin with a hyphen
    if len(rest) < first:
        raise PolicyError(f"{name} needs a value")
    words = enumerate(rest[first:], first)
    end = next((at for at, word in words if word.startswith("-") and word != "-"), len(rest))
    if flag.values != MANY:
        end = min(end, 1)
    return rest[:end], rest[end:]


def _judge(plan: Plan, flag: Flag, values: list[str], scope: Scope, cwd: str) -> None:
    name = "--allowedTools" if "--allowedTools" in flag.names else flag.names[-1]
    name = "--disallowedTools" if "--disallowedTools" in flag.names else name
    shown = " ".join([name, *(value if len(value) < 60 else f"<{len(value)} characters>" for value in values)])
    try:
        if name == "--mcp-config":
            values = [with_variables(value, plan.variables) for value in values]
        kept = flag.check(values, scope, cwd)
    except PolicyError as refusal:
        raise refusal.of(name) from None
    plan.flags.setdefault(name, []).extend(values)
    if flag.check.__name__ == "nothing":
        plan.decisions.append(Decision("replace", shown, "the bridge sets this itself, after what was asked for"))
    elif name == "--append-system-prompt" and scope.runs_commands:
        plan.decisions.append(Decision("replace", shown, "joined with what the bridge tells about the container"))
    elif name in ("--tools", "--disallowedTools"):
        plan.decisions.append(Decision("replace", shown, "joined with what this grant offers and withholds"))
    else:
        plan.argv += [f"{name}={value}" for value in kept] or ([name] if not values else [])
        verdict = "keep" if kept == values else "replace"
        plan.decisions.append(Decision(verdict, shown, "harmless to the host" if verdict == "keep" else "narrowed"))


def _add_own(plan: Plan, scope: Scope, interactive: bool) -> None:
    """Add the arguments that the bridge sets itself.

    The CLI combines all values of --tools, so the client's own --tools is never passed on.
    """
    asked = plan.flags.get("--tools")
    tools = BY_NAME["--tools"].check(["default"] if asked is None else asked, scope, WORKSPACE)
    denied = [*plan.flags.get("--disallowedTools", []), *scope.denials]
    own = {}
    if scope.runs_commands:
        plan.prompt_addition = where_it_lives(scope)
        added = "\n\n".join([plan.prompt_addition, *plan.flags.get("--append-system-prompt", [])])
        own["--setting-sources=user"] = "the project's settings, filtered, are the only ones of this user"
        own[f"--append-system-prompt={added}"] = "tells Claude what it shares with the container"
    else:
        own["--setting-sources="] = "settings, hooks, commands and servers of the workspace would run on the host"
        own["--disable-slash-commands"] = "skills run commands, and this client runs none in its container"
    own["--strict-mcp-config"] = "MCP servers that are configured elsewhere would run on the host"
    own[f"--tools={tools[0]}"] = _reason(scope)
    own[f"--disallowedTools={','.join(denied)}"] = "denied by name as well, which beats every permission"
    if "--print" not in plan.flags and not interactive:
        own["--print"] = "there is no terminal for an interactive session"
    plan.argv += own
    if plan.project.servers:
        servers = f"--mcp-config={json.dumps({'mcpServers': plan.project.servers})}"
        own[servers] = "the project's MCP servers, which run in the container"
        plan.argv.insert(0, servers)  # first, because the client's own replace those of the same name
    plan.decisions += [Decision("add", what, why) for what, why in own.items()]
    plan.decisions += [Decision("drop", *_split(note)) for note in plan.project.notes]


def _split(note: str) -> tuple[str, str]:
    what, _, why = note.partition(" is left out: ")
    return what, why or note


def _reason(scope: Scope) -> str:
    if scope.runs_commands and scope.web:
        return (
            "these tools run commands in the container alone, and reach the public web alone, at the ports of web_ports"
        )
    if scope.runs_commands:
        return "these tools run commands in the container alone, and none uses the host's network"
    return "only these tools neither run commands nor use the host's network"


def where_it_lives(scope: Scope) -> str:
    """Return what Claude has to know about the container, for its system prompt."""
    shared = " and ".join([WORKSPACE, *scope.shares])
    return (
        "You work for a container. Your commands (the Bash tool, hooks, MCP servers) run inside it, as its user and "
        f"with its tools. Your file tools (Read, Write, Edit, Glob, Grep) see {shared}, which are the very same files "
        "at the same paths in the container, and no other of its files: use Bash for every other path, such as /tmp "
        "or the home directory. What a command leaves running in the background ends with this session."
    )


def _add_prompt(plan: Plan, prompts: list[str]) -> None:
    if not prompts:
        return
    if prompts[0] in SUBCOMMANDS:
        raise PolicyError(f"`claude {prompts[0]}` manages the host's own Claude Code; run it on the host")
    plan.prompt, *more = prompts
    plan.argv += ["--", plain(plan.prompt)]
    plan.decisions.append(
        Decision("keep", f"prompt of {len(plan.prompt)} characters", "after --, so that it is no flag")
    )
    if more:
        plan.decisions.append(Decision("drop", f"{len(more)} words after the prompt", "the CLI takes one prompt"))


def plain(prompt: str) -> str:
    """Return the prompt in a form that cannot be taken for a flag or a command.

    The CLI searches all of its arguments for some flags, even after `--`, by how they begin. So a prompt that
    begins with a hyphen or an address (cc://...) gets a line feed in front. A prompt of one word gets a line feed
    at its end: the word could be a command in the CLI's next version.
    """
    if LOOKS_LIKE_A_FLAG.match(prompt):
        return "\n" + prompt
    return prompt + "\n" if BARE_WORD.fullmatch(prompt) else prompt
