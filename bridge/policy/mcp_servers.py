"""Filters MCP servers: those of the project's .mcp.json, and those that a client names itself.

A stdio server runs in the container. A server on the network is reached through the proxy. As in the CLI, fields
that it does not know are ignored, and an entry that it would skip (a number among the arguments, for example) starts
nothing. What is left is written again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from bridge.policy.terms import PolicyError, Scope

Json = dict[str, Any]

HELPER = "it is a command that would run on the host; write the header itself, with variables"

MAX_VALUE = 16 * 1024
"""Bytes of a variable that is used in a server's entry. Our client sends no longer ones."""

MAX_SERVER = 64 * 1024
"""Characters of a server's entry, with its variables replaced."""

MAX_SERVERS = 112 * 1024
"""Characters of all entries of a project, and of those of one value of a client. The CLI gets them as one argument, of
at most 128 KiB."""

MAX_REFUSED = 50
"""Entries of a project that cannot be used, until the rest is not looked at. Each can take 0.1 ms."""


def _text(value: object) -> bool:
    return isinstance(value, str)


def _words(value: object) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _texts(value: object) -> bool:
    return isinstance(value, dict) and all(map(_text, value.values()))


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 2**53 and value % 1 == 0


def _switch(value: object) -> bool:
    return isinstance(value, bool)


def _oauth(value: object) -> bool:
    return isinstance(value, dict) and all(OF_OAUTH[field](value[field]) for field in OF_OAUTH if field in value)


OF_OAUTH: dict[str, Callable[[object], bool]] = {
    "authServerMetadataUrl": lambda value: isinstance(value, str) and value.startswith("https://"),
    "callbackPort": _positive,
    "clientId": _text,
    "scopes": lambda value: _text(value) and value != "",
}
OF_ALL: dict[str, Callable[[object], bool]] = {"timeout": _positive, "alwaysLoad": _switch}
OF_STDIO = {"command": lambda value: _text(value) and value != "", "args": _words, "env": _texts, **OF_ALL}
OF_REMOTE = {
    "url": _text,
    "headers": _texts,
    "headersHelper": _text,
    "oauth": _oauth,
    **OF_ALL,
}
KINDS = {
    "stdio": ("command", OF_STDIO),
    "http": ("url", OF_REMOTE),
    "streamable-http": ("url", OF_REMOTE),
    "sse": ("url", OF_REMOTE),
    "ws": ("url", OF_REMOTE),
}
"""The kinds of servers that the CLI can start from a file: the field that is needed, and all fields with the values
that the CLI accepts."""


def of_project(
    found: Json, layers: Iterable[Json], env: Mapping[str, str], scope: Scope, asks: bool, note: Any
) -> Json:
    """Return the servers of .mcp.json that are used. `note` is called with a sentence about what is left out.

    `layers` are the project's settings. `asks` says whether the CLI would ask a person about each server that the
    settings do not name. The grant is the answer, unless the settings name some.
    """
    chosen = Chosen(layers)
    kept: Json = {}
    left, refused = MAX_SERVERS, 0
    for name, entry in found.items():
        if name in chosen.off or not is_accepted(entry):
            continue
        if asks and not chosen.takes(name):
            note(f"the MCP server {name!r} is left out: enabledMcpjsonServers names others")
            continue
        if "headersHelper" in entry:
            note(f"headersHelper of the MCP server {name!r} is left out: {HELPER}")
            entry = {field: value for field, value in entry.items() if field != "headersHelper"}
        try:
            kept[name] = server(name, expanded(name, entry, env), scope)
        except PolicyError as refusal:
            note(str(refusal))
            refused += 1
            if refused == MAX_REFUSED:
                note(f"the MCP servers after {name!r} are left out: too many before it cannot be used")
                break
            continue
        left -= len(json.dumps({name: kept[name]}))
        if left < 0:
            del kept[name]
            note(f"the MCP servers from {name!r} on are left out: together they are longer than {MAX_SERVERS} bytes")
            break
    return kept


