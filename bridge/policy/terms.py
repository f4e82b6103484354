"""Policy settings of a grant, and the types that report a decision."""

from __future__ import annotations

import dataclasses
import posixpath
import re
from collections.abc import Iterable, Iterator

WORKSPACE = "/workspace"
"""Path of the workspace, in the container and in the namespace."""

OFFERED_TOOLS = (
    "Agent", "AskUserQuestion", "DeferredToolPlaceholder", "Edit", "EnterPlanMode", "ExitPlanMode", "Glob",
    "Grep", "ListMcpResourcesTool", "MultiEdit", "NotebookEdit", "NotebookRead", "Read",
    "ReadMcpResourceTool", "ReportFindings", "SendUserMessage", "StructuredOutput", "Task", "TaskCreate",
    "TaskGet", "TaskList", "TaskOutput", "TaskStop", "TaskUpdate", "TodoWrite", "ToolSearch",
    "WaitForMcpServers", "Write",
)  # fmt: skip
"""Built-in tools that neither run commands nor use the network. This is a list of allowed tools: each version of
the CLI adds tools (Workflow, Monitor, Cron...), and none of them may appear here automatically."""

COMMAND_TOOLS = ("Bash", "BashOutput", "KillBash", "KillShell", "Skill")
"""Tools that run commands. On offer if the client runs the commands in its container."""

WEB_TOOLS = ("WebFetch", "WebSearch")
"""Tools that use the network. On offer if the server's proxy is the namespace's only network access."""

WITHHELD_TOOLS = (
    "CronCreate", "CronDelete", "CronList", "EnterWorktree", "ExitWorktree", "ListAgents", "Monitor",
    "PowerShell", "RemoteTrigger", "ScheduleWakeup", "SendMessage", "Workflow",
)  # fmt: skip
"""Tools that are also denied by name, as a second layer in case of a mistake in the lists above. Only names that
the CLI knows: it prints a warning on stderr for any other."""

ALL_TOOLS = OFFERED_TOOLS + COMMAND_TOOLS + WEB_TOOLS + WITHHELD_TOOLS


def all_but(*names: str) -> Iterator[str]:
    """Yield patterns, as in .gitignore, that together match every name except these."""
    prefixes = sorted({name[:end] for name in names for end in range(len(name) + 1)})
    for prefix in prefixes:
        following = sorted({name[len(prefix)] for name in names if name.startswith(prefix) and name != prefix})
        yield f"{prefix}{_any_but(following)}*" if following else f"{prefix}?*"
        if prefix and prefix not in names:
            yield prefix


def _any_but(letters: Iterable[str]) -> str:
    """Return a character class that matches all characters except these, in both cases. The CLI supports no negated
    classes, and ignores case."""
    edges = sorted({ord(form) for letter in letters for form in (letter.lower(), letter.upper())})
    starts, ends = [1, *(edge + 1 for edge in edges)], [*(edge - 1 for edge in edges), 0xFFFF]
    return "[" + "".join(f"{chr(a)}-{chr(b)}" for a, b in zip(starts, ends, strict=True) if a <= b) + "]"


DENIED_PATHS = (
    "Read(//proc/*/**)", "Edit(//proc/**)", "Read(//dev/fd/**)",
    *(f"Edit(//claude/{name})" for name in all_but("agent-memory", "plans", "projects")),
    f"Edit(//claude/projects/{_any_but('-')}*)",
    *(f"Edit(//claude/projects/*/{name})" for name in all_but("memory")),
)  # fmt: skip
"""Paths in the namespace that the file tools may not use. In /proc, the CLI's own process reveals facts about the
host (mounts, variables). In the CLI's own directory, the model may write only plans, and the memory of a project or
an agent. The list is as short as possible, because the CLI applies these rules to commands as well, although they run
in the container. Files that the container would not see are mounted read-only, so they cannot be written."""


MAX_SHOWN = 80
"""Characters of a client's word that a sentence repeats."""

MAX_SENTENCE = 1000
"""Characters of a sentence. A client gets it in one record, and prints it as one line of a terminal."""

MAX_WORDS_OF_CLI = 8000
"""Characters of what the CLI would say. A client gets them in one record of 64 KiB."""

