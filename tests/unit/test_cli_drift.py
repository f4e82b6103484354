"""The comparison of a CLI with the policy's tables: what it finds in a program, and what it says."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bridge.policy.terms import ALL_TOOLS
from tests.drift import reviewed
from tests.drift.__main__ import FLAGS, REQUESTS, SETTINGS, drift
from tests.drift.cli_lists import CERTAIN, CliLists, UnreadableError, keys
from tests.drift.report import LABEL, report

# Lists

SOURCE = """
x.command("update <plugin>").option("-s, --scope <scope>","S");%s
t.option("-d, --debug [filter]","D").addOption(new Ac("-d2e, --debug-to-stderr","E").hideHelp())
.option("-p, --print","P").addOption(new Gs("--json-schema <schema>","J"))
.option("--allowedTools, --allowed-tools <tools...>","T")
.option("-c, --continue","C").addOption(new Gs("--mcp-config <configs...>","M"))
.addOption(new Gs("--sdk-url <url>","U"));
throw new E("--print must be something");
y.command("gateway",{hidden:!0}).option("--config <path>","C")
a={subtype:P("initialize"),hooks:1};b={subtype:H.literal("interrupt")};c={type:P("result"),subtype:P("success_like")};
d={subtype:P("set_model")};e={subtype:P("mcp_set_servers")};f={subtype:P("can_use_tool")};g={subtype:P("success")};
h=["PreToolUse","PostToolUse"];i=["PreToolUse","PostToolUse","Stop","SessionEnd","PreCompact"];
k={$schema:()=>r().describe("JSON Schema reference for Claude Code settings"),
apiKeyHelper:()=>r(),hooks:u({a:1,"b":{c:2}}),
...x({gone:1}),permissions:p(`${{d:"}"}} {e:1}`),cleanupPeriodDays:v().regex(/[:{"']\\/{/),
statusLine:u((e)=>{if(e)f:1}),last:1};
l={outside:1}
""" % ("-" * 600_000)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "claude"
    path.write_text(SOURCE)
    return path


def test_flags_are_those_that_are_declared_with_print(program: Path) -> None:
    assert CliLists(program).flags == {
        "-d": "optional", "--debug": "optional", "--debug-to-stderr": "none", "-p": "none",
        "--print": "none", "--json-schema": "one", "--allowedTools": "many", "--allowed-tools": "many", "-c": "none",
        "--continue": "none", "--mcp-config": "many", "--sdk-url": "one",
    }  # fmt: skip


def test_control_requests_are_not_answers(program: Path) -> None:
    assert CliLists(program).control_requests == CERTAIN["control requests"]


def test_events_are_those_of_the_longest_list(program: Path) -> None:
    assert CliLists(program).hook_events == {"PreToolUse", "PostToolUse", "Stop", "SessionEnd", "PreCompact"}


def test_settings_are_the_keys_of_the_schema(program: Path) -> None:
    wanted = {"$schema", "apiKeyHelper", "hooks", "permissions", "cleanupPeriodDays", "statusLine", "last"}
    assert CliLists(program).settings == wanted


LITERALS = {
    "{a:1,b:{c:2},d:[{e:3}]}": {"a", "b", "d"},
    "{a:x?y:z}": {"a"},
    "{a:\"}\",b:'{',c:`${{d:`}`}}`}": {"a", "b", "c"},
    "{a:1/2,b:/[/}]:/,c:3}": {"a", "b", "c"},
    "{}": set(),
}


@pytest.mark.parametrize(("text", "wanted"), LITERALS.items())
def test_keys_of_an_object(text: str, wanted: set[str]) -> None:
    assert keys(text + ",{after:1}") == wanted


@pytest.mark.parametrize("name", ["flags", "settings", "control_requests", "hook_events", "tools", "subcommands"])
def test_list_that_is_not_found_is_an_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / "claude"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    with pytest.raises(UnreadableError, match="were not found in this CLI"):
        getattr(CliLists(path), name)


# What is said


def cli(**changes: Any) -> Any:
    """Return the lists of a CLI that has exactly what the tables have, but for the changes."""
    absent = changes.pop("absent", ())
    lists = {
        "flags": dict(FLAGS), "subcommands": {"mcp"}, "tools": set(ALL_TOOLS), "settings": set(SETTINGS),
        "control_requests": set(REQUESTS), "hook_events": set(reviewed.EVENTS), "version": "9.0.0",
        "help_words": set(), "mentions": lambda name: name.strip('"') not in absent,
    }  # fmt: skip
    return SimpleNamespace(**lists | changes)


def test_what_is_the_same_needs_no_word() -> None:
    assert drift(cli(), cli) == []


NEWS: dict[str, tuple[dict[str, Any], str]] = {
    "flag": ({"flags": {**FLAGS, "--telepathy": "one"}}, "new: the flag --telepathy; it belongs in a row in FLAGS"),
    "subcommand": ({"subcommands": {"mcp", "dream"}}, "new: the subcommand dream; it belongs in SUBCOMMANDS"),
    "tool": ({"tools": {*ALL_TOOLS, "Dream"}}, "new: the tool Dream; it belongs in one of the lists"),
    "setting": ({"settings": {*SETTINGS, "dream"}}, "new: the setting dream; it belongs in bridge/policy"),
    "request": ({"control_requests": {*REQUESTS, "dream"}}, "new: the control request dream; it belongs in REQUESTS"),
    "event": ({"hook_events": {*reviewed.EVENTS, "Dream"}}, "new: the hook event Dream; it belongs in tests/drift"),
    "values": ({"flags": {**FLAGS, "--model": "many"}}, "changed: the flag --model takes many values, not one"),
    "no flag": ({"flags": {n: v for n, v in FLAGS.items() if n != "--model"}}, "gone: the flag --model; a row in"),
    "no tool": ({"absent": ["Bash"]}, "gone: the tool Bash; one of the lists"),
    "no event": ({"hook_events": reviewed.EVENTS - {"Stop"}}, "gone: the hook event Stop; tests/drift/reviewed.py"),
    "no setting": ({"settings": SETTINGS - {"env"}, "absent": ["env"]}, "gone: the setting env; bridge/policy"),
    "no request": ({"absent": ["interrupt"]}, "gone: the control request interrupt; REQUESTS"),
}


@pytest.mark.parametrize(("changes", "line"), NEWS.values(), ids=NEWS)
def test_each_difference_is_one_line(changes: dict[str, Any], line: str) -> None:
    (said,) = drift(cli(**changes), lambda: cli(**changes))
    assert said.startswith(line)


def test_what_an_older_version_still_has_is_not_gone() -> None:
    assert drift(cli(hook_events=reviewed.EVENTS - {"Stop"}), cli) == []


def test_what_an_older_version_has_not_yet_is_not_gone() -> None:
    older = cli(version="2.1.197", hook_events=reviewed.EVENTS - {"PostModelSwitch"})
    assert drift(older, lambda: older) == []


# The issue

GH = """#!/bin/sh
echo "$*" >>"$LOG"
case "$1 $2" in
"issue list") cat "$OPEN" ;;
"issue create") cat >>"$LOG"; echo https://github.example/issues/1 ;;
esac
"""


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """GitHub's command as a script. Returns the file with its arguments."""
    (tmp_path / "gh").write_text(GH)
    (tmp_path / "gh").chmod(0o755)
    (tmp_path / "open").write_text("")
    (tmp_path / "drift.txt").write_text("x" * 70_000 + "\nnew: the flag --telepathy\n```\n")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("OPEN", str(tmp_path / "open"))
    return tmp_path / "log"


def test_issue_is_opened_with_the_end_of_the_output(said: Path) -> None:
    assert report(said.parent / "drift.txt") == "https://github.example/issues/1"
    told = said.read_text()
    assert f"issue create --title The newest Claude Code differs from what the bridge knows --label {LABEL}" in told
    assert "new: the flag --telepathy\n'''" in told
    assert len(told) < 65_536


def test_one_issue_is_open_at_a_time(said: Path) -> None:
    (said.parent / "open").write_text("7\n")
    assert report(said.parent / "drift.txt") == "issue 7 is open already"
    assert "issue create" not in said.read_text()