class Chosen:
    """Which servers the project's settings switch on and off."""

    def __init__(self, layers: Iterable[Json]) -> None:
        self._on: set[str] = set()
        self._all = False
        self.off: set[str] = set()
        for layer in layers:
            self._on |= _names(layer.get("enabledMcpjsonServers"))
            self.off |= _names(layer.get("disabledMcpjsonServers"))
            self._all = layer.get("enableAllProjectMcpServers", self._all) is True

    def takes(self, name: str) -> bool:
        """Return whether the settings name the server, or none at all."""
        return self._all or not self._on or name in self._on


def _names(value: object) -> set[str]:
    return {name for name in value if isinstance(name, str)} if isinstance(value, list) else set()


def servers(value: object, scope: Scope) -> Json:
    """Return the servers in a client's own configuration. Raises PolicyError."""
    if not isinstance(value, dict):
        raise PolicyError("the MCP configuration holds no object mcpServers")
    return {str(name): server(str(name), entry, scope) for name, entry in value.items()}


def is_accepted(entry: object) -> bool:
    """Return whether the CLI starts a server for this entry of a file. It skips any other one."""
    if not isinstance(entry, dict):
        return False
    kind = entry.get("type", "stdio")
    if not isinstance(kind, str) or kind not in KINDS:
        return False
    needed, fields = KINDS[kind]
    return needed in entry and all(is_right(entry[field]) for field, is_right in fields.items() if field in entry)


def server(name: str, entry: object, scope: Scope) -> Any:
    """Return one server, rewritten so that it runs in the client or its container, or is reached over the network.

    An entry that the CLI skips can be anything. It is returned without what it says, and the CLI says why it skips
    it. Raises PolicyError if the server would run on the host, or names a variable of the host's.
    """
    if isinstance(entry, dict) and entry.get("type") == "sdk":
        own = entry.get("name", name)
        return {"type": "sdk", "name": own if isinstance(own, str) else name}
    if not isinstance(entry, dict) or not is_accepted(entry):
        return _skipped(entry)
    kind = entry.get("type", "stdio")
    kept = _stdio(name, entry, scope) if kind == "stdio" else _remote(name, kind, entry, scope)
    if "${" in written(kept).replace(DOLLAR, ""):
        raise PolicyError("the MCP server {} names a variable, and here variables are not replaced", name)
    return kept | {field: entry[field] for field in OF_ALL if field in entry}


def _skipped(entry: object) -> Any:
    """Return an entry that the CLI skips, with empty values of the same types."""
    if not isinstance(entry, dict):
        return _emptied(entry)
    kind = entry.get("type", "stdio")
    _, fields = KINDS.get(str(kind), ("", {}))
    kept = {field: _emptied(entry[field]) for field in fields if field in entry}
    for field in ("command", "url"):
        if field in kept and fields[field](entry[field]):
            kept[field] = "-"  # it is none of the reasons
    return kept | ({"type": kind if isinstance(kind, str) else _emptied(kind)} if "type" in entry else {})


def _emptied(value: object, levels: int = 2) -> Any:
    if isinstance(value, dict):
        return {name: _emptied(entry, levels - 1) for name, entry in value.items()} if levels else {}
    if isinstance(value, list):
        return [_emptied(entry, levels - 1) for entry in value] if levels else []
    return None if value is None else type(value)()


def _stdio(name: str, entry: Json, scope: Scope) -> Json:
    if not scope.runs_commands:
        raise PolicyError("the MCP server {} would run on the host; only in-process servers are carried", name)
    words = [entry["command"], *entry.get("args", [])]
    # Its variables are set in the container, not in the CLI's process, where some of them would start programs.
    pairs = [f"{key}={value}" for key, value in entry.get("env", {}).items() if _NAME.fullmatch(key)]
    words = ["env", *pairs, *words] if pairs else words
    return {"type": "stdio", "command": words[0], "args": words[1:]}


_NAME = re.compile(r"[^-=\0][^=\0]*")


def _remote(name: str, kind: str, entry: Json, scope: Scope) -> Json:
    if not scope.web:
        raise PolicyError("the MCP server {} is on the network, which this bridge does not offer", name)
    if "headersHelper" in entry:
        raise PolicyError(f"headersHelper of the MCP server {{}} is not passed on: {HELPER}", name)
    kept: Json = {"type": kind, "url": _address(name, entry["url"]), "headers": entry.get("headers", {})}
    oauth = {field: entry["oauth"][field] for field in OF_OAUTH if field in entry.get("oauth", {})}
    return kept | ({"oauth": oauth} if oauth else {})