_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")


def printable(text: object, limit: int = MAX_SENTENCE) -> str:
    """Return text that is safe for a terminal or a log: shortened to `limit` characters, with unprintable
    characters escaped."""
    whole = str(text)
    cut = whole if len(whole) <= limit else whole[: limit - 3] + "..."
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)


def shown(word: object, limit: int = MAX_SHOWN) -> str:
    """Return a client's word in quotes, for use in a sentence."""
    return f"'{printable(word, limit)}'"


def decoded(text: bytes) -> str:
    """Return a text as the CLI reads it: UTF-8, or UTF-16 with a byte-order mark."""
    return text.decode("utf-16" if text.startswith(b"\xff\xfe") else "utf-8", "replace")


class PolicyError(Exception):
    """The request is refused; the text is a sentence for the person who made it.

    Each `{}` of the text is replaced with a word of the client. `kind` is the sentence without these words, for the
    audit log.
    """

    def __init__(self, text: str, *words: object) -> None:
        super().__init__(printable(text.format(*map(shown, words)) if words else text))
        self.kind: str = printable(_QUOTED.sub("'...'", text.replace("{}", "'...'") if words else text), 200)
        self.answer = b""
        """What the client gets on its standard output first, in the CLI's place."""

    def of(self, flag: str) -> PolicyError:
        """Return the same refusal, for a value of this flag."""
        other = PolicyError(f"{flag}: {self}")
        other.kind = f"{flag}: {self.kind}"
        return other


class CliError(PolicyError):
    """The CLI itself would refuse the request. The text is the CLI's own; it can have several lines. The client
    prints it as it is, and ends with the CLI's exit code, 1."""

    def __init__(self, text: str) -> None:
        super().__init__(text.partition("\n")[0])
        self.args = ("\n".join(printable(line) for line in text.split("\n")[:20])[:MAX_WORDS_OF_CLI],)
        self.kind = "the CLI refuses it"

    def of(self, flag: str) -> PolicyError:
        """Return the same refusal."""
        return self


@dataclasses.dataclass(frozen=True)
class Decision:
    """The decision on one part of a request. `verdict` is keep, add, drop, replace or refuse."""

    verdict: str
    what: str
    why: str


@dataclasses.dataclass(frozen=True)
class Scope:
    """The policy settings for the calls of one grant.

    `runs_commands` says whether commands run in the container. `web` says whether the public web can be reached,
    through the proxy. `shares` are the paths of the shared directories besides the workspace. `allowed` and `refused`
    are the operator's changes by name: a flag (`--debug`), a tool (`WebFetch`) or a control request
    (`control:read_file`). `cli` are the numbers of the CLI's version; without them, it is the newest.
    """

    shares: tuple[str, ...] = ()
    allowed: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    runs_commands: bool = False
    web: bool = False
    cli: tuple[int, ...] = ()

    @property
    def tools(self) -> tuple[str, ...]:
        """The built-in tools on offer."""
        offered = OFFERED_TOOLS + (COMMAND_TOOLS if self.runs_commands else ()) + (WEB_TOOLS if self.web else ())
        more = tuple(name for name in ALL_TOOLS if name in self.allowed and name not in offered)
        return tuple(name for name in offered + more if name not in self.refused)

    @property
    def denials(self) -> tuple[str, ...]:
        """Everything that is denied, as permission rules of the CLI."""
        return (*self.denied_tools, *DENIED_PATHS)

    @property
    def denied_tools(self) -> tuple[str, ...]:
        """The built-in tools that are denied by name."""
        offered = self.tools
        return tuple(sorted({*ALL_TOOLS} - {*offered}))

    def permits(self, name: str, by_default: bool) -> bool:
        """Return whether a flag or a control request is allowed, by the operator's settings or else by default."""
        return name not in self.refused and (by_default or name in self.allowed)

    def contains(self, path: str) -> bool:
        """Return whether an absolute path is in a directory that container and namespace share, judged by its name.

        Symbolic links need no check here: they are resolved inside the namespace, which hides the rest of the host.
        """
        path = posixpath.normpath(path)
        roots = (WORKSPACE, *self.shares)
        return any(path == root or path.startswith(root + "/") for root in roots)
