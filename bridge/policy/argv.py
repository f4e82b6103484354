"""Parses arguments as the CLI's own parser does, checks them against the table of flags, and writes new arguments."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable

from bridge.policy.caller import Caller
from bridge.policy.flags import (
    BY_NAME,
    CLOSED,
    LEFT_OUT,
    MANY,
    NONE,
    ONE,
    SUBCOMMANDS,
    UNKNOWN,
    Flag,
    anything,
    nothing,
    offered_tools,
    sources,
)
from bridge.policy.mcp_servers import variables
from bridge.policy.project_policy import MAX_NOTES, Project, read
from bridge.policy.terms import MAX_SHOWN, WORKSPACE, CliError, Decision, PolicyError, Scope, printable

PROMPTS = ("--system-prompt", "--append-system-prompt")
"""Flags whose texts can also come from a file, and are joined with it."""

EFFORTS = ("low", "medium", "high", "xhigh", "max")
NOT_IF_RESTRICTED = ("Bash", "WebFetch")
"""Tools that --restricted takes away, unless they are asked for by name."""

BARE_WORD = re.compile(r"[\w:.-]+")
MAX_ARGUMENT = 128 * 1024
"""Bytes that Linux accepts for one argument of a program."""
LOOKS_LIKE_A_FLAG = re.compile(r"-|[A-Za-z][\w+.-]*://")


@dataclasses.dataclass
class Plan:
    """The arguments that are run in place of the client's."""

    argv: list[str] = dataclasses.field(default_factory=list)
    decisions: list[Decision] = dataclasses.field(default_factory=list)
    flags: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    prompt: str | None = None
    project: Project = dataclasses.field(default_factory=Project)
    env: dict[str, str] = dataclasses.field(default_factory=dict)
    """Variables that the settings set: for commands in the container, and a few of them for the CLI."""
    notes: list[str] = dataclasses.field(default_factory=list)
    """One line for each thing that was left out."""
    prompt_addition: str = ""
    """Text that the bridge adds to the system prompt."""

    @property
    def size(self) -> int:
        """Bytes of memory that it holds, about."""
        texts = [*self.argv, *self.notes, *self.project.files.values(), self.project.memory.text]
        return sum(map(len, texts)) + len(self.project.memory.text_with_agents)

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


def rewrite(
    argv: list[str],
    scope: Scope,
    cwd: str = WORKSPACE,
    *,
    files: Iterable[bytes] = (),
    texts: Iterable[bytes] = (),
    env: Iterable[bytes] = (),
    memory: Iterable[bytes] = (),
    omitted: Iterable[bytes] = (),
    interactive: bool = False,
    is_large: bool = False,
    again: str = "",
) -> Plan:
    """Return what to run for these arguments (without the program's name). Raises PolicyError if they are refused.

    `files`, `texts`, `env`, `memory` and `omitted` are the project's files, the files that flags name, the variables,
    the project's instructions and what the client did not send, as the client sent them. `interactive` says that the
    client has a terminal; then a session without `--print` shows the CLI's interface. `again` says how a session that
    was asleep goes on: the id of its conversation, SAME or NEW.
    """
    env = list(env)
    caller = Caller.of(cwd, texts, variables(env))
    plan = Plan()
    prompts = _read(argv, plan, scope, caller)
    if again:
        _go_on(plan, again, interactive)
        prompts = []
    # As in the CLI, .mcp.json sees variables of --settings, and none of the project's own settings.
    known = [*env, *(f"{name}={value}".encode() for name, value in caller.env.items())]
    asks = interactive and not plan.prints and not plan.bypasses
    plan.project = read(files, known, scope, plan.sources, memory=memory, omitted=omitted, cwd=cwd, asks=asks)
    if "--strict-mcp-config" in plan.flags:
        plan.project.servers = {}
    plan.env = plan.project.env | caller.env
    plan.notes = [printable(note, 400) for note in caller.notes[:MAX_NOTES]] + plan.project.notes
    _add_own(plan, scope, interactive, is_large)
    _add_prompt(plan, prompts)
    for word in plan.argv:
        if len(word.encode("utf-8", "surrogateescape")) >= MAX_ARGUMENT:
            name = word.partition("=")[0] if word.startswith("--") else "the prompt"
            raise PolicyError(f"{name} has more than {MAX_ARGUMENT} bytes in all; make it shorter")
    return plan


