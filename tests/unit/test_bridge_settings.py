"""Settings, rules and flags: what is passed on, what is left out with a note, and what refuses the call."""

from __future__ import annotations

import json

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
