"""The policy: it allows what real clients send, and refuses with one line what would give access to the host."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.policy import PolicyError, Scope, environment
from bridge.policy.argv import Plan, rewrite
from bridge.policy.control_messages import MAX_LINE, ControlFilter
from bridge.policy.flags import BY_NAME, CLOSED, FLAGS, SUBCOMMANDS
from bridge.policy.terms import OFFERED_TOOLS, WITHHELD_TOOLS

WITH_COMMANDS = Scope(runs_commands=True)
SCOPE = Scope(shares=("/data",))


def flags(*argv: str) -> list[str]:
    """Return the flags that are run for the arguments, without those that the bridge always adds."""
    own = (
        "--setting-sources",
        "--strict-mcp-config",
        "--disable-slash",
        "--tools",
        "--disallowedTools",
        "--print",
    )
    return [word for word in rewrite(list(argv), SCOPE).argv if not word.startswith(own)]


def tools(plan: Plan) -> str:
    """Return the only --tools flag that is run."""
    (flag,) = [word for word in plan.argv if word.startswith("--tools")]
    return flag.removeprefix("--tools=")


# Arguments

REAL_CLIENTS = {
    "js-sdk": "--output-format stream-json --verbose --input-format stream-json",
    "js-sdk-options": "--output-format stream-json --verbose --input-format stream-json"
    " --permission-prompt-tool=stdio --allowedTools=mcp__mine__add --setting-sources=project",
    "python-sdk": "--output-format stream-json --verbose --input-format stream-json --append-system-prompt APP"
    " --allowedTools mcp__mine__add --permission-prompt-tool stdio --setting-sources=project --mcp-config"
    ' {"mcpServers":{"mine":{"type":"sdk","name":"mine"}}}',
    "task-master": "--output-format stream-json --verbose --input-format stream-json --model sonnet --json-schema"
    ' {"type":"object"} --setting-sources user,project,local --permission-mode default',
}


@pytest.mark.parametrize("line", REAL_CLIENTS.values(), ids=REAL_CLIENTS.keys())
def test_real_client_is_let_through(line: str) -> None:
    plan = rewrite(line.split(" "), SCOPE)
    assert plan.controls
    assert [word for word in plan.argv if word.startswith("--setting-sources")] == ["--setting-sources=user"]


def test_python_sdk_s_empty_system_prompt_stays_an_argument() -> None:
    assert flags("--system-prompt", "", "--verbose") == ["--verbose", "--system-prompt="]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["-p", "hello world"], ["--", "hello world"]),
        (["-pc", "x y"], ["--continue", "--", "x y"]),
        (["--resume", "a-title", "-p", "x y"], ["--resume=a-title", "--", "x y"]),
        (["-r", "-p", "x y"], ["--resume", "--", "x y"]),
        (
            ["-p", "x y", "--allowedTools", "Read", "Edit"],
            ["--allowedTools=Read", "--allowedTools=Edit", "--", "x y"],
        ),
        (["-p", "--", "--settings x"], ["--", "\n--settings x"]),
        (["-p", "--model=opus", ""], ["--model=opus", "--", ""]),
        (["-p", "line\nfeed '\""], ["--", "line\nfeed '\""]),
        (["--add-dir", "/data/x", "sub"], ["--add-dir=/data/x", "--add-dir=sub"]),
    ],
)
def test_arguments_are_written_anew(argv: list[str], expected: list[str]) -> None:
    assert flags(*argv) == expected


@pytest.mark.parametrize("name", CLOSED)
def test_closed_flag_is_refused_with_a_sentence(name: str) -> None:
    with pytest.raises(PolicyError, match=f"^{name} is not passed on to the host: .{{10}}"):
        rewrite([name, "x"], SCOPE)


@pytest.mark.parametrize("name", CLOSED)
def test_closed_flag_can_be_opened_by_the_operator(name: str) -> None:
    assert any(word.startswith(name) for word in rewrite([name, "x y"], Scope(allowed=frozenset({name}))).argv)


def test_unknown_flag_is_refused_and_the_sentence_says_how_it_is_allowed() -> None:
    with pytest.raises(PolicyError, match=r"^--telepathy is no flag .* by name, with policy\.allow in bridge\.yaml"):
        rewrite(["--telepathy"], SCOPE)


@pytest.mark.parametrize(
    ("argv", "passed"),
    [(["--telepathy", "hi you"], ["--telepathy"]), (["--telepathy=far", "hi you"], ["--telepathy=far"])],
)
def test_unknown_flag_is_passed_on_if_the_operator_names_it(argv: list[str], passed: list[str]) -> None:
    """Nothing is known of its values, so the next word is none of them."""
    plan = rewrite(["-p", *argv], Scope(allowed=frozenset({"--telepathy"})))
    assert [word for word in plan.argv if word.startswith("--telepathy")] == passed
    assert plan.prompt == "hi you"


@pytest.mark.parametrize("name", ["--print", "--model", "--resume"])
def test_open_flag_can_be_closed_by_the_operator(name: str) -> None:
    with pytest.raises(PolicyError, match="operator"):
        rewrite([name, "x"], Scope(refused=frozenset({name})))


@pytest.mark.parametrize(
    "argv",
    [
        ["--no-such-flag"],
        ["--prin", "x"],
        ["-phello"],
        ["--print=x"],
        ["--model"],
        ["--model", "a\nb"],
        ["--settings", "/workspace/s.json"],
        ["--settings", '{"hooks": {}}'],
        ["--settings", '{"apiKeyHelper": "x"}'],
        ["--settings", '{"env": {"ANTHROPIC_BASE_URL": "http://x"}}'],
        ["--mcp-config", "/workspace/.mcp.json"],
        ["--mcp-config", '{"mcpServers": {"x": {"command": "sh"}}}'],
        ["--mcp-config", '{"mcpServers": {"x": {"type": "http", "url": "http://x"}}}'],
        [
            "--agents",
            '{"a": {"description": "d", "prompt": "p", "hooks": {"Stop": []}, "mcpServers": {"x": 1}}}',
        ],
        ["--agents", '{"a": {"permissionMode": "bypassPermissions"}}'],
        ["--agents", "/workspace/agents.json"],
        ["--add-dir", "/"],
        ["--add-dir", "/workspace/../etc"],
        ["--add-dir", "/workspacex"],
        ["--permission-mode", "bypassPermissions"],
        ["--permission-mode", "auto"],
        ["--permission-prompt-tool", "/bin/sh"],
        ["--allowedTools"],
        *([word] for word in sorted(SUBCOMMANDS)),
        ["-p", "mcp", "add", "-s", "user"],
        ["--", "mcp"],
    ],
    ids=" ".join,
)
def test_what_could_act_on_the_host_is_refused(argv: list[str]) -> None:
    with pytest.raises(PolicyError, match=r".{20}"):
        rewrite(argv, SCOPE)


def test_word_that_a_later_cli_could_take_for_a_command_is_none() -> None:
    assert flags("-p", "hello") == ["--", "hello\n"]


def test_tools_on_offer_are_named_once_and_run_nothing() -> None:
    assert tools(rewrite(["-p", "x y"], SCOPE)) == ",".join(OFFERED_TOOLS)
    assert not set(OFFERED_TOOLS) & set(WITHHELD_TOOLS)


@pytest.mark.parametrize(
    ("asked", "offered"),
    [([""], ""), (["Bash,Read"], "Read"), (["Bash", "--tools", "Edit,Read"], "Edit,Read"), (["Bash"], "")],
)
def test_tools_that_are_asked_for_are_narrowed(asked: list[str], offered: str) -> None:
    assert tools(rewrite(["-p", "x y", "--tools", *asked], SCOPE)) == offered


def test_withheld_tools_are_denied_by_name() -> None:
    argv = rewrite(["--disallowedTools", "Read", "Bash("], SCOPE).argv
    *asked, own = [word.partition("=")[2] for word in argv if "--disallowedTools" in word]
    assert asked == ["Read", "Bash("]
    assert {"Bash", "WebFetch", "SendMessage"} <= set(own.split(","))


def test_permission_rules_for_withheld_tools_are_left_out() -> None:
    assert flags("--allowedTools", "Bash(git log, git diff),Read(//x)", "Write") == [
        "--allowedTools=Read(//x)",
        "--allowedTools=Write",
    ]


@pytest.mark.parametrize(
    ("argv", "reads"),
    [
        (["-p"], True),
        (["--setting-sources="], False),
        (["--setting-sources", "user,project"], True),
        (["--setting-sources", "user"], False),
        (["--bare"], False),
    ],
)
def test_project_memory_counts_unless_the_client_says_otherwise(argv: list[str], reads: bool) -> None:
    memory = [b"project\n/workspace\n/workspace/CLAUDE.md\nUse tabs."]
    assert (b"Use tabs." in rewrite(argv, SCOPE, memory=memory).project.memory.text) is reads


def test_every_row_of_the_table_explains_itself_once() -> None:
    assert not BY_NAME.keys() & CLOSED.keys()
    assert len(BY_NAME) == sum(len(flag.names) for flag in FLAGS)


@given(st.lists(st.one_of(st.sampled_from([*BY_NAME, *CLOSED, "--", "-", *SUBCOMMANDS]), st.text(max_size=12))))
def test_any_arguments_are_refused_or_end_in_known_flags(argv: list[str]) -> None:
    try:
        plan = rewrite(argv, SCOPE)
    except PolicyError:
        return
    before = plan.argv[: plan.argv.index("--")] if "--" in plan.argv else plan.argv
    assert {word.partition("=")[0] for word in before} <= BY_NAME.keys()


# Control messages


def answer(message: dict[str, Any], scope: Scope = SCOPE) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what goes to the CLI and what is answered, for one message."""
    passed, answered = ControlFilter(scope).feed(json.dumps(message).encode() + b"\n")
    return json.loads(passed or b"{}"), json.loads(answered or b"{}")


