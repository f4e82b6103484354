"""What a hostile client may cost the server: time of its event loop, memory and directories."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.client.excludes import exclusion
from bridge.policy import PolicyError, Scope
from bridge.policy.argv import MAX_ARGUMENT, rewrite
from bridge.policy.documents import MAX_DIRECTORIES, directories
from bridge.policy.globs import _matches, moved
from bridge.policy.heads import _SPACE, split_head
from bridge.policy.mcp_servers import MAX_SERVERS
from bridge.policy.project_policy import read
from bridge.protocol.frames import Fields
from bridge.server.policy_pool import is_small
from bridge.server.policy_worker import MAX_DIRECTORY, pack, plan_of, unpack

SCOPE = Scope(runs_commands=True, web=True)
AS_ONE_PATTERN = re.compile(rf"---{_SPACE}*\n(.*?)---{_SPACE}*\n?", re.DOTALL)
"""The CLI's own pattern for a head."""


def seconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


@given(st.text("-\n\r a\u2028", max_size=16), st.sampled_from(["", "---", "---\n", "---\n\n"]))
def test_head_is_that_of_the_cli_s_pattern(text: str, start: str) -> None:
    found = AS_ONE_PATTERN.match(start + text)
    head, body, mark = split_head(start + text)
    assert mark == ""
    assert (head, body) == (
        (found[1].replace("\r\n", "\n"), (start + text)[found.end() :]) if found else (None, start + text)
    )


@pytest.mark.parametrize("kind", ["project", "local", "agents", "rule"])
def test_instructions_with_many_blanks_take_no_time(kind: str) -> None:
    text = f"{kind}\n/workspace\n/workspace/CLAUDE.md\n---" + "\n" * 250_000
    assert seconds(lambda: rewrite(["-p", "x"], SCOPE, memory=[text.encode()])) < 0.5


def test_globs_with_many_stars_take_no_time() -> None:
    glob = "*a" * 40 + "b/x"
    assert seconds(lambda: moved([glob], "/workspace", "/workspace/" + "a" * 200)) < 0.5


@given(st.text("ab*?", max_size=8), st.text("ab", min_size=1, max_size=8))
def test_globs_match_as_their_pattern_does(glob: str, name: str) -> None:
    pattern = "".join({"*": "[^/]*", "?": "[^/]"}.get(sign, re.escape(sign)) for sign in glob)
    assert _matches(glob, name) == bool(re.fullmatch(pattern, name))


@pytest.mark.parametrize("cwd", ["/workspace" + "/a" * MAX_DIRECTORY, "/workspace/" + "a" * 256, "/etc"])
def test_directory_that_cannot_be_is_refused_before_anything_is_joined_to_it(cwd: str) -> None:
    many = json.dumps({"permissions": {"additionalDirectories": ["a"] * 3000}})
    sent = [("arg", b"-p"), ("cwd", cwd.encode()), ("file", b".claude/settings.json\n" + many.encode())]
    with pytest.raises(PolicyError, match="the directory '/"):
        plan_of(Fields(sent), SCOPE)


@pytest.mark.parametrize("name", ["cwd", "env", "omitted", "large"])
def test_no_field_is_too_large_for_the_event_loop_unseen(name: str) -> None:
    assert is_small(Fields([("arg", b"-p"), (name, b"x" * 10_000)]))
    assert not is_small(Fields([("arg", b"-p"), (name, b"x" * 1_000_000)]))


def deep(number: int) -> bytes:
    return b".claude/agents/%d/%sx.md\n---\nname: x\ndescription: x\n---\nx" % (number, b"a/" * 36)


def test_directories_of_a_call_are_bounded() -> None:
    project = read([deep(number) for number in range(500)], [], SCOPE)
    assert 20 < len(project.files) < 40
    assert len(directories(project.files)) <= MAX_DIRECTORIES
    assert "left out: a call's files have 1024 directories" in project.notes[0]
    plan = rewrite(["-p", "x"], SCOPE)
    plan.project.files = {f"agents/{number}/{'a/' * 30}x.md": b"" for number in range(100)}
    with pytest.raises(ValueError, match="directories"):
        unpack(pack(plan), SCOPE)


