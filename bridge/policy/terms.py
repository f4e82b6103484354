"""The terms that a call is judged by, and the words in which the judgement is told."""

from __future__ import annotations

import dataclasses
import posixpath
import re
from collections.abc import Iterable, Iterator

WORKSPACE = "/workspace"
"""Where the workspace is, in the container and in the namespace alike."""

OFFERED_TOOLS = (
    "Agent", "AskUserQuestion", "DeferredToolPlaceholder", "Edit", "EnterPlanMode", "ExitPlanMode", "Glob",
    "Grep", "ListMcpResourcesTool", "MultiEdit", "NotebookEdit", "NotebookRead", "Read",
    "ReadMcpResourceTool", "ReportFindings", "SendUserMessage", "StructuredOutput", "Task", "TaskCreate",
    "TaskGet", "TaskList", "TaskOutput", "TaskStop", "TaskUpdate", "TodoWrite", "ToolSearch", "Write",
)  # fmt: skip
"""Built-in tools that neither run a command nor speak to the network. A list of what is allowed: each
version of the CLI brings tools of its own (Workflow, Monitor, Cron...), and none of them may appear here by
itself."""

HANDS_TOOLS = ("Bash", "BashOutput", "KillBash", "KillShell", "Skill")
"""Tools that run commands: on offer when the client runs them in its container."""

WEB_TOOLS = ("WebFetch", "WebSearch")
"""Tools that speak to the network: on offer when the namespace's only way there is the server's proxy."""

WITHHELD_TOOLS = (
    "CronCreate", "CronDelete", "CronList", "EnterWorktree", "ExitWorktree", "ListAgents", "Monitor",
    "PowerShell", "RemoteTrigger", "ScheduleWakeup", "SendMessage", "Workflow",
)  # fmt: skip
"""Tools that are also denied by name, as a second layer: a denial outlives a mistake in the list above.
Only names that the CLI knows: it complains on stderr about any other."""

ALL_TOOLS = OFFERED_TOOLS + HANDS_TOOLS + WEB_TOOLS + WITHHELD_TOOLS


def all_but(*names: str) -> Iterator[str]:
    """Patterns, as in .gitignore, which together match every name but these."""
    prefixes = sorted({name[:end] for name in names for end in range(len(name) + 1)})
    for prefix in prefixes:
        following = sorted({name[len(prefix)] for name in names if name.startswith(prefix) and name != prefix})
        yield f"{prefix}{_any_but(following)}*" if following else f"{prefix}?*"
        if prefix and prefix not in names:
            yield prefix


def _any_but(letters: Iterable[str]) -> str:
    """A class of all characters but these, in either case: the CLI knows no negated one, and minds no case."""
    edges = sorted({ord(form) for letter in letters for form in (letter.lower(), letter.upper())})
    starts, ends = [1, *(edge + 1 for edge in edges)], [*(edge - 1 for edge in edges), 0xFFFF]
    return "[" + "".join(f"{chr(a)}-{chr(b)}" for a, b in zip(starts, ends, strict=True) if a <= b) + "]"


DENIED_PATHS = (
    "Read(//proc/*/**)", "Edit(//proc/**)", "Read(//dev/fd/**)",
    *(f"Edit(//claude/{name})" for name in all_but("plans", "projects")),
    f"Edit(//claude/projects/{_any_but('-')}*)",
    *(f"Edit(//claude/projects/*/{name})" for name in all_but("memory")),
)  # fmt: skip
"""Places of the namespace that are no business of the file tools: what the CLI's own process tells about the
host (mounts, variables), and all of its own directory but what the model is meant to write there: plans, and what it
remembers of a project. As few as can be: the CLI holds commands to the same rules, though they run elsewhere. What the
container would not see cannot be written because it is mounted read-only."""


MAX_SHOWN = 80
"""Characters of a word of the client's that a sentence repeats."""

MAX_SENTENCE = 1000
"""Characters of a whole sentence: what a client is told goes into one record, and into one line of a terminal."""

_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")


def printable(text: object, limit: int = MAX_SENTENCE) -> str:
    """Text for a terminal or a log: cut, with escapes in place of control characters and halves of characters."""
    whole = str(text)
    cut = whole if len(whole) <= limit else whole[: limit - 3] + "..."
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)


def shown(word: object, limit: int = MAX_SHOWN) -> str:
    """A word of the client's, in quotes, as it may stand in a sentence."""
    return f"'{printable(word, limit)}'"


class PolicyError(Exception):
    """The request is refused; the text is a sentence for the person who made it.

    Each `{}` of the text stands for a word of the client's. `kind` is the sentence without them: for the audit log.
    """

    def __init__(self, text: str, *words: object) -> None:
        super().__init__(printable(text.format(*map(shown, words)) if words else text))
        self.kind: str = printable(_QUOTED.sub("'...'", text.replace("{}", "'...'") if words else text), 200)

    def of(self, flag: str) -> PolicyError:
        """The same refusal, as that of a flag's value."""
        other = PolicyError(f"{flag}: {self}")
        other.kind = f"{flag}: {self.kind}"
        return other


@dataclasses.dataclass(frozen=True)
class Decision:
    """What became of one part of a request: `verdict` is keep, add, drop, replace or refuse."""

    verdict: str
    what: str
    why: str


@dataclasses.dataclass(frozen=True)
class Scope:
    """What holds for the calls of one grant.

    `hands` says that commands run in the container, `web` that the network layer lets the public web be reached.
    `shares` are the further directories that exist for it. `allowed` and `refused` are the operator's
    changes by name: a flag (`--debug`), a tool (`WebFetch`) or a control request (`control:read_file`).
    """

    shares: tuple[str, ...] = ()
    allowed: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    hands: bool = False
    web: bool = False

    @property
    def tools(self) -> tuple[str, ...]:
        """Built-in tools on offer."""
        offered = OFFERED_TOOLS + (HANDS_TOOLS if self.hands else ()) + (WEB_TOOLS if self.web else ())
        more = tuple(name for name in ALL_TOOLS if name in self.allowed and name not in offered)
        return tuple(name for name in offered + more if name not in self.refused)

    @property
    def denials(self) -> tuple[str, ...]:
        """All that is denied, as rules of the CLI's."""
        return (*self.denied_tools, *DENIED_PATHS)

    @property
    def denied_tools(self) -> tuple[str, ...]:
        """Built-in tools that are denied by name."""
        offered = self.tools
        return tuple(sorted({*ALL_TOOLS} - {*offered}))

    def permits(self, name: str, by_default: bool) -> bool:
        """Whether the operator's word, or else the default, permits a flag or a control request."""
        return name not in self.refused and (by_default or name in self.allowed)

    def contains(self, path: str) -> bool:
        """Whether an absolute path lies in a directory that the container and the namespace share, by its
        name.

        Symbolic links are no concern here: they are resolved inside the namespace, where nothing else exists.
        """
        path = posixpath.normpath(path)
        roots = (WORKSPACE, *self.shares)
        return any(path == root or path.startswith(root + "/") for root in roots)