def _address(name: str, url: str) -> str:
    """Return a server's address, or one that is none if it cannot be parsed with certainty.

    The proxy, which decides, refuses names in .invalid as well.
    """
    try:
        host = urlsplit(url.replace(DOLLAR, "${")).hostname or ""
    except ValueError:
        host = ""
    if unquote(host).lower().rstrip(".").endswith(".invalid"):
        raise PolicyError("the MCP server {} is on no public server: names in .invalid are the bridge's own", name)
    return url if host or not url.strip() else "-"


# Variables

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?\Z", re.DOTALL)
"""A reference, up to its closing brace. It is searched for in what precedes each brace, because a search through
the whole text could take a time that grows with the square of its length."""

DOLLAR = "${CLAUDE_BRIDGE_NOTHING:-${}"
"""What the CLI turns into `${`: a variable that does not exist, with `${` as its default. So the CLI never looks up
a variable of its own for a server, and text that looks like one stays as it is."""

EXPANDED = ("command", "args", "env", "url", "headers")
"""The fields in which the CLI replaces variables."""


def expanded(name: str, entry: Any, env: Mapping[str, str]) -> Any:
    """Return an entry with `${NAME}` and `${NAME:-default}` replaced with the container's variables.

    As in the CLI, a reference to a variable that does not exist stays as text. Raises PolicyError.
    """
    if not isinstance(entry, dict):
        return entry
    expansion = _Expansion(name, env)
    try:
        return {field: expansion.of(value) if field in EXPANDED else value for field, value in entry.items()}
    except RecursionError:
        raise PolicyError("the MCP server {} is nested too deeply", name) from None


def with_variables(text: str, env: Mapping[str, str]) -> str:
    """Return a client's own configuration with its servers expanded. What is no such configuration stays as it is.

    Raises PolicyError.
    """
    try:
        value = json.loads(text)
        entries = value.get("mcpServers").items()
    except (ValueError, RecursionError, AttributeError):
        return text
    found, left = {}, MAX_SERVERS
    for name, entry in entries:
        found[name] = expanded(name, entry, env)
        left -= len(written({name: found[name]}))
        if left < 0:
            raise PolicyError(f"the MCP servers are longer than {MAX_SERVERS} bytes together")
    return written({"mcpServers": found})


def variables(pairs: Iterable[bytes]) -> dict[str, str]:
    """Return the container's variables, from `NAME=value`."""
    found = (pair.partition(b"=")[::2] for pair in pairs)
    return {_decoded(name): _decoded(value) for name, value in found if len(value) <= MAX_VALUE}


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "replace")


class _Expansion:
    """Replaces the variables of one entry, up to a total length."""

    def __init__(self, name: str, env: Mapping[str, str]) -> None:
        self._name = name
        self._env = env
        self._left = MAX_SERVER

    def of(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.of(entry) for entry in value]
        if isinstance(value, dict):
            return {key: self.of(entry) for key, entry in value.items()}
        if not isinstance(value, str):
            return value
        self._take(len(value) + value.count("${") * len(DOLLAR))
        *closed, rest = value.split("}")
        return "".join([*map(self._closed, closed), rest]).replace("${", DOLLAR)

    def _closed(self, part: str) -> str:
        """Return what precedes a closing brace and the brace, with the reference that it closes replaced."""
        match = _REFERENCE.search(part)
        if match is None:
            return part + "}"
        text: str | None = self._env.get(match[1], match[2])
        if text is None:
            return part + "}"
        self._take(len(text) + text.count("${") * len(DOLLAR))
        return part[: match.start()] + text

    def _take(self, length: int) -> None:
        self._left -= length
        if self._left < 0:
            raise PolicyError(f"the MCP server {{}} is longer than {MAX_SERVER} characters", self._name)


def written(value: object) -> str:
    """Return checked JSON as text. Raises PolicyError if it is nested too deeply."""
    try:
        return json.dumps(value)
    except RecursionError:
        raise PolicyError("JSON is nested too deeply") from None
