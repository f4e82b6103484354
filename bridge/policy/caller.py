"""What a client says about itself beside its arguments: its directory, and the texts of the files that flags name."""

from __future__ import annotations

import dataclasses
import json
import posixpath
from collections.abc import Iterable, Mapping
from typing import Any

from bridge.policy.mcp_servers import with_variables
from bridge.policy.terms import WORKSPACE, CliError, PolicyError, decoded

MAX_TEXT = 96 * 1024
"""Bytes of a file that a flag names. Our client keeps this limit (flag_files.py); others may not."""

MEANINGS = {
    "ENOENT": "no such file or directory, open '{path}'",
    "ENOTDIR": "not a directory, open '{path}'",
    "EACCES": "permission denied, open '{path}'",
    "EISDIR": "illegal operation on a directory, read",
}
"""What the CLI says about errors of files."""


class Unreadable(Exception):
    """The client could not read a file. `error` is a name such as `ENOENT`; the text is as the CLI prints it."""

    def __init__(self, error: str, path: str) -> None:
        super().__init__(f"{error}: {MEANINGS.get(error, 'cannot be read').format(path=path)}")
        self.is_missing = error == "ENOENT"
        self.path = path


@dataclasses.dataclass
class Caller:
    """The circumstances of one call. The checks of flags add to `notes` and `env`."""

    cwd: str = WORKSPACE
    texts: Mapping[str, tuple[str, bytes]] = dataclasses.field(default_factory=dict)
    """For each name of a file: the name of an error or nothing, and the text."""
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The container's variables, for MCP servers alone."""
    notes: list[str] = dataclasses.field(default_factory=list)
    """One line for each thing that is left out."""
    env: dict[str, str] = dataclasses.field(default_factory=dict)
    """Variables that --settings sets."""

    @classmethod
    def of(cls, cwd: str, texts: Iterable[bytes], variables: Mapping[str, str]) -> Caller:
        """Read what the client sent. Each of `texts` is a name, an error or nothing, and a text, between line
        feeds."""
        found: dict[str, tuple[str, bytes]] = {}
        for sent in texts:
            name, error, text = (*sent.split(b"\n", 2), b"", b"")[:3]
            fault = "EFBIG" if len(text) > MAX_TEXT else error.decode("ascii", "replace")[:16]
            found[name.decode("utf-8", "surrogateescape")] = (fault, text)
        return cls(cwd, found, variables)

    def path(self, name: str) -> str:
        """Return the whole path of a file in the container, for messages only."""
        return posixpath.normpath(posixpath.join(self.cwd, name))

    def text(self, name: str) -> str:
        """Return the text of a file of the container, in UTF-8. Raises what `content` raises."""
        return self.content(name).decode("utf-8", "replace")

    def content(self, name: str) -> bytes:
        """Return the bytes of a file of the container. Raises Unreadable, and PolicyError for one that is too long.

        The file is never looked for on the host: only what the client has sent counts.
        """
        if name not in self.texts:
            raise PolicyError("the client sent no text of the file {}", name)
        error, text = self.texts[name]
        if error == "EFBIG":
            raise PolicyError(f"the file {{}} is longer than {MAX_TEXT} bytes; make it shorter", name)
        if error:
            raise Unreadable(error, self.path(name))
        return text


def parsed(text: str) -> Any:
    """Return the value of a JSON text. Raises ValueError for anything else."""
    try:
        return json.loads(text.removeprefix("\ufeff"), parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def prompt_of(name: str, kind: str, caller: Caller) -> str:
    """Return the text of a file for the system prompt, without line feeds at its end. `kind` begins the CLI's sentence,
    as in `System prompt`."""
    try:
        return caller.text(name).rstrip("\n").replace("\0", " ")
    except Unreadable as error:
        if error.is_missing:
            raise CliError(f"Error: {kind} file not found: {error.path}") from None
        raise CliError(f"Error reading {kind[0].lower()}{kind[1:]} file: {error}") from None


def settings_of(value: str, caller: Caller) -> dict[str, Any]:
    """Return the settings of a value: JSON, or the name of a file. Broken files count as empty, as in the CLI."""
    text = value.strip()
    if text.startswith("{") and text.endswith("}"):
        try:
            found = parsed(text)
        except ValueError:
            raise CliError("Error: Invalid JSON provided to --settings") from None
        return dict(found)
    try:
        found = parsed(decoded(caller.content(value)))
    except Unreadable as error:
        if error.is_missing:
            raise CliError(f"Error: Settings file not found: {error.path}") from None
        raise CliError(f"Error: Cannot use settings file ({error}): {error.path}") from None
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    caller.notes.append("the file of --settings is left out: it is no JSON object")
    return {}


def servers_of(values: Iterable[str], caller: Caller) -> dict[str, Any]:
    """Return the MCP servers of several values, each JSON or the name of a file. The last one of a name counts."""
    found: dict[str, Any] = {}
    faults: list[str] = []
    for value in filter(None, values):
        config, fault = _configuration(value, caller)
        faults += [fault] if fault else []
        found |= config
    if faults:
        raise CliError("\n".join(["Error: Invalid MCP configuration:", *faults]))
    return found


def _configuration(value: str, caller: Caller) -> tuple[dict[str, Any], str]:
    """Return the servers of one value, and what the CLI finds wrong with it."""
    try:
        config = parsed(with_variables(value, caller.variables))
    except ValueError:
        try:
            config = parsed(with_variables(caller.text(value), caller.variables))
        except Unreadable as error:
            missing = f"MCP config file not found: {error.path}"
            return {}, missing if error.is_missing else f"Failed to read file: Error: {error}"
        except ValueError:
            return {}, "MCP config is not a valid JSON"
    if not isinstance(config, dict):
        return {}, f"Invalid input: expected object, received {_kind(config)}"
    found = config.get("mcpServers")
    if not isinstance(found, dict):
        kind = _kind(found) if "mcpServers" in config else "undefined"
        return {}, f"mcpServers: Invalid input: expected record, received {kind}"
    return found, ""


def agents_of(value: str, caller: Caller) -> object:
    """Return the definitions of agents in a value: JSON, or the name of a file."""
    is_inline = value.lstrip()[:1] in ("{", "[", "")
    path = caller.path(value)
    try:
        found = parsed(value if is_inline else caller.text(value))
    except Unreadable as error:
        if error.is_missing:
            why = "(a value that is not a JSON object is read as a file path)"
            raise CliError(f"Error: --agents file not found: {path} {why}") from None
        raise CliError(f"Error: --agents file cannot be read: {path} ({error})") from None
    except ValueError as error:
        raise CliError(f"Error: Invalid --agents configuration:\ninvalid JSON: {error}") from None
    if not isinstance(found, dict):
        what = f"Invalid input: expected record, received {_kind(found)}"
        raise CliError(f"Error: Invalid --agents configuration:\n{what}")
    return found


def _kind(value: object) -> str:
    """Return the name of a value's type in the CLI's messages."""
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")
