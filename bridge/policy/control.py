"""Control messages: with --input-format stream-json, stdin is a remote control of the CLI, not a prompt.

Each line is parsed, judged and written anew, so that the CLI never reads a byte that was not understood here
(a second key of the same name, an odd line end, a number that two parsers read in two ways). A refused
control request is answered in the CLI's place, as an error, so that the client's own library raises it
where it was asked; a line that is no message at all ends the call, as it does in the CLI itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NoReturn

from bridge.policy.flags import agents
from bridge.policy.project import MODES, MODES_WITH_HANDS, servers
from bridge.policy.scope import PolicyError, Scope

MAX_LINE = 16 * 1024 * 1024
"""Bytes of one message. The API takes 32 MiB for a request and an image may have 5 MiB, a third more as
base64."""

Json = dict[str, Any]

MESSAGES = {
    "user": frozenset({
        "type", "message", "parent_tool_use_id", "session_id", "uuid", "priority", "isSynthetic", "timestamp",
        "client_composed", "shouldQuery", "origin",
    }),
    "control_response": frozenset({"type", "response"}),
    "control_cancel_request": frozenset({"type", "request_id"}),
    "keep_alive": frozenset({"type"}),
}  # fmt: skip
"""Messages that are no requests, and the fields of each that are passed on; others are left out."""

REQUESTS = {
    "interrupt": frozenset(),
    "set_model": frozenset({"model"}),
    "set_max_thinking_tokens": frozenset({"max_thinking_tokens", "thinking_display"}),
    "set_permission_mode": frozenset({"mode"}),
    "mcp_status": frozenset(),
    "mcp_message": frozenset({"server_name", "message"}),
    "mcp_set_servers": frozenset({"servers"}),
    "mcp_reconnect": frozenset({"serverName"}),
    "mcp_toggle": frozenset({"serverName", "enabled"}),
    "mcp_read_resource": frozenset({"serverName", "uri"}),
    "rewind_files": frozenset({"user_message_id", "dry_run"}),
    "cancel_async_message": frozenset({"message_uuid"}),
    "stop_task": frozenset({"task_id"}),
    "background_tasks": frozenset({"tool_use_id"}),
    "seed_read_state": frozenset({"path", "mtime"}),
    "get_context_usage": frozenset(),
    "generate_session_title": frozenset({"description", "persist"}),
    "side_question": frozenset({"question", "history"}),
    "initialize": frozenset({
        "hooks", "sdkMcpServers", "sdkMcpServerManifests", "jsonSchema", "systemPrompt", "appendSystemPrompt",
        "planModeInstructions", "systemPromptSnapshot", "appendSubagentSystemPrompt", "toolAliases",
        "excludeDynamicSections", "agents", "title", "skills", "promptSuggestions", "agentProgressSummaries",
        "forwardSubagentText", "supportedDialogKinds", "perTaskStopAffordance", "rapidFollowupPreempt",
        "forwardNestedSubagentToolCalls", "disallowedTools", "sdkMcpServerConfigs",
        "webSearchIsolationExemptMcpServers",
    }),
}  # fmt: skip
"""Control requests that are passed on, with their fields. Any other field that holds something is refused."""


ABOUT_A_SERVER = frozenset({"mcp_reconnect", "mcp_toggle", "mcp_read_resource"})


class ControlFilter:
    """The stream of one call's stdin."""

    def __init__(self, scope: Scope, told: str = "", servers: Iterable[str] = ()) -> None:
        """`told` is what the bridge adds to the system prompt, which a request of the client would replace; `servers`
        are the names of the MCP servers that were judged with the arguments."""
        self._scope = scope
        self._servers = set(servers)
        self._prompt = told
        self._rest = bytearray()
        self._searched = 0
        self._lines = 0
        self.refusals: list[tuple[str, str]] = []
        """Sentences for the audit log: what was refused, and why."""

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """What goes on to the CLI, and what is answered to the client in its place.

        PolicyError: the stream cannot go on.
        """
        self._rest += data
        passed, answered = [], []
        while (end := self._rest.find(b"\n", self._searched)) >= 0:
            line = bytes(self._rest[:end])
            del self._rest[: end + 1]
            self._searched = 0
            to_cli, to_client = self._judge(line)
            passed.append(to_cli)
            answered.append(to_client)
        self._searched = len(self._rest)
        if self._searched > MAX_LINE:
            raise PolicyError(f"a message on stdin is longer than {MAX_LINE} bytes")
        return b"".join(passed), b"".join(answered)

    def finish(self) -> tuple[bytes, bytes]:
        """The last line, when it has no line feed."""
        return self.feed(b"\n") if self._rest else (b"", b"")

    def _judge(self, line: bytes) -> tuple[bytes, bytes]:
        self._lines += 1
        if not line.strip():
            return b"", b""
        message = self._parse(line)
        kind = message.get("type")
        if kind == "control_request":
            return self._request(message)
        if kind not in MESSAGES:
            raise PolicyError(f"message {self._lines} on stdin is of type {kind!r}, which is not passed on")
        return _line({name: value for name, value in message.items() if name in MESSAGES[kind]}), b""

    def _parse(self, line: bytes) -> Json:
        try:
            message = json.loads(line.decode(), parse_constant=_no_constant)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise PolicyError(f"line {self._lines} on stdin is no JSON object")
        return message

    def _request(self, message: Json) -> tuple[bytes, bytes]:
        request, request_id = message.get("request"), message.get("request_id")
        if not isinstance(request, dict) or not isinstance(request_id, str):
            raise PolicyError(f"message {self._lines} on stdin is a control request without request or request_id")
        try:
            judged = self._judge_request(request)
        except PolicyError as refusal:
            self.refusals.append((str(request.get("subtype"))[:80], str(refusal)))
            error = {"subtype": "error", "request_id": request_id, "error": f"bridge: refused: {refusal}"}
            return b"", _line({"type": "control_response", "response": error})
        return _line({"type": "control_request", "request_id": request_id, "request": judged}), b""

    def _judge_request(self, request: Json) -> Json:
        subtype = request.get("subtype")
        fields = REQUESTS.get(subtype) if isinstance(subtype, str) else None
        if not self._scope.permits(f"control:{subtype}", by_default=fields is not None):
            raise PolicyError(f"the control request {str(subtype)[:80]!r} could act on the host; it is not passed on")
        if fields is None:
            return request
        for name in sorted(set(request) - fields - {"subtype"}):
            if request[name]:
                raise PolicyError(f"{subtype} with {name[:80]!r} could act on the host; leave it out")
        judged = {name: value for name, value in request.items() if name in fields or name == "subtype"}
        if self._prompt and isinstance(judged.get("appendSystemPrompt"), str):
            judged["appendSystemPrompt"] = self._prompt + "\n\n" + judged["appendSystemPrompt"]
        judged = _narrow(judged, self._scope)
        self._check_server(judged)
        return judged

    def _check_server(self, request: Json) -> None:
        """A request about a server names one that was judged: the CLI would look for others where it pleases."""
        if request["subtype"] == "mcp_set_servers":
            self._servers |= request["servers"].keys()
        elif request["subtype"] == "initialize":
            named = request.get("sdkMcpServers")
            self._servers.update(map(str, named if isinstance(named, list) else []))
        elif request["subtype"] in ABOUT_A_SERVER and request.get("serverName") not in self._servers:
            raise PolicyError(f"there is no MCP server {str(request.get('serverName'))[:60]!r} in this call")


def _narrow(request: Json, scope: Scope) -> Json:
    """Judge the fields of a known request that can hold more than words."""
    if request.get("agents"):
        request["agents"] = agents(request["agents"])
    if request["subtype"] == "mcp_set_servers":
        request["servers"] = servers(request.get("servers"), scope)
    modes = MODES_WITH_HANDS if scope.hands else MODES
    if request["subtype"] == "set_permission_mode" and request.get("mode") not in modes:
        raise PolicyError(f"the permission mode {str(request.get('mode'))[:40]!r} lets the model act unasked")
    for config in (request.get("sdkMcpServerConfigs") or {}).values():
        if not isinstance(config, dict) or {"command", "url", "args", "env"} & config.keys():
            raise PolicyError("an in-process MCP server comes with a command or an address")
    return request


def _line(message: Json) -> bytes:
    """One line of ASCII. What cannot be written so was never a message (lone infinities, for one)."""
    try:
        return json.dumps(message, allow_nan=False, separators=(",", ":")).encode() + b"\n"
    except (ValueError, RecursionError):
        raise PolicyError("a message on stdin cannot be written as JSON") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