def ask(**request: Any) -> dict[str, Any]:
    return {"type": "control_request", "request_id": "r1", "request": request}


HOOK = {"Stop": [{"hooks": [{"type": "command", "command": "touch x"}]}]}

REFUSED = {
    "stdio server": ask(subtype="mcp_set_servers", servers={"x": {"type": "stdio", "command": "sh"}}),
    "remote server": ask(subtype="mcp_set_servers", servers={"x": {"type": "http", "url": "http://x"}}),
    "hooks": ask(subtype="apply_flag_settings", settings={"hooks": HOOK}),
    "base url": ask(subtype="apply_flag_settings", settings={"env": {"ANTHROPIC_BASE_URL": "http://x"}}),
    "permissions": ask(subtype="apply_flag_settings", settings={"permissions": {"allow": ["Bash"]}}),
    "plugins": ask(subtype="reload_plugins", add_plugins=["/workspace/p"]),
    "bypass": ask(subtype="set_permission_mode", mode="bypassPermissions"),
    "auto": ask(subtype="set_permission_mode", mode="auto"),
    "read file": ask(subtype="read_file", path="/etc/passwd"),
    "settings": ask(subtype="get_settings"),
    "rules": ask(subtype="list_permission_rules"),
    "update": ask(subtype="update_settings", settings={}),
    "login": ask(subtype="claude_authenticate"),
    "no subtype": ask(),
    "subtype of another type": ask(subtype=["interrupt"]),
}


