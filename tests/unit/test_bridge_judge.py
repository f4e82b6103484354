"""The limits of what a policy worker may answer, should an attacker control it; and that no message takes it long."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest

from bridge.policy import PolicyError, Scope
from bridge.policy.argv import rewrite
from bridge.policy.control_messages import ControlFilter
from bridge.policy.project_policy import MAX_HOOKS, read
from bridge.server.policy_worker import pack, unpack

WITH_COMMANDS = Scope(runs_commands=True)


def changed(**parts: Any) -> bytes:
    """Return a plan of an ordinary call with some parts replaced."""
    plan = json.loads(pack(rewrite(["-p", "--model", "opus", "hi you"], WITH_COMMANDS)))
    return json.dumps({**plan, **parts}).encode() + b"\nx"


def test_plan_of_an_ordinary_call_travels() -> None:
    assert unpack(changed(), WITH_COMMANDS).prompt == "hi you"


@pytest.mark.parametrize("name", ["../../x.md", "/etc/x", "agents/../../x.md", "x", "skills/a/../../b/SKILL.md", ""])
def test_judge_names_no_file_of_its_own(name: str) -> None:
    with pytest.raises(ValueError, match="file"):
        unpack(changed(files=[[name, 1]]), WITH_COMMANDS)


TAILS = [
    ["--debug-file=/x"],
    ["--plugin-dir=/x"],
    ["--print", "--", "--tmux"],
    ["--", "a", "b"],
    ["mcp"],
    ["--sdk-url=x"],
]


@pytest.mark.parametrize("argv", TAILS)
def test_judge_names_no_flag_of_its_own(argv: list[str]) -> None:
    with pytest.raises(ValueError, match="flag"):
        unpack(changed(argv=argv), WITH_COMMANDS)


@pytest.mark.parametrize("rest", [b"", b"\\", b'"', b"\n"])
def test_string_that_never_ends_takes_no_time(rest: bytes) -> None:
    """The string was once searched again from each of its quotes."""
    begun = time.thread_time()
    with contextlib.suppress(PolicyError):
        ControlFilter(WITH_COMMANDS).feed(b'"' + b'\\"' * 600_000 + rest + b"\n")
    assert time.thread_time() - begun < 1.0


def test_hooks_of_a_file_have_an_end() -> None:
    """All hooks of one event run at once, and each is a process on the host."""
    hook = {"hooks": [{"type": "command", "command": "true"}]}
    settings = json.dumps({"hooks": {"UserPromptSubmit": [hook] * 1500}}).encode()
    project = read([b".claude/settings.json\n" + settings], [], WITH_COMMANDS)
    assert sum(len(group["hooks"]) for group in project.settings["hooks"]["UserPromptSubmit"]) == MAX_HOOKS
    assert f"more than {MAX_HOOKS} hooks" in " ".join(project.notes)
