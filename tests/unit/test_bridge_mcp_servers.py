"""MCP servers as people copy them: what is passed on, what is left out and why, and the variables in them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.client import main
from bridge.policy import PolicyError, Scope
from bridge.policy.argv import Plan, rewrite
from bridge.policy.mcp_servers import DOLLAR, MAX_REFUSED, MAX_SERVER, MAX_VALUE, expanded, is_accepted, server

SCOPE = Scope(runs_commands=True, web=True)
STDIO = {"command": "npx", "args": ["-y", "x"]}


def project(
    servers: dict[str, Any], *argv: str, env: list[bytes] | None = None, interactive: bool = False, **settings: Any
) -> Plan:
    """Return the plan for a project with these servers and settings."""
    files = [b".mcp.json\n" + json.dumps({"mcpServers": servers}).encode()]
    files.append(b".claude/settings.json\n" + json.dumps(settings).encode())
    return rewrite(list(argv), SCOPE, files=files, env=env or [], interactive=interactive)


def cli(text: str, env: dict[str, str]) -> str:
    """Replace variables as the CLI does."""

    def look_up(match: re.Match[str]) -> str:
        name, colon, default = match[1].partition(":-")
        return env.get(name, default if colon else match[0])

    return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*(?::-[^}]*)?)\}", look_up, text)


# Entries

COPIED = {
    "Claude Code": ({"type": "stdio", **STDIO, "env": {}}, {"type": "stdio", **STDIO}),
    "Claude Desktop": (STDIO, {"type": "stdio", **STDIO}),
    "variables": (
        {**STDIO, "env": {"A": "1", "B": ""}},
        {"type": "stdio", "command": "env", "args": ["A=1", "B=", "npx", "-y", "x"]},
    ),
    "Cline": ({**STDIO, "disabled": True, "autoApprove": [], "timeout": 9}, {"type": "stdio", **STDIO, "timeout": 9}),
    "Cursor": ({**STDIO, "cwd": "${workspaceFolder}", "envFile": "${x}/.env"}, {"type": "stdio", **STDIO}),
    "lines": ({**STDIO, "args": ["-c", "a\n\tb"]}, {"type": "stdio", **STDIO, "args": ["-c", "a\n\tb"]}),
    "at once": ({**STDIO, "alwaysLoad": True}, {"type": "stdio", **STDIO, "alwaysLoad": True}),
    "streamable": (
        {"type": "streamable-http", "url": "https://x.example/mcp"},
        {"type": "streamable-http", "url": "https://x.example/mcp", "headers": {}},
    ),
    "web socket": ({"type": "ws", "url": "wss://x.example"}, {"type": "ws", "url": "wss://x.example", "headers": {}}),
    "login": (
        {"type": "http", "url": "https://x.example", "oauth": {"clientId": "x", "callbackPort": 3118, "xaa": True}},
        {"type": "http", "url": "https://x.example", "headers": {}, "oauth": {"callbackPort": 3118, "clientId": "x"}},
    ),
    "no address": ({"type": "http", "url": "here"}, {"type": "http", "url": "-", "headers": {}}),
}  # fmt: skip


@pytest.mark.parametrize(("entry", "wanted"), COPIED.values(), ids=COPIED)
def test_entry_is_passed_on(entry: dict[str, Any], wanted: dict[str, Any]) -> None:
    plan = project({"a": entry})
    assert plan.project.servers == {"a": wanted}
    assert not plan.project.notes


SKIPPED: dict[str, Any] = {
    "no command": {},
    "empty command": {"command": ""},
    "null": None,
    "number": 5,
    "null for variables": {**STDIO, "env": None},
    "number among variables": {**STDIO, "env": {"A": 1, "LD_PRELOAD": "/workspace/x.so"}},
    "text for arguments": {**STDIO, "args": "x"},
    "fraction of a millisecond": {**STDIO, "timeout": 1.5},
    "text for a time": {**STDIO, "timeout": "5"},
    "unknown type": {"type": "telepathy"},
    "odd type": {"type": ["stdio"], **STDIO},
    "Cursor's address": {"url": "https://x.example"},
    "number as header": {"type": "http", "url": "https://x.example", "headers": {"a": 1}},
    "nested": {**STDIO, "env": {"a": {"b": {"c": {}}}}},
}


@pytest.mark.parametrize("entry", SKIPPED.values(), ids=SKIPPED)
def test_entry_that_the_cli_skips_is_skipped_without_a_note(entry: Any) -> None:
    plan = project({"a": entry, "b": STDIO})
    assert list(plan.project.servers) == ["b"]
    assert not plan.project.notes


@pytest.mark.parametrize("entry", SKIPPED.values(), ids=SKIPPED)
def test_client_s_own_entry_that_the_cli_skips_is_emptied(entry: Any) -> None:
    """The CLI itself says why. It gets no variable and no address."""
    found = server("a", entry, SCOPE)
    assert not is_accepted(found)
    assert not {"/workspace/x.so", "https://x.example"} & set(re.findall(r'"([^"]*)"', json.dumps(found)))


def test_headers_helper_stays_out_and_the_note_says_why() -> None:
    plan = project({"a": {"type": "http", "url": "https://x.example", "headersHelper": "./run"}})
    assert plan.project.servers == {"a": {"type": "http", "url": "https://x.example", "headers": {}}}
    (note,) = plan.project.notes
    assert "headersHelper of the MCP server 'a' is left out: it is a command that would run on the host" in note


@pytest.mark.parametrize("url", ["http://x.invalid", "ws://x.INVALID./", "http://${X:-x}.invalid"])
def test_name_of_the_bridge_s_own_is_left_out_with_the_reason(url: str) -> None:
    plan = project({"a": {"type": "http", "url": url}})
    assert not plan.project.servers
    assert "names in .invalid are the bridge's own" in plan.project.notes[0]


def test_server_on_the_network_is_left_out_where_there_is_none() -> None:
    with pytest.raises(PolicyError, match="on the network, which this bridge does not offer"):
        server("a", {"type": "http", "url": "https://x.example"}, Scope(runs_commands=True))


def test_nearer_file_replaces_single_servers() -> None:
    files = [b"app/.mcp.json\n" + json.dumps({"mcpServers": {"b": {"command": "inner"}}}).encode()]
    files.append(b".mcp.json\n" + json.dumps({"mcpServers": {"a": STDIO, "b": STDIO}}).encode())
    found = rewrite([], SCOPE, files=files).project.servers
    assert {name: entry["command"] for name, entry in found.items()} == {"a": "npx", "b": "inner"}


# Which of them

CHOSEN = {
    "none named": ({}, ["a", "b", "c"], ["a", "b", "c"]),
    "enabled": ({"enabledMcpjsonServers": ["a"]}, ["a", "b", "c"], ["a"]),
    "disabled": ({"disabledMcpjsonServers": ["a"]}, ["b", "c"], ["b", "c"]),
    "all, but": ({"enableAllProjectMcpServers": True, "disabledMcpjsonServers": ["a"]}, ["b", "c"], ["b", "c"]),
    "all and one": (
        {"enableAllProjectMcpServers": True, "enabledMcpjsonServers": ["a"]}, ["a", "b", "c"], ["a", "b", "c"]
    ),
    "both": ({"enabledMcpjsonServers": ["a"], "disabledMcpjsonServers": ["a"]}, ["b", "c"], []),
    "odd": ({"enabledMcpjsonServers": "a", "disabledMcpjsonServers": [["a"]]}, ["a", "b", "c"], ["a", "b", "c"]),
}  # fmt: skip


@pytest.mark.parametrize(("settings", "prints", "asks"), CHOSEN.values(), ids=CHOSEN)
def test_settings_choose_among_the_servers(settings: dict[str, Any], prints: list[str], asks: list[str]) -> None:
    """In print mode the CLI asks nobody, and starts every server that is not disabled."""
    entries = dict.fromkeys("abc", STDIO)
    assert list(project(entries, "-p", "hi", interactive=True, **settings).project.servers) == prints
    assert list(project(entries, interactive=True, **settings).project.servers) == asks
    bypassing = project(entries, "--dangerously-skip-permissions", interactive=True, **settings)
    assert list(bypassing.project.servers) == prints


def test_strict_configuration_keeps_the_project_s_servers_out() -> None:
    own = json.dumps({"mcpServers": {"q": STDIO}})
    plan = project({"a": STDIO}, "-p", "hi", "--strict-mcp-config", "--mcp-config", own)
    assert plan.servers == {"q"}
    assert not any('"a"' in word for word in plan.argv)


def test_client_s_own_server_comes_after_the_project_s() -> None:
    """Of two with the same name, the CLI takes the last."""
    own = json.dumps({"mcpServers": {"a": {"command": "own"}}})
    words = [word for word in project({"a": STDIO}, "--mcp-config", own).argv if word.startswith("--mcp-config=")]
    assert ["own" in word for word in words] == [False, True]


# Variables


PARTS = st.lists(st.sampled_from(["${", "}", "A", "B", ":-", "$", "{", "x\n", "${A}", "${B:-", DOLLAR])).map("".join)


@given(PARTS, st.dictionaries(st.sampled_from("AB"), PARTS))
def test_cli_is_told_what_it_would_make_of_the_container_s_variables(text: str, env: dict[str, str]) -> None:
    """Its own variables do not count, whatever the text and the variables look like."""
    passed = expanded("x", {"command": text}, env)["command"]
    assert cli(passed, {"A": "the host's", "B": "the host's"}) == cli(text, env)


def test_client_s_own_servers_have_their_variables_replaced() -> None:
    own = json.dumps({"mcpServers": {"q": {"command": "${A}", "args": ["${B:-b}"]}}})
    (word,) = [word for word in rewrite(["--mcp-config", own], SCOPE, env=[b"A=1"]).argv if "mcpServers" in word]
    assert json.loads(word.partition("=")[2])["mcpServers"]["q"] == {"type": "stdio", "command": "1", "args": ["b"]}


@pytest.mark.parametrize("length", [MAX_VALUE, MAX_VALUE + 1])
def test_long_variable_is_used_up_to_the_limit(length: int) -> None:
    found = project({"a": {"command": "${T:-none}"}}, env=[b"T=" + b"t" * length]).project.servers["a"]["command"]
    assert found == ("t" * length if length <= MAX_VALUE else "none")


@pytest.mark.parametrize("text", ["${A}" * 30_000, "${A:-" * 20_000, "${" * 40_000])
def test_variables_make_no_entry_longer_than_the_limit(text: str) -> None:
    plan = project({"a": {"command": text}, "b": STDIO}, env=[b"A=" + b"x" * MAX_VALUE])
    assert list(plan.project.servers) == ["b"]
    assert f"is longer than {MAX_SERVER} characters" in plan.project.notes[0]


def test_servers_of_a_project_fit_into_one_argument() -> None:
    plan = project({f"s{number}": {"command": "${A}" * 3} for number in range(9)}, env=[b"A=" + b"x" * MAX_VALUE])
    assert len(next(word for word in plan.argv if word.startswith("--mcp-config="))) < 128 * 1024
    assert "the MCP servers from 's2' on are left out" in plan.project.limits[0]


def test_many_entries_that_cannot_be_used_end_the_search() -> None:
    plan = project({f"s{number}": {"command": "${A}" * 5} for number in range(99)}, env=[b"A=" + b"x" * MAX_VALUE])
    assert len(plan.project.notes) == MAX_REFUSED + 1
    assert "the MCP servers after 's49' are left out" in plan.project.limits[0]


@pytest.mark.parametrize("text", ["${HOME}", "x${A:-b}", "${"])
def test_control_message_with_a_variable_is_refused(text: str) -> None:
    with pytest.raises(PolicyError, match="variables are not replaced"):
        server("x", {"command": text}, SCOPE)


def test_variable_s_name_is_no_reference() -> None:
    """The CLI would replace it, because names are set by an argument."""
    assert not project({"a": {**STDIO, "env": {"${HOME}": "x"}}}).project.servers


# What the client sends


def test_client_sends_long_values_only_of_variables_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"SHORT": "s", "LONG": "l" * 600, "OTHER": "o" * 600, "HUGE": "h" * (main.MAX_LONG_VALUE + 1)}
    monkeypatch.setattr(os, "environb", {os.fsencode(name): os.fsencode(value) for name, value in values.items()})
    assert set(main._variables([b".mcp.json\n${LONG}", b"${HUGE:-x} $OTHER"])) == {b"SHORT", b"LONG"}


def test_client_sends_a_bounded_total(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environb", {b"V%d" % number: b"x" * main.MAX_LONG_VALUE for number in range(9)})
    sent = main._variables([b"${V"[:2] + b"V%d}" % number for number in range(9)])
    assert sum(map(len, sent.values())) == main.MAX_LONG_VALUES


def test_client_sends_the_servers_of_each_directory(tmp_path: Path) -> None:
    from bridge.client.project_files import project_files

    (tmp_path / "app").mkdir()
    (tmp_path / ".mcp.json").write_text("outer")
    (tmp_path / "app" / ".mcp.json").write_text("inner")
    found = project_files(os.fsencode(tmp_path / "app"), workspace=os.fsencode(tmp_path))
    assert sorted(found) == [("file", b".mcp.json\nouter"), ("file", b"app/.mcp.json\ninner")]
