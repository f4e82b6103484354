"""Filters the project's settings, servers, agents, commands and skills, and writes a note for what is left out.

They come as text from the container. What they start (hooks, stdio servers, commands in a skill) runs in the
container, so it is safe for the host. What the CLI would run or read on the host (key helpers, variables, plugins,
a status line) is left out. Everything is parsed and written again.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from bridge.policy import mcp_servers
from bridge.policy.terms import Scope, printable, shown

Json = dict[str, Any]

SCALARS = frozenset({
    "alwaysThinkingEnabled", "cleanupPeriodDays", "disableAllHooks", "effortLevel", "fastMode",
    "includeCoAuthoredBy", "language", "model", "outputStyle", "showThinkingSummaries", "spinnerTipsEnabled",
})  # fmt: skip
"""Settings that affect only the conversation."""

OF_SERVERS = frozenset({"enableAllProjectMcpServers", "enabledMcpjsonServers", "disabledMcpjsonServers"})
"""Settings that choose among the servers of .mcp.json. They are applied here."""

RULES = ("allow", "deny", "ask")
MODES = frozenset({"default", "manual", "plan", "acceptEdits", "dontAsk"})
"""Permission modes that are always allowed. The next two are allowed only if commands run in the container."""
MODES_WITH_COMMANDS = MODES | {"bypassPermissions", "auto"}

HOOKS = {
    "command": frozenset({"type", "command", "timeout", "async", "statusMessage", "once", "if"}),
    "prompt": frozenset({"type", "prompt", "timeout", "model", "statusMessage", "once", "if"}),
}
"""Kinds of hooks, and their fields. `args` is not among them: it would start a program without a shell, and so
outside of the container."""

OF_HOOK: dict[str, type | tuple[type, ...]] = {"timeout": (int, float), "async": bool, "once": bool}
"""Types of a hook's fields. Fields that are not listed are text."""

OF_AGENT = frozenset({
    "background", "color", "description", "disallowedTools", "effort", "maxTurns", "model", "name", "skills", "tools",
})  # fmt: skip
OF_COMMAND = frozenset({
    "agent", "allowed-tools", "argument-hint", "arguments", "context", "description", "disable-model-invocation",
    "effort", "model", "name", "paths", "user-invocable", "version", "when_to_use",
})  # fmt: skip

_FILE = re.compile(r"\.claude/(agents|commands|skills)/(?:(?!\.\.?/)[\w. +@-]{1,80}/){0,5}[\w. +@-]{1,80}\.md")

MAX_FILES = 256
MAX_FILE = 128 * 1024
"""Files, and bytes of one file, that a client may send. Our client keeps these limits (project_files.py); others
may not."""
MAX_HEAD = 8 * 1024
MAX_HEADS = 32 * 1024
"""Characters of YAML in one file and in all. Parsing YAML takes a thousand times as long as parsing JSON."""
MAX_NOTES = 100
"""Notes about what was left out. A client prints each of them."""
MAX_HOOKS = 64
"""Hooks of one file. All hooks of one event run at the same time, and each needs a process on the host while it
runs."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNREADABLE = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What PyYAML raises for invalid heads, such as impossible dates or endless numbers."""


@dataclasses.dataclass
class Project:
    """The parts of a project that the CLI gets."""

    settings: Json = dataclasses.field(default_factory=dict)
    servers: Json = dataclasses.field(default_factory=dict)
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    """Agents, commands and skills, by their path in the CLI's configuration directory."""
    notes: list[str] = dataclasses.field(default_factory=list)
    """One line for each thing that was left out."""


def read(
    files: Iterable[bytes],
    env: Iterable[bytes],
    scope: Scope,
    sources: str = "project,local",
    asks: bool = False,
) -> Project:
    """Return the project from what a client sent.

    Each of `files` is a name, a line feed and a text. Each of `env` is NAME=value. `asks` says whether the CLI would
    ask a person about MCP servers. What is not allowed is left out with a note; files larger than MAX_FILE are ignored.
    """
    project = Project()
    if not scope.runs_commands:
        return project
    texts: dict[bytes, bytes] = {}
    for path, _, text in (file.partition(b"\n") for file in files):
        if len(texts) == MAX_FILES:
            project.notes.append(f"files of .claude beyond {MAX_FILES} are left out: there are too many")
            break
        if len(text) <= MAX_FILE:
            texts[path] = text
    chosen = sources.split(",")
    layers = []
    for name, source in ((".claude/settings.json", "project"), (".claude/settings.local.json", "local")):
        if source in chosen and (layer := _object(texts.get(name.encode(), b""), name, project)):
            layers.append(_settings(layer, name, scope, project))
    _merge(project, layers)
    if "project" in chosen:
        entries, variables = _entries(texts, project), mcp_servers.variables(env)
        project.servers = mcp_servers.of_project(
            entries, layers, variables, scope, asks, lambda note: project.notes.append(f".mcp.json: {note}")
        )
        heads = _Heads()
        for path, text in sorted(texts.items()):
            _document(path.decode("utf-8", "replace"), text, heads, project)
    beyond = len(project.notes) - MAX_NOTES
    project.notes = [printable(note, 400) for note in project.notes[:MAX_NOTES]]
    if beyond > 0:
        project.notes.append(f"{beyond} more things are left out: there are too many to name them")
    return project