@pytest.mark.parametrize("message", REFUSED.values(), ids=REFUSED.keys())
def test_dangerous_control_request_is_refused_with_the_reason(
    message: dict[str, Any],
) -> None:
    passed, answered = answer(message)
    assert passed == {}
    assert answered["response"]["request_id"] == "r1"
    assert answered["response"]["subtype"] == "error"
    assert answered["response"]["error"].startswith("bridge: refused: ")


INITIALIZE: dict[str, dict[str, Any]] = {
    "agent with hooks": {"agents": {"a": {"prompt": "p", "hooks": HOOK}}},
    "agent with servers": {"agents": {"a": {"prompt": "p", "mcpServers": [{"x": {"command": "sh"}}]}}},
    "agent that bypasses": {"agents": {"a": {"permissionMode": "bypassPermissions"}}},
    "agent elsewhere": {"agents": {"a": {"isolation": "remote"}}},
    "settings": {"settings": {"hooks": HOOK}},
    "servers": {"mcpServers": {"x": {"command": "sh"}}},
    "plugins": {"plugins": ["/workspace/p"]},
    "managed settings": {"managedSettings": {"x": 1}},
    "field of a newer SDK": {"guard": {"deny": True}},
}


@pytest.mark.parametrize("fields", INITIALIZE.values(), ids=INITIALIZE.keys())
def test_refused_initialize_ends_the_call(fields: dict[str, Any]) -> None:
    """Hooks and the system prompt come with it: without it, a session would go on with less than was asked for."""
    with pytest.raises(PolicyError) as refused:
        answer(ask(subtype="initialize", systemPrompt="ONLY THIS", **fields))
    told = json.loads(refused.value.answer)["response"]
    assert (told["subtype"], told["request_id"]) == ("error", "r1")
    assert str(refused.value) in told["error"]


