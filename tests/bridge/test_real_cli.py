"""The real CLI, oldest and newest, over the bridge against a local Messages API: what people and SDKs do."""

from __future__ import annotations

import json
import uuid

import pytest

from tests.support.bridge_cli import VERSIONS
from tests.support.bridge_host import OWNER, SECRET
from tests.support.fake_messages_api import Fail, Say, Use, in_turn
from tests.support.real_host import RealHost, real_server
from tests.support.stream_json import STREAM, ask, messages, read, reply, user


def test_prompt_as_argument(real: RealHost) -> None:
    done = real.place().run("-p", "hello there")
    assert (done.returncode, done.stdout.decode().strip()) == (0, "heard: hello there"), done.stderr


def test_prompt_of_one_word_that_names_no_command(real: RealHost) -> None:
    assert real.place().run("-p", "hello").stdout.decode().strip() == "heard: hello"


def test_prompt_from_stdin(real: RealHost) -> None:
    assert real.place().run("-p", stdin=b"from a pipe").stdout.decode().strip() == "heard: from a pipe"


def test_json_output(real: RealHost) -> None:
    result = json.loads(real.place().run("-p", "hi you", "--output-format", "json").stdout)
    assert (result["result"], result["is_error"]) == ("heard: hi you", False)


def test_stream_json_output(real: RealHost) -> None:
    done = real.place().run("-p", "hi you", "--output-format", "stream-json", "--verbose")
    assert [message["type"] for message in messages(done.stdout)][-1] == "result"


def test_conversation_of_two_turns(real: RealHost) -> None:
    done = real.place().run(*STREAM, stdin=user("first words") + user("second words"))
    results = [message["result"] for message in messages(done.stdout) if message["type"] == "result"]
    assert results == ["heard: first words", "heard: second words"]
    assert done.returncode == 0


def test_conversation_goes_on_in_a_new_container(real: RealHost) -> None:
    place = real.place()
    first = json.loads(place.run("-p", "first words", "--output-format", "json").stdout)
    assert place.run("-p", "second words", "--resume", first["session_id"]).returncode == 0
    assert "first words" in real.api.prompts[-1].everything
    assert place.run("-p", "third words", "--continue").returncode == 0
    assert "second words" in real.api.prompts[-1].everything


def test_conversation_of_another_grant_does_not_exist(real: RealHost) -> None:
    first = json.loads(real.place().run("-p", "private words", "--output-format", "json").stdout)
    real.api.requests.clear()
    done = real.place().run("-p", "tell me", "--resume", first["session_id"])
    assert (done.returncode, real.api.prompts) == (1, [])
    assert b"No conversation found" in done.stderr


def test_conversation_belongs_to_the_workspace(real: RealHost) -> None:
    """Under one name of a grant: another workspace, the first one again, and a new clone of it."""
    first = real.place()
    assert first.run("-p", "words about the first").returncode == 0
    second = real.host.grant(first.name, folder=f"{first.name}-second")
    assert second.run("-p", "words about the second", "--continue").returncode == 0
    assert "words about the first" not in real.api.prompts[-1].everything
    assert real.host.grant(first.name).run("-p", "again", "--continue").returncode == 0
    first.workspace.rename(first.workspace.with_name(f"{first.name}-old"))
    assert real.host.grant(first.name).run("-p", "anew", "--continue").returncode == 0
    told = real.api.prompts[-1].everything
    assert "words about the first" in told
    assert "words about the second" not in told


def test_chosen_session_id(real: RealHost) -> None:
    chosen = str(uuid.uuid4())
    result = json.loads(real.place().run("-p", "x y", "--session-id", chosen, "--output-format", "json").stdout)
    assert result["session_id"] == chosen


def test_claude_reads_and_edits_the_workspace(real: RealHost) -> None:
    place = real.place()
    (place.workspace / "a.txt").write_text("old text")
    (place.workspace / "a.txt").chmod(0o666)
    real.api.part = in_turn(
        Use("Read", {"file_path": "/workspace/a.txt"}),
        Use("Edit", {"file_path": "/workspace/a.txt", "old_string": "old", "new_string": "new"}),
        Use("Write", {"file_path": "/workspace/b.txt", "content": "made"}),
        Say("done"),
    )
    done = place.run("-p", "edit it", "--permission-mode", "acceptEdits")
    assert done.stdout.decode().strip() == "done", done.stderr
    assert (place.workspace / "a.txt").read_text() == "new text"
    assert (place.workspace / "b.txt").stat().st_uid == OWNER


def test_project_memory_reaches_the_model(real: RealHost) -> None:
    place = real.place()
    (place.workspace / "CLAUDE.md").write_text("Always speak of otters.")
    assert place.run("-p", "x y").returncode == 0
    assert "Always speak of otters." in real.api.prompts[-1].everything


