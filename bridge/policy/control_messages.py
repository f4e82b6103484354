"""Control messages: with --input-format stream-json, stdin controls the CLI and is not a prompt.

Each line is parsed, checked and written again. So the CLI never reads bytes that were not understood here, such as
a duplicate key, an unusual line end, or a number that two parsers read differently. A refused control request is
answered with an error in the CLI's place, so that the client's own library raises the error where the request was
made. A refused `initialize` ends the call as well: system prompt, agents and hooks come with it. A line that is no
JSON ends the call, as it does in the CLI itself.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from bridge.policy.flags import agents
from bridge.policy.mcp_servers import servers
from bridge.policy.project_policy import MODES, refusal, settings
from bridge.policy.terms import PolicyError, Scope

MAX_LINE = 16 * 1024 * 1024
"""Size of one message, bytes. The API accepts requests of 32 MiB. An image may have 5 MiB, and base64 adds a third."""

MAX_ID = 256
"""Characters of a name or number that identifies a request or a server."""

MAX_SERVERS = 1000
"""MCP servers whose names a call remembers."""

MAX_TOKENS = 300_000
"""Strings and punctuation marks in one message. Three of them can make an object of some 300 bytes, and 16 MiB
could hold five million."""

MAX_UNCOUNTED = 64 * 1024
"""Size of a line whose strings and marks need no counting, bytes."""

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
"""Messages that are not requests, with their fields that are passed on. Other fields are left out. Other messages are
ignored, as by the CLI, except for those that it acts on."""

ACTING = frozenset({
    "assistant", "bash_command", "session_notice", "system", "update_environment_variables", "workflow_launch",
})  # fmt: skip
"""Messages that the CLI acts on, and that are refused."""

REQUESTS = {
    "interrupt": frozenset(),
    "end_session": frozenset({"reason"}),
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
    "apply_flag_settings": frozenset({"settings"}),
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
"""Control requests that are passed on, with their fields. Any other field is refused unless its value is empty."""

CLOSED = {
    "it changes settings, plugins or servers of the host's Claude Code": frozenset({
        "apply_flag_settings", "reload_connectors", "reload_output_styles", "reload_plugins", "reload_skills",
        "update_settings",
    }),
    "it reads what belongs to the host": frozenset({
        "file_suggestions", "get_binary_version", "get_hooks_listing", "get_memory_dialog", "get_plan",
        "get_sandbox_dialog", "get_session_cost", "get_settings", "get_skills_dialog", "get_status", "get_task_output",
        "get_usage", "get_workspace_diff", "list_directory", "list_models", "list_permission_rules", "read_file",
        "export_conversation",
    }),
    "it acts with the host's account elsewhere": frozenset({
        "code_change_published", "dictate", "get_cloud_session", "get_cloud_session_transcript", "list_cloud_sessions",
        "message_rated", "submit_feedback", "submit_survey_feedback", "update_cloud_session",
    }),
    "it moves the session to another place, or other programs take part in it": frozenset({
        "claim_session", "comparison_fork", "decide_held_peer_message", "get_chrome_browsers", "get_chrome_dialog",
        "log_host_events", "prompt_draft_activity", "register_device_hooks", "register_repo_root",
        "remote_control_work_secret", "remote_plumbing_call", "remote_tool_call", "remote_tools_announce",
        "remote_tools_probe", "remote_tools_reannounce", "rename_session", "select_chrome_browser",
        "set_chrome_browser_hints", "set_color", "set_cwd", "set_has_subscribers", "set_message_waiting",
        "set_peer_delivery", "set_prompt_suggestions_paused", "turn_handoff", "upload_device_hook_template",
        "vcs_state_changed",
    }),
    "it is for a program that draws the interface": frozenset({
        "ui_attach", "ui_client_fault", "ui_client_module", "ui_client_press", "ui_close", "ui_copy", "ui_detach",
        "ui_focus", "ui_input", "ui_message", "ui_pane_focus", "ui_pane_show", "ui_panes", "ui_press",
        "ui_prompt_autocomplete", "ui_prompt_edit", "ui_prompt_fill", "ui_prompt_paint", "ui_prompt_read",
        "ui_prompt_suggest", "ui_read_selection", "ui_render", "ui_scroll", "ui_select",
    }),
    "it lets a tool act without the model": frozenset({
        "mcp_call", "set_mcp_permission_mode_override", "start_shell_task",
    }),
    "only the CLI itself asks this": frozenset({
        "can_use_tool", "elicitation", "hook_callback", "host_auth_token_refresh", "oauth_token_refresh",
        "request_user_dialog",
    }),
}  # fmt: skip
"""Control requests that are not passed on, by the reason. A request of a newer CLI is in no table, and is not passed
on either."""

REASONS = {subtype: reason for reason, subtypes in CLOSED.items() for subtype in subtypes}

_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[{\[,:]', re.DOTALL)
"""Matches strings and punctuation marks. An unterminated string matches up to the end of the line, so that each
byte is examined only once."""

ABOUT_A_SERVER = frozenset({"mcp_reconnect", "mcp_toggle", "mcp_read_resource"})


class ControlFilter:
    """Filters the stdin of one call."""

    def __init__(self, scope: Scope, prompt_addition: str = "", servers: Iterable[str] = ()) -> None:
        """`told` is the text that the bridge adds to the system prompt. A request of the client could replace it,
        so it is added there again. `servers` are the names of the MCP servers that were checked with the arguments."""
        self._scope = scope
        self.servers = set(servers)
        """Names of all servers that were checked so far."""
        self.prompt_addition = prompt_addition
        self._rest = bytearray()
        self._searched = 0
        self.lines = 0
        """Number of lines that were checked."""
        self.kind = ""
        """The type of the newest message."""
        self.answers = ""
        """The id of the request that the newest message answers, or nothing."""
        self.refusals: list[tuple[str, str]] = []
        """For the audit log: what was refused, and why."""

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the bytes for the CLI, and the answers to the client in the CLI's place.

        Raises PolicyError if the stream cannot go on.
        """
        self._rest += data
        passed, answered = [], []
        while (end := self._rest.find(b"\n", self._searched)) >= 0:
            line = bytes(self._rest[:end])
            del self._rest[: end + 1]
            self._searched = 0
            to_cli, to_client = self.judge(line)
            passed.append(to_cli)
            answered.append(to_client)
        self._searched = len(self._rest)
        if self._searched > MAX_LINE:
            raise PolicyError(f"a message on stdin is longer than {MAX_LINE} bytes")
        return b"".join(passed), b"".join(answered)

    def finish(self) -> tuple[bytes, bytes]:
        """Handle a last line without a line feed. Returns and raises the same as `feed`."""
        return self.feed(b"\n") if self._rest else (b"", b"")

    def judge(self, line: bytes) -> tuple[bytes, bytes]:
        """Handle one whole line, without its line feed. Returns and raises the same as `feed`."""
        self.lines += 1
        if not line.strip():
            return b"", b""
        message = self._parse(line)
        kind = message.get("type") if isinstance(message, dict) else None
        self.kind, self.answers = kind if isinstance(kind, str) else "", _answered(message)
        if not isinstance(message, dict) or not isinstance(kind, str):
            return b"", b""
        if kind == "control_request":
            return self._request(message)
        if kind in ACTING:
            raise PolicyError(f"message {self.lines} on stdin is of type {{}}, which is not passed on", kind)
        fields = MESSAGES.get(kind)
        if fields is None:
            return b"", b""
        return _line({name: value for name, value in message.items() if name in fields}), b""

    def _parse(self, line: bytes) -> Any:
        """Return the value of a line. Raises PolicyError."""
        if len(line) > MAX_UNCOUNTED and any(itertools.islice(_TOKEN.finditer(line), MAX_TOKENS, None)):
            raise PolicyError(f"message {self.lines} on stdin holds more than {MAX_TOKENS} values and signs")
        try:
            message = json.loads(line.decode("utf-8-sig"), parse_constant=_no_constant)
        except (ValueError, RecursionError):
            message = None
        if message is None:
            raise PolicyError(f"line {self.lines} on stdin is no JSON")
        return message

    def _request(self, message: Json) -> tuple[bytes, bytes]:
        request, request_id = message.get("request"), message.get("request_id")
        if not isinstance(request, dict) or not isinstance(request_id, str) or len(request_id) > MAX_ID:
            raise PolicyError(f"message {self.lines} on stdin is a control request without request or request_id")
        try:
            judged = self._judge_request(request)
        except PolicyError as refusal:
            subtype = request.get("subtype")
            error = {"subtype": "error", "request_id": request_id, "error": f"bridge: refused: {refusal}"}
            answer = _line({"type": "control_response", "response": error})
            if subtype == "initialize":  # without it, the session would go on with less than was asked for
                refusal.answer = answer
                raise
            known = isinstance(subtype, str) and subtype in REQUESTS
            self.refusals.append((str(subtype) if known else "unknown", refusal.kind))
            return b"", answer
        return _line({"type": "control_request", "request_id": request_id, "request": judged}), b""

    def _judge_request(self, request: Json) -> Json:
        subtype = request.get("subtype")
        fields = REQUESTS.get(subtype) if isinstance(subtype, str) else None
        if not self._scope.permits(f"control:{subtype}", by_default=fields is not None):
            why = REASONS.get(subtype, "the bridge does not know it") if isinstance(subtype, str) else "it has no name"
            why = "the host's operator refuses it" if fields is not None else why
            raise PolicyError(f"the control request {{}} is not passed on: {why}", subtype)
        if fields is None:
            return request
        for name in sorted(set(request) - fields - {"subtype"}):
            if request[name]:
                raise PolicyError(f"{subtype} with {{}} could act on the host; leave it out", name)
        judged = {name: value for name, value in request.items() if name in fields or name == "subtype"}
        if self.prompt_addition and isinstance(judged.get("appendSystemPrompt"), str):
            judged["appendSystemPrompt"] += "\n\n" + self.prompt_addition
        judged = _narrow(judged, self._scope)
        self._check_server(judged)
        return judged

    def _check_server(self, request: Json) -> None:
        """Remember the servers that a request adds. Refuse a request about any other server: the CLI would search
        for it outside of this call."""
        if request["subtype"] == "mcp_set_servers":
            self.servers |= request["servers"].keys()
        elif request["subtype"] == "initialize":
            named = request.get("sdkMcpServers")
            self.servers |= {name for name in named if isinstance(name, str)} if isinstance(named, list) else set()
        elif request["subtype"] in ABOUT_A_SERVER and not self._knows(request.get("serverName")):
            raise PolicyError("there is no MCP server {} in this call", request.get("serverName"))
        if len(self.servers) > MAX_SERVERS or any(len(name) > MAX_ID for name in self.servers):
            raise PolicyError(f"a call has at most {MAX_SERVERS} MCP servers, with names of {MAX_ID} characters")

    def _knows(self, server: object) -> bool:
        return isinstance(server, str) and server in self.servers