def test_variables_in_many_servers_are_bounded() -> None:
    entries = {str(number): {"command": "${A}${A}${A}"} for number in range(400)}
    config = json.dumps({"mcpServers": entries})
    with pytest.raises(PolicyError, match=f"longer than {MAX_SERVERS} bytes together"):
        rewrite(["-p", "x", "--mcp-config", config], SCOPE, env=[b"A=" + b"\x01" * 16_000])


def test_no_argument_is_longer_than_linux_takes() -> None:
    entries = {str(number): {"command": "x" * 60_000} for number in range(3)}
    values = [json.dumps({"mcpServers": {name: entry}}) for name, entry in entries.items()]
    with pytest.raises(PolicyError, match=f"--mcp-config has more than {MAX_ARGUMENT} bytes in all"):
        rewrite(["-p", "x", "--mcp-config", *values], SCOPE)


def test_unknown_flag_of_the_operator_s_swallows_no_argument_of_the_bridge() -> None:
    argv = rewrite(["-p", "x", "--newflag"], Scope(runs_commands=True, allowed=frozenset({"--newflag"}))).argv
    assert argv[argv.index("--newflag") + 1] == "--strict-mcp-config"
    assert argv.count("--strict-mcp-config") == 2
    assert "--setting-sources=user" in argv


def test_setting_names_no_file_of_the_host() -> None:
    text = json.dumps({"spinnerTipsOverride": {"tips": ["a"], "tipsFile": "/etc/passwd"}})
    project = read([b".claude/settings.json\n" + text.encode()], [], SCOPE)
    assert project.settings == {"spinnerTipsOverride": {"tips": ["a"]}}
    assert "spinnerTipsOverride.tipsFile" in project.notes[0]


def test_kind_of_a_refusal_holds_no_part_of_a_quoted_word() -> None:
    with pytest.raises(PolicyError) as refused:
        rewrite(["-p", "x", "--settings", json.dumps({"a' the client's own words 'b": 1})], SCOPE)
    assert "client" not in refused.value.kind


def test_glob_with_hyphens_does_not_end_the_head_of_its_rule() -> None:
    rule = b'rule\n/workspace\n/workspace/.claude/rules/a.md\n---\npaths: ["src/\\u002d--/b"]\n---\nRULE'
    (text,) = rewrite(["-p", "x"], SCOPE, memory=[rule]).project.files.values()
    head, body, _ = split_head(text.decode())
    assert head is not None
    assert body == "RULE"


def test_variables_in_servers_of_agents_are_bounded() -> None:
    entries = [{"a": {"command": "${A}${A}${A}${A}"}}] * 370
    words = ["-p", "x", "--agents", json.dumps({"x": {"description": "d", "prompt": "p", "mcpServers": entries}})]
    assert not is_small(Fields([("arg", word.encode()) for word in words])), "it is judged in a process of its own"

    def judge() -> None:
        with pytest.raises(PolicyError, match=f"longer than {MAX_SERVERS} bytes together"):
            rewrite(words, SCOPE, env=[b"A=" + b"\x80" * 16_000])

    assert seconds(judge) < 0.1


@pytest.mark.parametrize("glob", ["**/" * 12 + "z", "[z-a]", "[a--b]"])
def test_globs_of_claude_md_excludes_take_no_time_and_break_nothing(glob: str) -> None:
    setting = json.dumps({"claudeMdExcludes": [glob, "**/x"]}).encode()
    is_excluded = exclusion([setting])
    assert seconds(lambda: is_excluded(b"/workspace" + b"/a" * 60)) < 0.1
    assert is_excluded(b"/workspace/x")


@pytest.mark.parametrize("head", ["tools: {!!timestamp '2001-01-01': x}", "tools: {!!binary aGk=: x}"])
def test_head_that_json_cannot_hold_leaves_out_its_file_alone(head: str) -> None:
    files = [
        b".claude/agents/%s.md\n---\nname: %s\n%s\n---\nx" % (name, name, text)
        for name, text in (
            (b"odd", head.encode()),
            (b"good", b"description: d"),
        )
    ]
    project = read(files, [], SCOPE)
    assert "agents/good.md" in project.files
