"""The project's settings, servers, agents, commands and skills: what of them counts, and a line for what does not.

They come as text from the container. What they start (hooks, stdio servers, commands in a skill) runs in the
container, so that it is harmless; what the CLI would run or read for itself (helpers for keys, variables, plugins,
a status line) is left out. Everything is parsed and written anew.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from bridge.policy.scope import PolicyError, Scope

Json = dict[str, Any]

SCALARS = frozenset({
    "alwaysThinkingEnabled", "cleanupPeriodDays", "disableAllHooks", "effortLevel", "fastMode",
    "includeCoAuthoredBy", "language", "model", "outputStyle", "showThinkingSummaries", "spinnerTipsEnabled",
})  # fmt: skip
"""Settings that change no more than the conversation."""

OF_SERVERS = frozenset({"enableAllProjectMcpServers", "enabledMcpjsonServers", "disabledMcpjsonServers"})
"""Settings that choose among the servers of .mcp.json; the choice is made here."""

RULES = ("allow", "deny", "ask")
MODES = frozenset({"default", "manual", "plan", "acceptEdits", "dontAsk"})
"""Permission modes that are open without hands; with hands the next two are open as well."""
MODES_WITH_HANDS = MODES | {"bypassPermissions", "auto"}

HOOKS = {
    "command": frozenset({"type", "command", "timeout", "async", "statusMessage", "once", "if"}),
    "prompt": frozenset({"type", "prompt", "timeout", "model", "statusMessage", "once", "if"}),
}
"""Kinds of hooks, and their fields. The field `args` would start a program without a shell, so it is none."""

OF_AGENT = frozenset({
    "background", "color", "description", "disallowedTools", "effort", "maxTurns", "model", "name", "skills", "tools",
})  # fmt: skip
OF_COMMAND = frozenset({
    "agent", "allowed-tools", "argument-hint", "arguments", "context", "description", "disable-model-invocation",
    "effort", "model", "name", "paths", "user-invocable", "version", "when_to_use",
})  # fmt: skip

_FILE = re.compile(r"\.claude/(agents|commands|skills)/(?:(?!\.\.?/)[\w. +@-]{1,80}/){0,5}[\w. +@-]{1,80}\.md")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


@dataclasses.dataclass
class Project:
    """What the CLI is given of a project."""

    settings: Json = dataclasses.field(default_factory=dict)
    servers: Json = dataclasses.field(default_factory=dict)
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    """Agents, commands and skills, by their place in the CLI's configuration directory."""
    notes: list[str] = dataclasses.field(default_factory=list)
    """A line for each thing that was left out."""


def read(files: Iterable[bytes], env: Iterable[bytes], scope: Scope, sources: str = "project,local") -> Project:
    """The project in what a client sent: each file as name, line feed and text; `env` as NAME=value."""
    project = Project()
    if not scope.hands:
        return project
    texts = dict(text.partition(b"\n")[::2] for text in files)
    chosen = sources.split(",")
    layers = []
    for name, source in ((".claude/settings.json", "project"), (".claude/settings.local.json", "local")):
        if source in chosen and (layer := _object(texts.get(name.encode(), b""), name, project)):
            layers.append(_settings(layer, name, scope, project))
    _merge(project, layers)
    if "project" in chosen:
        variables = dict(entry.partition(b"=")[::2] for entry in env)
        _servers(_object(texts.get(b".mcp.json", b""), ".mcp.json", project), layers, variables, scope, project)
        for path, text in sorted(texts.items()):
            _document(path.decode("utf-8", "replace"), text, project)
    return project


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
    """The settings that count; `complain` is told of each other one, by its name and with the reason."""
    kept: Json = {}
    for name, entry in value.items():
        if (name in SCALARS and isinstance(entry, str | int | bool | float)) or (name in OF_SERVERS and scope.hands):
            kept[name] = entry
        elif name == "permissions" and scope.hands and isinstance(entry, dict):
            kept[name] = _permissions(entry, scope, complain)
        elif name == "hooks" and scope.hands and isinstance(entry, dict):
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
        elif name == "defaultMode" and entry in MODES_WITH_HANDS:
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
    for event, groups in value.items():
        for group in groups if isinstance(groups, list) else []:
            if not isinstance(group, dict):
                continue
            mine = [one for hook in group.get("hooks") or [] if (one := _hook(hook, str(event), complain))]
            matcher = {"matcher": group["matcher"]} if isinstance(group.get("matcher"), str) else {}
            kept.setdefault(str(event), []).append({**matcher, "hooks": mine})
    return kept


def _hook(hook: Any, event: str, complain: Any) -> Json | None:
    fields = HOOKS.get(str(hook.get("type")), frozenset()) if isinstance(hook, dict) else frozenset()
    if not fields:
        complain(f"a hook of {event[:40]}", "only hooks of the types command and prompt run in the container")
        return None
    unknown = sorted(set(hook) - fields)
    if unknown:
        complain(f"a hook of {event[:40]}", f"its field {unknown[0][:40]!r} is none that the bridge knows")
        return None
    return dict(hook)


def _merge(project: Project, layers: list[Json]) -> None:
    """One layer over the other: lists add up, single values of the later one win."""
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


# MCP servers


def _servers(config: Json, layers: list[Json], env: Mapping[bytes, bytes], scope: Scope, project: Project) -> None:
    off = {name for layer in layers for name in layer.get("disabledMcpjsonServers") or [] if isinstance(name, str)}
    found = config.get("mcpServers")
    for name, entry in found.items() if isinstance(found, dict) else []:
        if name in off:
            continue
        try:
            project.servers[name] = server(name, _expanded(entry, env), scope)
        except PolicyError as refusal:
            project.notes.append(f".mcp.json: {refusal}")