def test_agent_of_a_program_keeps_what_runs_in_the_container() -> None:
    """Fields that the CLI does not know are left out, and so are the names of servers that the call has anyway."""
    agent = {
        "prompt": "p", "memory": "project", "permissionMode": "bypassPermissions", "isolation": "worktree",
        "hooks": HOOK, "mcpServers": [{"x": {"type": "stdio", "command": "sh", "args": []}}],
    }  # fmt: skip
    asked = {**agent, "mcpServers": ["mine", *agent["mcpServers"]], "unheard": 1}
    message = ask(subtype="initialize", agents={"a": asked})
    assert answer(message, WITH_COMMANDS)[0] == ask(subtype="initialize", agents={"a": agent})
    argv = rewrite(["--agents", json.dumps({"a": asked})], WITH_COMMANDS).argv
    assert json.loads(argv[0].removeprefix("--agents=")) == {"a": agent}


PASSED = {
    "initialize": ask(subtype="initialize", hooks={"Stop": [{"hookCallbackIds": ["h0"]}]}, sdkMcpServers=["mine"]),
    "agents": ask(subtype="initialize", agents={"a": {"description": "d", "prompt": "p", "tools": ["Read"]}}),
    "interrupt": ask(subtype="interrupt"),
    "model": ask(subtype="set_model", model="opus"),
    "mode": ask(subtype="set_permission_mode", mode="acceptEdits"),
    "in-process servers": ask(subtype="mcp_set_servers", servers={"m": {"type": "sdk", "name": "m"}}),
    "mcp": ask(subtype="mcp_message", server_name="mine", message={"jsonrpc": "2.0", "id": 1}),
    "user": {"type": "user", "message": {"role": "user", "content": "naïve \U0001f600"}, "session_id": ""},
    "answer": {"type": "control_response", "response": {"subtype": "success", "request_id": "x"}},
    "keep alive": {"type": "keep_alive"},
}


@pytest.mark.parametrize("message", PASSED.values(), ids=PASSED.keys())
def test_message_of_a_real_client_is_passed_on(message: dict[str, Any]) -> None:
    assert answer(message) == (message, {})


def test_operator_can_open_a_control_request() -> None:
    message = ask(subtype="get_settings")
    assert answer(message, Scope(allowed=frozenset({"control:get_settings"})))[0] == message


def test_empty_field_that_is_not_known_is_left_out() -> None:
    assert answer(ask(subtype="initialize", settings=None, plugins=[]))[0] == ask(subtype="initialize")


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"null",
        b'{"type": "update_environment_variables"}',
        b'{"type": "assistant"}',
        b"\xff\xfe",
        b'{"type": "user", "x": NaN}',
        b"".join([b'{"type":"user","message":', b"[" * 100_000]),
        b'{"type": "control_request"}',
    ],
    ids=lambda line: line[:24].decode("latin-1"),
)
def test_line_that_is_no_message_ends_the_call(line: bytes) -> None:
    with pytest.raises(PolicyError, match="stdin"):
        ControlFilter(SCOPE).feed(line + b"\n")


@pytest.mark.parametrize("line", [b"[1]", b'"x"', b"5", b"{}", b'{"type": 7}', b'{"type": "unheard"}'])
def test_line_that_means_nothing_is_ignored(line: bytes) -> None:
    assert ControlFilter(SCOPE).feed(line + b"\n") == (b"", b"")


def test_mark_before_a_message_is_no_part_of_it() -> None:
    assert ControlFilter(SCOPE).feed(b'\xef\xbb\xbf{"type":"keep_alive"}\n')[0] == b'{"type":"keep_alive"}\n'


def test_number_that_no_json_can_hold_ends_the_call() -> None:
    with pytest.raises(PolicyError, match="JSON"):
        ControlFilter(SCOPE).feed(b'{"type": "user", "message": 1e999}\n')


