"""Settings, rules and flags: what is passed on, what is left out with a note, and what refuses the call."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from bridge.policy import environment
from bridge.policy.argv import rewrite
from bridge.policy.control_messages import ControlFilter
from bridge.policy.flags import BY_NAME, CLOSED, LEFT_OUT, rules_of
from bridge.policy.project_policy import CONVERSATION, OF_SERVERS, REFUSED, WITHOUT_EFFECT, read
from bridge.policy.terms import PolicyError, Scope

IN_CONTAINER = Scope(runs_commands=True)


def run(*argv: str, scope: Scope = IN_CONTAINER) -> list[str]:
    """Return the arguments that are run."""
    return rewrite(["-p", "hi you", *argv], scope).argv


def test_each_setting_is_in_one_list() -> None:
    lists = [CONVERSATION, WITHOUT_EFFECT.keys(), REFUSED.keys(), OF_SERVERS, {"permissions", "hooks", "env"}]
    assert sum(map(len, lists)) == len(set().union(*lists))


@pytest.mark.parametrize(
    ("value", "rules"),
    [
        ("Read,Edit Write", ["Read", "Edit", "Write"]),
        ('Bash(node -e "f(1)"),Read', ['Bash(node -e "f(1)")', "Read"]),
        ('Bash(git log --format="%h (%an)":*)', ['Bash(git log --format="%h (%an)":*)']),
        ("Bash(a (b) c)", ["Bash(a (b)", "c)"]),
        ("Bash(a, b),,  Read ", ["Bash(a, b)", "Read"]),
        ("Bash(open, Read", ["Bash(open, Read"]),
        (") Read", [")", "Read"]),
        ("a\tb\n", ["a\tb"]),
        ("", []),
    ],
)
def test_rules_are_split_as_the_cli_does(value: str, rules: list[str]) -> None:
    assert rules_of(value) == rules


def test_rules_reach_the_cli_as_they_are() -> None:
    rules = 'Bash(node -e "f(1)"),Read'
    assert f"--allowedTools={rules}" in run("--allowedTools", rules)
    assert "--allowedTools=Read" in run("--allowedTools", "Monitor(x y),Read")


@pytest.mark.parametrize("name", LEFT_OUT)
def test_flag_without_effect_is_left_out(name: str) -> None:
    plan = rewrite(["-p", "hi you", name, "x"], IN_CONTAINER)
    assert not [word for word in plan.argv if word.startswith(name)]
    assert plan.notes == [f"{name} is left out: {LEFT_OUT[name][1]}"]
    assert name not in BY_NAME.keys() | CLOSED.keys()
    assert any(word.startswith(name) for word in run(name, "x", scope=Scope(allowed=frozenset({name}))))
    with pytest.raises(PolicyError):
        run(name, "x", scope=Scope(refused=frozenset({name})))


def test_operator_can_allow_a_flag_that_the_bridge_does_not_know() -> None:
    with pytest.raises(PolicyError, match="allow it by name"):
        run("--new")
    allowed = Scope(allowed=frozenset({"--new"}))
    assert "--new" in run("--new", scope=allowed)
    assert "--new=x" in run("--new=x", scope=allowed)


@pytest.mark.parametrize("setting", ["sandbox", "statusLine", "autoUpdatesChannel"])
def test_setting_without_effect_is_left_out(setting: str) -> None:
    plan = rewrite(["-p", "hi you", "--settings", json.dumps({setting: {}, "model": "opus"})], IN_CONTAINER)
    assert '--settings={"model": "opus"}' in plan.argv
    assert plan.notes == [f"--settings: {setting} is left out: {WITHOUT_EFFECT[setting]}"]


@pytest.mark.parametrize("setting", ["apiKeyHelper", "enabledPlugins", "noSuchSetting"])
def test_setting_that_a_program_needs_is_refused(setting: str) -> None:
    with pytest.raises(PolicyError, match=f"--settings: the setting '{setting}': "):
        run("--settings", json.dumps({setting: "x"}))
    project = read([f'.claude/settings.json\n{{"{setting}": "x"}}'.encode()], [], IN_CONTAINER)
    assert len(project.notes) == 1


def test_variables_of_settings() -> None:
    plan = rewrite(
        ["-p", "hi you", "--settings", '{"env": {"A": "flag", "N": 1, "T": true}}'],
        IN_CONTAINER,
        files=[b'.claude/settings.json\n{"env": {"A": "a", "B": "b", "CLAUDE_CODE_SHELL_PREFIX": "x"}}'],
    )
    assert plan.env == {"A": "flag", "B": "b", "CLAUDE_CODE_SHELL_PREFIX": "x", "N": "1", "T": "true"}
    assert not any("env" in word for word in plan.argv if word.startswith("--settings"))
    assert "env" not in plan.project.settings
    (note,) = plan.notes
    assert "CLAUDE_CODE_SHELL_PREFIX for Claude Code itself is left out" in note
    with pytest.raises(PolicyError, match="ANTHROPIC_BASE_URL"):
        run("--settings", '{"env": {"ANTHROPIC_BASE_URL": "http://x"}}')


def test_variables_of_a_flag_count_in_the_project_s_servers() -> None:
    servers = b'.mcp.json\n{"mcpServers": {"x": {"command": "${A}", "args": ["${B:-none}"]}}}'
    settings = b'.claude/settings.json\n{"env": {"B": "project"}}'
    argv = ["-p", "hi you", "--settings", '{"env": {"A": "flag"}}']
    plan = rewrite(argv, IN_CONTAINER, files=[servers, settings], env=[b"A=caller"])
    assert plan.project.servers == {"x": {"type": "stdio", "command": "flag", "args": ["none"]}}


def test_variables_of_settings_reach_the_cli_only_from_the_list() -> None:
    project = {"MCP_TIMEOUT": "5", "PATH": "/x", "MAX_THINKING_TOKENS": "many", "DISABLE_COMPACT": "1", "A": "a"}
    found = environment.build([b"MCP_TIMEOUT=1", b"API_TIMEOUT_MS=7"], {"DISABLE_COMPACT": "0"}, project)
    assert (found[b"MCP_TIMEOUT"], found[b"API_TIMEOUT_MS"], found[b"DISABLE_COMPACT"]) == (b"5", b"7", b"0")
    assert found[b"PATH"] == environment.OWN[b"PATH"]
    assert not {b"A", b"MAX_THINKING_TOKENS"} & found.keys()


def test_relative_directories_are_judged_from_the_directory_of_the_call() -> None:
    settings = b'.claude/settings.json\n{"permissions": {"additionalDirectories": ["../lib", "../../etc", "/"]}}'
    project = read([settings], [], IN_CONTAINER, cwd="/workspace/app")
    assert project.settings["permissions"]["additionalDirectories"] == ["/workspace/lib"]
    assert len(project.notes) == 1


@pytest.mark.parametrize(
    ("settings", "passed"),
    [
        ({"model": "opus", "sandbox": {}}, {"model": "opus"}),
        ({"model": None}, {"model": None}),
        ({"env": {"A": "b"}}, None),
        ({"apiKeyHelper": "x"}, None),
        (5, None),
    ],
)
def test_settings_over_control_messages(settings: object, passed: object) -> None:
    request = {"subtype": "apply_flag_settings", "settings": settings}
    line = json.dumps({"type": "control_request", "request_id": "1", "request": request}).encode()
    to_cli, to_client = ControlFilter(IN_CONTAINER).judge(line)
    if passed is None:
        assert b"bridge: refused" in to_client
    else:
        assert json.loads(to_cli)["request"]["settings"] == passed


@pytest.mark.parametrize("modes", [["acceptEdits", "bypassPermissions"], ["plan", "auto"]])
def test_project_does_not_switch_questions_off_where_the_cli_ignores_it(modes: list[str]) -> None:
    """The last mode counts, and is ignored then: no earlier one comes back."""
    texts = [json.dumps({"permissions": {"defaultMode": mode, "allow": ["Read"]}}).encode() for mode in modes]
    names = (b".claude/settings.json", b".claude/settings.local.json")
    found = read([name + b"\n" + text for name, text in zip(names, texts, strict=True)], [], IN_CONTAINER)
    ignored = found.without_modes(frozenset({"auto", "bypassPermissions"}))
    assert ignored.settings["permissions"] == {"allow": ["Read", "Read"]}
    assert found.without_modes(frozenset()).settings["permissions"]["defaultMode"] == modes[1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"env": []}, {"permissions": []}, {"permissions": {"deny": "Bash"}}, {"permissions": {"defaultMode": "none"}},
        {"permissions": {"defaultMode": []}}, {"apiKeyHelper": 5}, {"$schema": 5}, {"statusLine": "x"},
        {"enabledPlugins": "x"}, {"enableAllProjectMcpServers": "yes"}, {"permissions": {"additionalDirectories": "x"}},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_file_with_a_setting_of_a_wrong_type_counts_as_empty(wrong: dict[str, Any]) -> None:
    found = read([b".claude/settings.json\n" + json.dumps({"model": "opus", **wrong}).encode()], [], IN_CONTAINER)
    assert found.settings == {}
    assert [note.partition(" is left out")[0] for note in found.notes] == [".claude/settings.json"]


HOOK_SHAPES = [
    ({"name": "x", "hooks": [{"type": "command", "command": "a", "description": "d"}]}, {"command": "a"}),
    ({"hooks": [{"type": "command", "command": "a b", "args": ["c d", "$E"]}]}, {"command": "'a b' 'c d' '$E'"}),
    ({"hooks": [{"type": "command", "command": "a && b", "shell": "bash"}]}, {"command": "bash -c 'a && b'"}),
    ({"matcher": ["startup"], "hooks": [{"type": "command", "command": "a"}]}, None),
    ({"matcher": None, "hooks": [{"type": "command", "command": "a"}]}, None),
]


@pytest.mark.parametrize(("group", "expected"), HOOK_SHAPES, ids=json.dumps)
def test_hook_of_any_shape(group: dict[str, Any], expected: dict[str, str] | None) -> None:
    text = json.dumps({"hooks": {"Stop": [group]}}).encode()
    found = read([b".claude/settings.json\n" + text], [], IN_CONTAINER).settings.get("hooks", {})
    assert found == ({"Stop": [{"hooks": [{"type": "command", **expected}]}]} if expected else {})


def test_effort_of_a_project_joins_the_settings_of_the_command_line() -> None:
    files = [b'.claude/settings.json\n{"effortLevel": "low", "model": "opus"}']
    for given, expected in (
        ([], {"effortLevel": "low"}),
        (["--settings", '{"model": "haiku"}'], {"effortLevel": "low", "model": "haiku"}),
        (["--settings", '{"effortLevel": "high"}'], {"effortLevel": "high"}),
    ):
        plan = rewrite(["-p", "x", *given], IN_CONTAINER, files=files)
        (word,) = [word for word in plan.argv if word.startswith("--settings=")]
        assert json.loads(word.removeprefix("--settings=")) == expected
        assert plan.project.settings == {"model": "opus"}
    plan = rewrite(["-p", "x"], IN_CONTAINER, files=[b'.claude/settings.json\n{"effortLevel": "none"}'])
    assert not [word for word in plan.argv if word.startswith("--settings=")]


@pytest.mark.parametrize(
    ("argv", "there"),
    [
        (["--restricted"], set()),
        (["--restricted", "--tools", "default"], set()),
        (["--restricted", "--tools", "Bash,Read"], {"Bash"}),
        ([], {"Bash", "WebFetch"}),
    ],
)
def test_restricted_call_is_offered_no_command(argv: list[str], there: set[str]) -> None:
    plan = rewrite(["-p", "x", *argv], Scope(runs_commands=True, web=True))
    (word,) = [word for word in plan.argv if word.startswith("--tools=")]
    assert {"Bash", "WebFetch"} & set(word.removeprefix("--tools=").split(",")) == there


@pytest.mark.parametrize("runs_commands", [True, False])
def test_commands_are_switched_off_once(runs_commands: bool) -> None:
    argv = rewrite(["-p", "x", "--disable-slash-commands"], Scope(runs_commands=runs_commands)).argv
    assert argv.count("--disable-slash-commands") == 1


def hooks_of(*hooks: dict[str, object]) -> list[dict[str, Any]]:
    text = json.dumps({"hooks": {"PreToolUse": [{"hooks": hooks}]}}).encode()
    (group,) = read([b".claude/settings.json\n" + text], [], IN_CONTAINER).settings["hooks"]["PreToolUse"]
    return list(group["hooks"])


def test_hook_with_arguments_finds_the_project_s_directory() -> None:
    """The CLI would replace the variable itself. A guard that is not found blocks nothing."""
    args = ["a ${CLAUDE_PROJECT_DIR}", "$X"]
    (hook,) = hooks_of({"type": "command", "command": "${CLAUDE_PROJECT_DIR}/g h", "args": args})
    variables = {"CLAUDE_PROJECT_DIR": "/w", "X": "x"}
    done = subprocess.run(["/bin/sh", "-c", f"printf '%s,' {hook['command']}"], env=variables, capture_output=True)
    assert done.stdout == b"/w/g h,a /w,$X,"


def test_fields_that_decide_what_a_failed_hook_does_are_passed_on() -> None:
    command = {"type": "command", "command": "x", "onFailure": "block", "asyncRewake": True, "rewakeMessage": "m"}
    prompt = {"type": "prompt", "prompt": "x", "continueOnBlock": True}
    assert hooks_of({**command, "unknown": 1}, prompt, {**command, "shell": "powershell"}) == [command, prompt]