def servers(value: object, scope: Scope) -> Json:
    """The servers in a client's own configuration, or PolicyError."""
    if not isinstance(value, dict):
        raise PolicyError("the MCP configuration holds no object mcpServers")
    return {str(name): server(str(name), entry, scope) for name, entry in value.items()}


def server(name: str, entry: object, scope: Scope) -> Json:
    """One server, written anew so that it runs in the client or its container, or is reached by the network."""
    kind = entry.get("type") or ("stdio" if "command" in entry else None) if isinstance(entry, dict) else None
    if not isinstance(entry, dict):
        raise PolicyError(f"the MCP server {name[:60]!r} is no object")
    if kind == "sdk":
        return {"type": "sdk", "name": str(entry.get("name", name))}
    if "${" in json.dumps(entry):
        raise PolicyError(f"the MCP server {name[:60]!r} names a variable that the container does not have")
    if kind == "stdio":
        return _stdio(name, entry, scope)
    if kind in ("http", "sse"):
        return _remote(name, kind, entry, scope)
    raise PolicyError(f"the MCP server {name[:60]!r} is of type {str(kind)[:20]!r}, which the bridge does not carry")


def _stdio(name: str, entry: Json, scope: Scope) -> Json:
    if not scope.hands:
        raise PolicyError(f"the MCP server {name[:60]!r} would run on the host; only in-process servers are carried")
    command, args, env = entry.get("command"), entry.get("args") or [], entry.get("env") or {}
    texts = [command, *args] if isinstance(args, list) else [None]
    if not all(isinstance(text, str) and text.isprintable() for text in texts) or not isinstance(env, dict):
        raise PolicyError(f"the MCP server {name[:60]!r} has no command with a list of arguments")
    for variable, value in env.items():
        if not _NAME.fullmatch(str(variable)) or not isinstance(value, str | int | float):
            raise PolicyError(f"the MCP server {name[:60]!r} has a variable that is none: {str(variable)[:40]!r}")
    # Its variables are set in the container, not in the CLI's process, where some mean "run this".
    pairs = [f"{variable}={value}" for variable, value in env.items()]
    words = ["env", *pairs, *texts] if pairs else texts
    return {"type": "stdio", "command": words[0], "args": words[1:]}


def _remote(name: str, kind: str, entry: Json, scope: Scope) -> Json:
    if not scope.web:
        raise PolicyError(f"the MCP server {name[:60]!r} is on the network, which this bridge does not offer")
    unknown = sorted(field for field in entry if field not in ("type", "url", "headers") and entry[field])
    if unknown:
        raise PolicyError(f"the MCP server {name[:60]!r} has {unknown[0][:40]!r}, which could run commands on the host")
    url, headers = entry.get("url"), entry.get("headers") or {}
    if not isinstance(url, str) or not url.startswith(("http://", "https://")) or not isinstance(headers, dict):
        raise PolicyError(f"the MCP server {name[:60]!r} has no address")
    return {"type": kind, "url": url, "headers": {str(key): str(value) for key, value in headers.items()}}


def _expanded(value: Any, env: Mapping[bytes, bytes]) -> Any:
    """`${NAME}` and `${NAME:-default}` by the container's variables, as the CLI would do it by the host's."""

    def look_up(match: re.Match[str]) -> str:
        found = env.get(match[1].encode())
        if found is not None:
            return found.decode("utf-8", "replace")
        return match[0] if match[2] is None else match[2]

    if isinstance(value, str):
        return _VARIABLE.sub(look_up, value)
    if isinstance(value, list):
        return [_expanded(entry, env) for entry in value]
    if isinstance(value, dict):
        return {key: _expanded(entry, env) for key, entry in value.items()}
    return value


# Agents, commands, skills


def _document(name: str, text: bytes, project: Project) -> None:
    found = _FILE.fullmatch(name)
    if not found:
        return
    kind = found[1]
    if kind == "skills" and not name.endswith("/SKILL.md"):
        return
    try:
        head, body = _front_matter(text.decode())
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError):
        project.notes.append(f"{name} is left out: its head is no YAML")
        return
    known = OF_AGENT if kind == "agents" else OF_COMMAND
    for key in sorted(map(str, head.keys() - known)):
        project.notes.append(f"{name}: {key[:60]} is left out: the bridge does not carry it")
    head = {key: value for key, value in head.items() if key in known}
    if kind == "skills":
        folder = name.removesuffix("/SKILL.md")
        body = f"(The files of this skill are in /workspace/{folder}.)\n\n{body}"
    top = f"---\n{yaml.safe_dump(head, allow_unicode=True, width=10_000)}---\n" if head else ""
    project.files[name.removeprefix(".claude/")] = (top + body).encode()


def _front_matter(text: str) -> tuple[Json, str]:
    """The head between two lines of hyphens, and the rest."""
    if not text.startswith("---\n"):
        return {}, text
    head, end, body = text[4:].partition("\n---")
    if not end:
        return {}, text
    try:
        value = yaml.safe_load(head)
    except yaml.YAMLError:
        # People write `description: does this: that`, and the CLI takes it.
        pairs = (line.partition(":") for line in head.split("\n") if ":" in line and not line.startswith((" ", "-")))
        value = {key.strip(): rest.strip() for key, _, rest in pairs}
    return (value if isinstance(value, dict) else {}), body.partition("\n")[2]