def test_project_memory_stays_out_when_the_client_says_so(real: RealHost) -> None:
    place = real.place()
    (place.workspace / "CLAUDE.md").write_text("Always speak of otters.")
    assert place.run("-p", "x y", "--setting-sources=").returncode == 0
    assert "otters" not in real.api.prompts[-1].everything


@pytest.mark.parametrize("version", VERSIONS)
def test_managed_settings_are_read(version: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The second layer behind the policy. A version that cannot read the file reports it as missing."""
    opened = {"allow": ["--debug-to-stderr"]}
    with real_server(tmp_path_factory.mktemp("managed"), version, policy=opened) as real:
        done = real.place().run("-p", "hi you", "--debug-to-stderr")
    said = [line for line in done.stderr.decode().splitlines() if "/etc/claude-code/managed-settings.json" in line]
    assert done.returncode == 0, done.stderr
    assert said, "the CLI did not look for it"
    assert not [line for line in said if "missing file" in line]


def test_structured_output(real: RealHost) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    real.api.part = in_turn(Use("StructuredOutput", {"n": 7}), Say("done"))
    done = real.place().run("-p", "count it", "--json-schema", json.dumps(schema), "--output-format", "json")
    assert json.loads(done.stdout)["structured_output"] == {"n": 7}, done.stderr


def test_error_of_the_api_is_the_cli_s_own(real: RealHost) -> None:
    real.api.part = lambda _: Fail(400, "invalid_request_error")
    done = real.place().run("-p", "x y")
    assert done.returncode == 1
    assert b"400" in done.stdout


def test_permission_is_asked_of_the_client(real: RealHost) -> None:
    place = real.place()
    real.api.part = in_turn(Use("Write", {"file_path": "/workspace/w.txt", "content": "asked"}), Say("done"))
    with place.start(*STREAM, "--permission-prompt-tool", "stdio") as running:
        running.stdin.write(ask("initialize", hooks=None) + user("write it"))
        running.stdin.flush()
        asked = next(read(running.line, lambda m: m.get("request", {}).get("subtype") == "can_use_tool"))
        response = {"behavior": "allow", "updatedInput": asked["request"]["input"]}
        running.stdin.write(reply(asked, response))
        running.stdin.flush()
        next(read(running.line, lambda m: m["type"] == "result"))
        assert running.end()[0] == 0
    assert (place.workspace / "w.txt").read_text() == "asked"


def test_hook_is_called_in_the_client(real: RealHost) -> None:
    hooks = {"UserPromptSubmit": [{"matcher": None, "hookCallbackIds": ["hook_0"]}]}
    with real.place().start(*STREAM) as running:
        running.stdin.write(ask("initialize", hooks=hooks) + user("hook me"))
        running.stdin.flush()
        called = next(read(running.line, lambda m: m.get("request", {}).get("subtype") == "hook_callback"))
        assert called["request"]["callback_id"] == "hook_0"
        running.stdin.write(reply(called, {}))
        running.stdin.flush()
        result = next(read(running.line, lambda m: m["type"] == "result"))
        assert result["result"] == "heard: hook me"
        assert running.end()[0] == 0


def test_interrupt_ends_the_turn_and_not_the_process(real: RealHost) -> None:
    real.api.part = lambda request: Say("late words", after=20) if "slow" in request.heard else Say("soon")
    with real.place().start(*STREAM) as running:
        running.stdin.write(user("slow question"))
        running.stdin.flush()
        next(read(running.line, lambda m: m["type"] == "system"))
        running.stdin.write(ask("interrupt"))
        running.stdin.flush()
        result = next(read(running.line, lambda m: m["type"] == "result"))
        assert result["subtype"] == "error_during_execution"
        running.end()


def test_credential_arrives_and_is_seen_nowhere(real: RealHost) -> None:
    done = real.place().run("-p", "x y", "--output-format", "json")
    assert {request.key for request in real.api.prompts} == {SECRET}
    assert SECRET.encode() not in done.stdout + done.stderr
    assert all(SECRET not in request.everything for request in real.api.requests)


@pytest.mark.parametrize("sources", ["user,project,local", "project"])
def test_task_master_s_flags(real: RealHost, sources: str) -> None:
    schema = json.dumps({"type": "object", "properties": {}})
    words = (*STREAM, "--model", "sonnet", "--json-schema", schema, "--setting-sources", sources)
    real.api.part = in_turn(Use("StructuredOutput", {}), Say("done"))
    done = real.place().run(*words, "--permission-mode", "default", stdin=user("plan it"))
    assert messages(done.stdout)[-1]["type"] == "result", done.stderr