def _answered(message: Any) -> str:
    """Return the id of the request that a message answers, or nothing."""
    response = message.get("response") if isinstance(message, dict) else None
    number = response.get("request_id") if isinstance(response, dict) else None
    return number if isinstance(number, str) else ""


def _narrow(request: Json, scope: Scope) -> Json:
    """Check the fields of a known request that can contain more than text."""
    if request.get("agents"):
        request["agents"] = agents(request["agents"], scope)
    if request["subtype"] == "mcp_set_servers":
        request["servers"] = servers(request.get("servers"), scope)
    if request["subtype"] == "apply_flag_settings":
        request["settings"] = _settings(request.get("settings"), scope)
    mode = request.get("mode")
    is_harmless = isinstance(mode, str) and (mode in MODES or scope.runs_commands)  # the CLI refuses unknown ones
    if request["subtype"] == "set_permission_mode" and not is_harmless:
        raise PolicyError("the permission mode {} lets the model act unasked", mode)
    configs = request.get("sdkMcpServerConfigs") or {}
    for config in configs.values() if isinstance(configs, dict) else [configs]:
        if not isinstance(config, dict) or {"command", "url", "args", "env"} & config.keys():
            raise PolicyError("an in-process MCP server comes with a command or an address")
    return request


def _settings(value: object, scope: Scope) -> Json:
    """Return the allowed settings, without those that have no effect here. Raises PolicyError for others."""

    def complain(what: str, why: str, matters: bool) -> None:
        if matters:
            raise refusal(what, why)

    if not isinstance(value, dict):
        raise PolicyError("apply_flag_settings comes with no object of settings")
    if value.get("env"):
        raise PolicyError("the setting env comes too late; give variables with the call, or in its --settings")
    return {name: entry for name, entry in settings(value, scope, complain).items() if name != "env"}


def _line(message: Json) -> bytes:
    """Return the message as one line of ASCII. Raises PolicyError if JSON cannot express it (an infinite number,
    for example)."""
    try:
        return json.dumps(message, allow_nan=False, separators=(",", ":")).encode() + b"\n"
    except (ValueError, RecursionError):
        raise PolicyError("a message on stdin cannot be written as JSON") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