def _read(argv: list[str], plan: Plan, scope: Scope, caller: Caller) -> list[str]:
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
        if flag.check is nothing and name in LEFT_OUT:
            caller.notes.append(f"{name} is left out: {LEFT_OUT[name][1]}")
        else:
            _judge(plan, flag, values, scope, caller)
    return prompts


SAME, NEW = "same", "new"
"""How a session goes on that was asleep and has no conversation to resume: as it began, or with a new conversation."""
CHOOSING = frozenset({"--continue", "--resume", "--session-id", "--fork-session", "--resume-session-at"})
"""Flags that choose a conversation."""
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _go_on(plan: Plan, again: str, interactive: bool) -> None:
    """Let a session go on that was asleep. Its first prompt was answered long ago, so it is not given again."""
    if not interactive or plan.prints:
        raise PolicyError("only an interactive session is woken")
    if again not in (SAME, NEW) and not UUID.fullmatch(again):
        raise PolicyError("{} is no conversation", again)
    if again == SAME:
        return
    plan.argv = [word for word in plan.argv if word.partition("=")[0] not in CHOOSING]
    for name in CHOOSING:
        plan.flags.pop(name, None)
    if again != NEW:
        plan.argv.append(f"--resume={again}")
        plan.flags["--resume"] = [again]


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


LOOK = " This project is large: before you work in a directory, look for a CLAUDE.md in it, and follow it."


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
    if name in LEFT_OUT and name not in scope.refused:
        return Flag((name,), LEFT_OUT[name][0], anything if name in scope.allowed else nothing)
    if scope.permits(name, by_default=False):
        return Flag((name,), UNKNOWN)
    named = printable(name, MAX_SHOWN)
    unknown = PolicyError(
        f"{named} is no flag that the bridge knows, and unknown ones are not passed on; if the host's Claude Code has "
        "it, the host's operator can allow it by name, with policy.allow in bridge.yaml"
    )
    unknown.kind = "a flag that the bridge does not know"
    raise unknown


def _take(flag: Flag, name: str, rest: list[str]) -> tuple[list[str], list[str]]:
    """Return a flag's values and the other words. Values are counted as by the CLI's own parser (commander)."""
    own = [rest.pop(0)] if rest and isinstance(rest[0], _Value) else None
    if flag.values in (NONE, UNKNOWN) and not (own and flag.values == UNKNOWN):
        if own is not None:
            raise CliError(f"error: unknown option '{name}={own[0]}'")
        return [], rest
    if own is not None:
        return [str(own[0])], rest
    if flag.values == ONE:
        if not rest:
            raise CliError(f"error: option '{name} <value>' argument missing")
        return [rest[0]], rest[1:]
    first = 1 if flag.values == MANY else 0  # the first of many values may begin with a hyphen
    if len(rest) < first:
        raise CliError(f"error: option '{name} <values...>' argument missing")
    words = enumerate(rest[first:], first)
    end = next((at for at, word in words if word.startswith("-") and word != "-"), len(rest))
    if flag.values != MANY:
        end = min(end, 1)
    return rest[:end], rest[end:]


def _judge(plan: Plan, flag: Flag, values: list[str], scope: Scope, caller: Caller) -> None:
    name = "--allowedTools" if "--allowedTools" in flag.names else flag.names[-1]
    name = "--disallowedTools" if "--disallowedTools" in flag.names else name
    shown = " ".join([name, *(value if len(value) < 60 else f"<{len(value)} characters>" for value in values)])
    try:
        kept = flag.check(values, scope, caller)
    except PolicyError as refusal:
        raise refusal.of(name) from None
    plan.flags.setdefault(name, []).extend(kept if flag.is_file else values)
    if flag.check in (nothing, sources):
        plan.decisions.append(Decision("replace", shown, "the bridge sets this itself, after what was asked for"))
    elif name.removesuffix("-file") in PROMPTS:
        plan.decisions.append(Decision("replace", shown, "joined with the other texts of the system prompt"))
    elif name in ("--tools", "--disallowedTools"):
        plan.decisions.append(Decision("replace", shown, "joined with what this grant offers and withholds"))
    else:
        plan.argv += [f"{name}={value}" for value in kept] or ([name] if not values else [])
        if flag.values == UNKNOWN and not values:  # if the flag needs a value after all, it takes this word
            plan.argv.append("--strict-mcp-config")
        verdict = "keep" if kept == values else "replace"
        plan.decisions.append(Decision(verdict, shown, "harmless to the host" if verdict == "keep" else "narrowed"))