def test_name_that_comes_twice_is_written_once() -> None:
    passed, _ = ControlFilter(SCOPE).feed(b'{"type":"control_request","type":"keep_alive"}\r\n')
    assert passed == b'{"type":"keep_alive"}\n'


def test_line_without_end_is_bounded() -> None:
    stream = ControlFilter(SCOPE)
    with pytest.raises(PolicyError, match="longer"):  # noqa: PT012
        for _ in range(MAX_LINE // 65536 + 2):
            stream.feed(b"x" * 65536)


@given(st.integers(0, 200))
def test_message_cut_anywhere_is_the_same(cut: int) -> None:
    data = b"".join(json.dumps(message).encode() + b"\n" for message in PASSED.values())
    whole, parts = ControlFilter(SCOPE), ControlFilter(SCOPE)
    assert parts.feed(data[:cut])[0] + parts.feed(data[cut:])[0] == whole.feed(data)[0]


def test_last_line_needs_no_line_feed() -> None:
    stream = ControlFilter(SCOPE)
    assert stream.feed(b'{"type":"keep_alive"}') == (b"", b"")
    assert stream.finish() == (b'{"type":"keep_alive"}\n', b"")


@given(st.recursive(st.none() | st.booleans() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_any_request_is_passed_answered_or_ends_the_call(value: Any) -> None:
    stream = ControlFilter(SCOPE)
    for message in (
        value,
        {"type": "control_request", "request_id": "r", "request": value},
        ask(agents=value),
    ):
        try:
            stream.feed(json.dumps(message).encode() + b"\n")
        except PolicyError:
            continue
    assert stream.finish() == (b"", b"")


# Environment

HOSTILE = [
    b"CLAUDE_CONFIG_DIR=/workspace", b"HOME=/workspace", b"PATH=/workspace", b"SHELL=/workspace/sh",
    b"CLAUDE_CODE_SHELL=/workspace/bash", b"CLAUDE_CODE_SHELL_PREFIX=/workspace/x", b"BASH_ENV=/workspace/x",
    b"CLAUDE_ENV_FILE=/workspace/x", b"BUN_OPTIONS=--preload=/workspace/x", b"LD_PRELOAD=/workspace/x.so",
    b"GIT_CONFIG_COUNT=1", b"GIT_CONFIG_VALUE_0=/workspace/x", b"IS_SANDBOX=1", b"NODE_OPTIONS=--require /x",
    b"ANTHROPIC_BASE_URL=http://x", b"HTTPS_PROXY=http://x", b"HTTP_PROXY=http://x", b"OTEL_EXPORTER=x",
    b"TMPDIR=/workspace", b"ANTHROPIC_API_KEY=x", b"CLAUDECODE=1", b"NODE_EXTRA_CA_CERTS=/workspace/ca",
    b"TMUX=/workspace/socket,1,0",
    b"LC_ALL=/x y", b"LC_x=C", b"TERM=x\ny", b"CLAUDE_CODE_ENTRYPOINT=remote", b"COLUMNS=x", b"=x", b"", b"x",
]  # fmt: skip


@pytest.mark.parametrize("entry", HOSTILE)
def test_variable_that_could_steer_the_host_does_not_get_through(entry: bytes) -> None:
    assert environment.build([entry], {}) == environment.build([], {})


def test_variables_of_the_terminal_and_the_sdk_get_through() -> None:
    wanted = {
        b"TERM": b"xterm-256color",
        b"TERM_PROGRAM": b"tmux",
        b"TERM_PROGRAM_VERSION": b"3.3a",
        b"LC_ALL": b"de_DE.UTF-8",
        b"CLAUDE_CODE_ENTRYPOINT": b"sdk-ts",
    }
    built = environment.build([name + b"=" + value for name, value in wanted.items()], {})
    assert wanted.items() <= built.items()


def test_operator_s_word_is_the_last() -> None:
    assert environment.build([], {"HTTPS_PROXY": "http://proxy"})[b"HTTPS_PROXY"] == b"http://proxy"


def test_server_s_own_environment_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = environment.build([], {})
    monkeypatch.setitem(os.environ, "CLAUDECODE", "1")
    assert environment.build([], {}) == before