def _entries(texts: Mapping[bytes, bytes], project: Project) -> Json:
    """Return the servers of all .mcp.json files. Those of an inner directory replace those of an outer one."""
    found: Json = {}
    for path in sorted((path for path in texts if (b"/" + path).endswith(b"/.mcp.json")), key=len):
        entries = _object(texts[path], printable(path.decode("utf-8", "replace"), 80), project).get("mcpServers")
        found |= entries if isinstance(entries, dict) else {}
    return found


def _object(text: bytes, name: str, project: Project) -> Json:
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        project.notes.append(f"{name} is left out: it is no JSON ({error})")
        return {}
    if isinstance(value, dict):
        return value
    project.notes.append(f"{name} is left out: it is no JSON object")
    return {}


# Settings


def settings(value: Json, scope: Scope, complain: Any) -> Json:
    """Return the allowed settings. `complain` is called for each other one, with its name and the reason."""
    kept: Json = {}
    for name, entry in value.items():
        is_scalar = name in SCALARS and isinstance(entry, str | int | bool | float)
        if is_scalar or (name in OF_SERVERS and scope.runs_commands):
            kept[name] = entry
        elif name == "permissions" and scope.runs_commands and isinstance(entry, dict):
            kept[name] = _permissions(entry, scope, complain)
        elif name == "hooks" and scope.runs_commands and isinstance(entry, dict):
            kept[name] = _hooks(entry, complain)
        elif name != "$schema":
            complain(name[:60], "it could run commands or send data elsewhere on the host")
    return kept


def _settings(value: Json, name: str, scope: Scope, project: Project) -> Json:
    def complain(what: str, why: str) -> None:
        project.notes.append(f"{name}: {what} is left out: {why}")

    return settings(value, scope, complain)


def _permissions(value: Json, scope: Scope, complain: Any) -> Json:
    kept: Json = {}
    for name, entry in value.items():
        if name in RULES and isinstance(entry, list):
            kept[name] = [rule for rule in entry if isinstance(rule, str)]
        elif name == "defaultMode" and isinstance(entry, str) and entry in MODES_WITH_COMMANDS:
            kept[name] = entry
        elif name == "additionalDirectories" and isinstance(entry, list):
            kept[name] = [path for path in entry if isinstance(path, str) and scope.contains(path)]
            if kept[name] != entry:
                complain("a directory of permissions.additionalDirectories", "it is not shared with the host")
        else:
            complain(f"permissions.{name[:60]}", "the bridge does not know it")
    return kept


def _hooks(value: Json, complain: Any) -> Json:
    kept: Json = {}
    left = MAX_HOOKS
    for event, groups in value.items():
        for group in groups if isinstance(groups, list) else []:
            if not isinstance(group, dict):
                continue
            hooks = group.get("hooks")
            if not isinstance(hooks, list):
                complain(f"a group of {event[:40]}", "its hooks are no list")
                continue
            mine = [one for hook in hooks if (one := _hook(hook, event, complain))]
            if len(mine) > left:
                complain(f"a group of {event[:40]}", f"there are more than {MAX_HOOKS} hooks, and each is a process")
                continue
            left -= len(mine)
            matcher = {"matcher": group["matcher"]} if isinstance(group.get("matcher"), str) else {}
            kept.setdefault(event, []).append({**matcher, "hooks": mine})
    return kept


def _hook(hook: Any, event: str, complain: Any) -> Json | None:
    kind = hook.get("type") if isinstance(hook, dict) else None
    fields = HOOKS.get(kind, frozenset()) if isinstance(kind, str) else frozenset()
    if not fields:
        complain(f"a hook of {event[:40]}", "only hooks of the types command and prompt run in the container")
        return None
    unknown = sorted(set(hook) - fields)
    if unknown:
        complain(f"a hook of {event[:40]}", f"its field {shown(unknown[0], 30)} is none that the bridge knows")
        return None
    wrong = sorted(field for field, value in hook.items() if not isinstance(value, OF_HOOK.get(field, str)))
    if wrong:
        complain(f"a hook of {event[:40]}", f"its field {shown(wrong[0], 30)} is of another type")
        return None
    return dict(hook)