def _add_own(plan: Plan, scope: Scope, interactive: bool, is_large: bool) -> None:
    """Add the arguments that the bridge sets itself.

    The CLI combines all values of --tools, so the client's own --tools is never passed on.
    """
    asked = plan.flags.get("--tools")
    tools = offered_tools(["default"] if asked is None else asked, scope, Caller())
    if "--restricted" in plan.flags and (asked is None or "default" in asked):
        tools = [",".join(name for name in tools[0].split(",") if name not in NOT_IF_RESTRICTED)]
    own = {}
    replaced, added = (_texts(plan, name) for name in PROMPTS)
    added = [text for text in added if text]
    if replaced:
        own[_argument("--system-prompt", replaced)] = "the client's own system prompt"
    if scope.runs_commands:
        plan.prompt_addition = where_it_lives(scope) + (LOOK if is_large else "")
        added.append(plan.prompt_addition)
        own["--setting-sources=user"] = "the project's settings, filtered, are the only ones of this user"
    if added:
        own[_argument("--append-system-prompt", added)] = "tells Claude what it shares with the container"
    if not scope.runs_commands:
        own["--setting-sources=user"] = "settings, hooks and commands of the workspace would run on the host"
        if "--disable-slash-commands" not in plan.flags:
            own["--disable-slash-commands"] = "skills run commands, and this client runs none in its container"
    own["--strict-mcp-config"] = "MCP servers that are configured elsewhere would run on the host"
    own[f"--tools={tools[0]}"] = _reason(scope)
    # The client's own rules are values of their own: an open parenthesis in one would swallow all that follows it.
    own |= {f"--disallowedTools={rules}": "asked for" for rules in plan.flags.get("--disallowedTools", [])}
    own[f"--disallowedTools={','.join(scope.denials)}"] = "denied by name as well, which beats every permission"
    if "--print" not in plan.flags and not interactive:
        own["--print"] = "there is no terminal for an interactive session"
    plan.argv += own
    _add_effort(plan)
    if plan.project.servers:
        servers = f"--mcp-config={json.dumps({'mcpServers': plan.project.servers})}"
        own[servers] = "the project's MCP servers, which run in the container"
        plan.argv.insert(0, servers)  # first, because the client's own replace those of the same name
    plan.decisions += [Decision("add", what, why) for what, why in own.items()]
    plan.decisions += [Decision("drop", *_split(note)) for note in plan.notes]


def _add_effort(plan: Plan) -> None:
    """Move the project's `effortLevel` to the settings of the command line: some versions of the CLI ignore it in a
    user's settings, which is what the project's are here."""
    effort = plan.project.settings.get("effortLevel")
    if effort not in EFFORTS:
        return
    del plan.project.settings["effortLevel"]
    at = [at for at, word in enumerate(plan.argv) if word.startswith("--settings=")]
    value = plan.argv.pop(at[-1]).partition("=")[2] if at else "{}"
    plan.argv.append(f"--settings={json.dumps({'effortLevel': effort} | json.loads(value))}")


def _texts(plan: Plan, name: str) -> list[str]:
    """Return the last text that was given in a file, and the last one on the command line."""
    return [text for flag in (f"{name}-file", name) for text in plan.flags.get(flag, [])[-1:]]


def _argument(name: str, texts: list[str]) -> str:
    """Return a flag with texts, separated by empty lines."""
    return f"{name}=" + "\n\n".join(texts)


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
        "or the home directory. Paths that begin with /claude are your own files, such as long results and outputs of "
        "background tasks: Read and Grep see them, and a command that names one gets a copy of it. A path at which a "
        "write fails with EROFS or EBUSY, or finds an empty directory in place of a file, is protected, because "
        "programs of the person's machine would run what is there: ask the person to open it with --unprotect. What a "
        "command leaves running in the background ends with this session."
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
