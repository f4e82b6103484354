"""For all JSON from a container, each reader returns a result or refuses it, and all printed text is printable."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.policy import PolicyError, Scope
from bridge.policy.argv import rewrite
from bridge.policy.control_messages import MAX_LINE, REQUESTS, ControlFilter
from bridge.policy.project_policy import read
from bridge.policy.terms import MAX_SENTENCE, printable, shown
from bridge.protocol.frames import Fields
from bridge.server.operator.cli import main
from bridge.server.policy_worker import pack, plan_of, unpack

WITH_COMMANDS = Scope(runs_commands=True, web=True)
OFTEN = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

NAMES = sorted({
    "hooks", "Stop", "PreToolUse", "matcher", "type", "command", "prompt", "timeout", "args", "if", "permissions",
    "allow", "deny", "ask", "defaultMode", "additionalDirectories", "disabledMcpjsonServers", "enabledMcpjsonServers",
    "mcpServers", "env", "url", "headers", "name", "sdk", "http", "stdio", "servers", "serverName", "mode", "agents",
    "sdkMcpServers", "sdkMcpServerConfigs", "model", "$schema", "subtype", "request", "request_id", "user", "message",
    "control_request", "control_response", "description", "tools", *REQUESTS,
})  # fmt: skip
TEXTS = st.one_of(st.sampled_from(NAMES), st.text(max_size=8), st.just("\ud800"), st.just("\x1b]52;c;eA==\x07"))
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS, st.just("/workspace/x"))
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=5))
OBJECTS = st.dictionaries(st.sampled_from(NAMES) | TEXTS, VALUES, max_size=6)
ALMOST = st.one_of(
    st.fixed_dictionaries({"hooks": st.dictionaries(TEXTS, st.lists(VALUES | OBJECTS, max_size=3), max_size=3)}),
    st.fixed_dictionaries({"hooks": st.just({"Stop": [{"hooks": [{"type": "command", "command": "x"}]}]})}),
    st.fixed_dictionaries({"permissions": OBJECTS}),
    st.fixed_dictionaries({"mcpServers": st.dictionaries(TEXTS, OBJECTS | VALUES, max_size=4)}),
    st.fixed_dictionaries({"disabledMcpjsonServers": VALUES}),
    OBJECTS,
    VALUES,
)


def deep(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


def judged(*argv: str, files: tuple[bytes, ...] = ()) -> None:
    """Accept a plan or a refusal, and nothing else. The plan must survive packing."""
    fields = Fields([*(("arg", os.fsencode(word)) for word in argv), *(("file", file) for file in files)])
    with contextlib.suppress(PolicyError):
        plan = plan_of(fields, WITH_COMMANDS)
        assert unpack(pack(plan), WITH_COMMANDS).argv == plan.argv
        for word in plan.argv:
            os.fsencode(word)
        assert all(note.isprintable() for note in plan.project.notes)
        _ = plan.servers


@OFTEN
@given(ALMOST, st.sampled_from([".claude/settings.json", ".claude/settings.local.json", ".mcp.json"]))
def test_any_file_of_the_project(value: Any, name: str) -> None:
    judged("-p", "hi", files=(f"{name}\n{json.dumps(value)}".encode(),))


@OFTEN
@given(ALMOST, st.sampled_from(["--settings", "--mcp-config", "--agents", "--json-schema"]))
def test_any_json_of_an_argument(value: Any, flag: str) -> None:
    judged("-p", "hi", f"{flag}={json.dumps(value)}")


@OFTEN
@given(
    st.dictionaries(TEXTS, VALUES, max_size=5), st.sampled_from(["agents/a.md", "commands/a.md", "skills/a/SKILL.md"])
)
def test_any_head_of_a_file(head: dict[str, Any], name: str) -> None:
    judged("-p", "hi", files=(f".claude/{name}\n---\n{json.dumps(head)}\n---\ntext".encode(),))


@OFTEN
@given(st.text(max_size=60), st.sampled_from(["agents/a.md", "skills/a/SKILL.md"]))
def test_any_text_as_a_head(head: str, name: str) -> None:
    judged("-p", "hi", files=(f".claude/{name}\n---\n{head}\n---\ntext".encode("utf-8", "replace"),))


@OFTEN
@given(st.sampled_from([None, *REQUESTS]), OBJECTS, OBJECTS)
def test_any_control_message(subtype: str | None, request: dict[str, Any], message: dict[str, Any]) -> None:
    if subtype is not None:
        message = {"type": "control_request", "request_id": "1", "request": {**request, "subtype": subtype}}
    stream = ControlFilter(WITH_COMMANDS)
    with contextlib.suppress(PolicyError):
        passed, answered = stream.feed(json.dumps(message).encode() + b"\n")
        for line in (passed + answered).splitlines():
            json.loads(line)
    assert all(what.isprintable() and why.isprintable() for what, why in stream.refusals)


ODD = [
    {"hooks": {"Stop": [{"hooks": 5}]}}, {"hooks": 5}, {"hooks": {"Stop": 5}}, {"disabledMcpjsonServers": 5},
    {"permissions": {"defaultMode": []}}, {"permissions": {"allow": 5}},
    {"hooks": {"Stop": [{"hooks": [{"type": []}]}]}},
]  # fmt: skip


@pytest.mark.parametrize("value", ODD, ids=map(json.dumps, ODD))
def test_setting_of_an_odd_type(value: dict[str, Any]) -> None:
    judged("-p", "hi", files=(b".claude/settings.json\n" + json.dumps(value).encode(),))


@pytest.mark.parametrize("levels", [400, 900, 100_000])
def test_servers_that_are_nested_deeply(levels: int) -> None:
    judged("-p", "hi", files=(f'.mcp.json\n{{"mcpServers":{{"a":{deep(levels)}}}}}'.encode(),))
    judged("-p", "hi", "--mcp-config", f'{{"mcpServers":{{"a":{deep(levels)}}}}}')
    judged("-p", "hi", "--agents", f'{{"a":{{"prompt":{deep(levels)}}}}}')


MESSAGES = [
    {"type": []}, {"type": {}},
    {"subtype": "set_permission_mode", "mode": []}, {"subtype": "initialize", "sdkMcpServerConfigs": [1]},
    {"subtype": "mcp_toggle", "serverName": []}, {"subtype": {}}, {"subtype": []},
    {"subtype": "initialize", "sdkMcpServers": [[]]},
]  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES, ids=map(json.dumps, MESSAGES))
def test_control_message_of_an_odd_type(message: dict[str, Any]) -> None:
    if "type" not in message:
        message = {"type": "control_request", "request_id": "1", "request": message}
    with contextlib.suppress(PolicyError):
        ControlFilter(WITH_COMMANDS).feed(json.dumps(message).encode() + b"\n")


def test_message_of_millions_of_values_is_refused_unread() -> None:
    with pytest.raises(PolicyError, match="more than 300000"):
        ControlFilter(WITH_COMMANDS).feed(b'{"type":"user","message":[' + b'{"":{}},' * (MAX_LINE // 8 - 10) + b"1]}\n")


@OFTEN
@given(st.text())
def test_word_of_a_client_is_shown_short_and_printable(word: str) -> None:
    assert shown(word).isprintable()
    assert len(printable(word, 80).encode()) <= 800
    refusal = PolicyError("the word {} is none", word)
    assert str(refusal).isprintable()
    assert len(str(refusal)) <= 10 * MAX_SENTENCE


@pytest.mark.parametrize("argv", [
    ["-psekrit"], ["--sekrit"], ["--model", "sekrit\n"], ["--add-dir", "/sekrit"], ["--output-format", "sekrit"],
    ["--settings", '{"sekrit": 1}'], ["--mcp-config", '{"mcpServers": {"sekrit": {"type": "http", "url": "http://sekrit.invalid"}}}'],
    ["--agents", '{"sekrit": {"isolation": "x"}}'],
    ["--settings", '{"hooks": {"sekrit": [{"hooks": [{"sekrit": 1}]}]}}'],
    ["--mcp-config", '{"mcpServers": {"sekrit": {"url": "x", "type": "http", "headersHelper": "sekrit"}}}'],
])  # fmt: skip
def test_kind_of_a_refusal_holds_no_word_of_the_client(argv: list[str]) -> None:
    with pytest.raises(PolicyError, match=r"sek ?rit") as refused:
        rewrite(argv, WITH_COMMANDS)
    assert "sek" not in refused.value.kind


HOSTILE = {
    "escapes": {".claude/settings.json": '{"\\u001b]52;c;eA==\\u0007": 1, "hooks": {"\\u001b[2J": [{"hooks": [5]}]}}'},
    "surrogate": {".claude/settings.json": '{"\\ud800": 1}', ".mcp.json": '{"mcpServers": {"\\ud800": 5}}'},
    "types": {".claude/settings.json": '{"hooks": 5, "permissions": 5, "disabledMcpjsonServers": 5}'},
    "agent": {".claude/agents/a.md": '---\n"\\e]52;c;eA==\\a": 1\n---\nx'},
    "skill": {".claude/skills/x/SKILL.md": "---\n\x1b: 1\n---"},
    "deep": {".mcp.json": '{"mcpServers": {"a": ' + deep(900) + "}}"},
}  # fmt: skip


@pytest.mark.parametrize("files", HOSTILE.values(), ids=HOSTILE.keys())
def test_explain_of_a_hostile_project_prints_what_is_printable(files: dict[str, str]) -> None:
    out = io.StringIO()
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(out):
        for path, text in files.items():
            (Path(name) / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(name) / path).write_text(text)
        (Path(name) / "bridge.yaml").write_text("{}")
        words = ["--state", name + "/state", "--config", name + "/bridge.yaml", "explain", "--project", name]
        assert main([*words, "--", "-p", "hi"]) == 0
    out.getvalue().encode()
    assert all(line.isprintable() for line in out.getvalue().splitlines())


def test_notes_about_a_project_have_a_bound() -> None:
    names = ",".join(f'"{number}": 1' for number in range(5000))
    project = read([f".claude/settings.json\n{{{names}}}".encode()], [], WITH_COMMANDS)
    assert len(project.notes) <= 101
    assert "more things are left out" in project.notes[-1]