def _merge(project: Project, layers: list[Json]) -> None:
    """Merge layers of settings: lists are joined; for single values the later layer wins."""
    merged = project.settings
    for layer in layers:
        for name, value in layer.items():
            if name == "hooks":
                for event, groups in value.items():
                    merged.setdefault("hooks", {}).setdefault(event, []).extend(groups)
            elif name == "permissions":
                mine = merged.setdefault("permissions", {})
                for key, entry in value.items():
                    mine[key] = [*mine.get(key, []), *entry] if isinstance(entry, list) else entry
            elif name not in OF_SERVERS:
                merged[name] = value


# Agents, commands, skills


class _Heads:
    """Parses the heads of files, up to a total size."""

    def __init__(self) -> None:
        self._left = MAX_HEADS

    def read(self, head: str) -> Json:
        """Return the fields of a head. Raises one of _UNREADABLE if it cannot be parsed."""
        self._left -= len(head)
        if len(head) > MAX_HEAD or self._left < 0:
            raise ValueError("it is too long")
        try:
            if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(head, Loader=_LOADER)):
                raise ValueError("it repeats itself by name")  # aliases in aliases grow without limit
            value = yaml.load(head, Loader=_LOADER)  # noqa: S506 - a safe loader, in C if available
        except yaml.YAMLError:
            # People write `description: does this: that`, and the CLI accepts it.
            lines = [line for line in head.split("\n") if ":" in line and not line.startswith((" ", "-"))]
            value = {key.strip(): rest.strip() for key, _, rest in (line.partition(":") for line in lines)}
        return value if isinstance(value, dict) else {}


def is_document(name: str) -> bool:
    """Return whether a name is that of an agent, a command or a skill in a project."""
    return bool(_FILE.fullmatch(name))


def _document(name: str, text: bytes, heads: _Heads, project: Project) -> None:
    found = _FILE.fullmatch(name)
    if not found:
        return
    kind = found[1]
    if kind == "skills" and not name.endswith("/SKILL.md"):
        return
    try:
        project.files[name.removeprefix(".claude/")] = _written_anew(name, kind, text.decode(), heads, project)
    except _UNREADABLE as error:
        reason = str(error) if type(error) is ValueError else "its head is no YAML"
        project.notes.append(f"{name} is left out: {reason}")


def _written_anew(name: str, kind: str, text: str, heads: _Heads, project: Project) -> bytes:
    """Return the text with only the known fields in its head. Raises one of _UNREADABLE if the head cannot be
    parsed."""
    known = OF_AGENT if kind == "agents" else OF_COMMAND
    head, body = _front_matter(text, heads)
    kept = {key: value for key, value in head.items() if key in known}
    notes = [
        f"{name}: {shown(key)} is left out: the bridge does not carry it"
        for key in sorted(str(key) for key in head.keys() - known)
    ]
    if kind == "skills":
        folder = name.removesuffix("/SKILL.md")
        body = f"(The files of this skill are in /workspace/{folder}.)\n\n{body}"
    whole = (_top(kept, body) + body).encode()
    project.notes += notes
    return whole


_OPENING = re.compile(r"---[^\S\n]*\n")
_CLOSING = re.compile(r"^---[^\n]*\n?", re.MULTILINE)
_BEGINS_LIKE_A_HEAD = re.compile(r"[\s\ufeff]*---")


def _front_matter(text: str, heads: _Heads) -> tuple[Json, str]:
    """Return the head between two lines of hyphens, and the rest. Accepts every form that the CLI accepts."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    opening = _OPENING.match(text)
    closing = _CLOSING.search(text, opening.end()) if opening else None
    if opening is None or closing is None:
        return {}, text
    return heads.read(text[opening.end() : closing.start()]), text[closing.end() :]


def _top(kept: Json, body: str) -> str:
    """Return the head for the CLI, one field a line.

    Without fields there is no head. But if the CLI could take the start of the body for a head, an empty head is added.
    """
    if not kept and not _BEGINS_LIKE_A_HEAD.match(body):
        return ""
    fields = "".join(f"{key}: {json.dumps(value, ensure_ascii=False, default=str)}\n" for key, value in kept.items())
    return f"---\n{fields or '{}' + chr(10)}---\n"
