"""Calls of the wrapper against a server with a scripted CLI: input, output, and how calls end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import Any

import pytest

from tests.support.bridge_host import OWNER, SECRET, BridgeHost, Place
from tests.support.stream_json import STREAM
from tests.support.waiting import wait_until


def report(place: Place, *argv: str | bytes, **options: Any) -> dict[str, Any]:
    """Return what the CLI saw when it was started."""
    done = place.run("-p", "report", *argv, **options)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# Bytes


def test_stdin_comes_back_byte_for_byte(place: Place) -> None:
    data = os.urandom(1_000_003)
    done = place.run("-p", "cat", stdin=data)
    assert done.stdout == data
    assert done.stderr == b"1000003"


def test_stdout_and_stderr_stay_apart(place: Place) -> None:
    done = place.run("-p", "out a;err b;out c;err d")
    assert (done.stdout, done.stderr) == (b"ac", b"bd")


def test_character_whose_bytes_come_alone_stays_whole(place: Place) -> None:
    assert place.run("-p", "halves").stdout.decode() == "naïve \U0001f600 ü"


def test_large_output_is_complete(place: Place) -> None:
    done = place.run("-p", "flood 20000000")
    assert len(done.stdout) == 20_000_000
    assert done.stdout == (bytes(range(256)) * 78125)[:20_000_000]


def test_output_comes_while_the_call_runs(place: Place) -> None:
    with place.start("-p", "ready;cat") as running:
        assert running.line() == b"ready\n"
        assert running.end(b"then") == (0, b"then", b"4")


@pytest.mark.parametrize("word", [b"a b", b"", b"line\nfeed x", b"\xff\xfe x", b"'\"$(x)`;", "naïve ☃".encode()])
def test_argument_arrives_as_it_was_given(place: Place, word: bytes) -> None:
    argv = report(place, "--append-system-prompt", word)["argv"]
    (told,) = [value for arg in argv if (value := bytes.fromhex(arg)).startswith(b"--append-system-prompt=")]
    assert told.startswith(b"--append-system-prompt=" + (word and word + b"\n\n") + b"You work for a container.")


# stdin: nothing, a pipe, a file


def test_without_stdin_the_cli_reads_the_end_at_once(place: Place) -> None:
    done = place.run("-p", "cat")
    assert (done.returncode, done.stderr) == (0, b"0")


def test_closed_stdin_is_the_same_as_none(place: Place) -> None:
    words = place.box("/bin/sh", "-c", "exec /app/claude -p cat <&-")
    done = subprocess.run(words, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, b"0")


def test_file_as_stdin_is_carried(place: Place) -> None:
    (place.workspace / "in").write_bytes(b"x" * 100_000)
    done = subprocess.run(place.box("/bin/sh", "-c", "exec /app/claude -p cat <in"), capture_output=True, check=False)
    assert done.stderr == b"100000"


def test_end_of_stdin_leaves_output_open(place: Place) -> None:
    with place.start("-p", "cat;out more") as running:
        assert running.end() == (0, b"more", b"0")


def test_reader_that_leaves_does_not_end_the_call(place: Place) -> None:
    words = place.box("/bin/sh", "-c", "/app/claude -p 'flood 3000000;touch done;exit 5' | head -c 10; wait")
    done = subprocess.run(words, capture_output=True, timeout=30, check=False)
    assert len(done.stdout) == 10
    wait_until((place.workspace / "done").exists, 10, "the end of the call")


# Exit codes and signals

SIGNALLER = """
import signal, subprocess, sys
number = int(sys.argv[1])
signal.signal(number, signal.SIG_DFL)  # the tests may run under nohup, and the wrapper honours what it inherits
process = subprocess.Popen(["/app/claude", "-p", "ready;wait"], stdout=subprocess.PIPE)
process.stdout.readline()
process.send_signal(number)
print(process.wait())
"""


@pytest.mark.parametrize("code", [0, 1, 7, 125, 126, 127, 255])
def test_exit_code_is_the_cli_s(place: Place, code: int) -> None:
    assert place.run("-p", f"exit {code}").returncode == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_signal_that_ends_the_cli_becomes_128_and_its_number(place: Place, number: int) -> None:
    assert place.run("-p", f"die {int(number)}").returncode == 128 + number


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signal_to_the_wrapper_reaches_the_cli(place: Place, number: int) -> None:
    words = place.box("/usr/bin/python3", "-c", SIGNALLER, str(int(number)))
    with place.start(words=words) as running:
        assert int(running.end()[1]) == 128 + number


def test_cli_that_ignores_signals_is_left_by_the_third(shared_host: BridgeHost, place: Place) -> None:
    script = "/app/claude -p 'ignore;ready;wait' & child=$!; read go; for i in 1 2 3; do kill -TERM $child; sleep 0.2;"
    words = place.box("/bin/bash", "-c", script + " done; wait $child; echo $?")
    with place.start(words=words) as running:
        assert running.line() == b"ready\n"
        assert int(running.end(b"go\n")[1]) == 128 + signal.SIGTERM
    wait_until(lambda: not shared_host.children(), 2.5, "the end of the CLI on the host")


def test_killed_wrapper_leaves_nothing_on_the_host(shared_host: BridgeHost, place: Place) -> None:
    with place.start("-p", "orphan /workspace/alive;ignore;ready;wait") as running:
        assert running.line() == b"ready\n"
        wait_until((place.workspace / "alive").exists, 10, "the orphan")
        running.process.kill()
    wait_until(lambda: not shared_host.children(), 2.5, "the end of everything")
    size = (place.workspace / "alive").stat().st_size
    wait_until(lambda: not shared_host.calls(place), 5, "an idle server")
    assert (place.workspace / "alive").stat().st_size == size


def test_orphan_does_not_outlive_its_call(shared_host: BridgeHost, place: Place) -> None:
    assert place.run("-p", "orphan /workspace/alive;exit 3").returncode == 3
    wait_until(lambda: not shared_host.children(), 2.5, "the end of the orphan")


# What the CLI sees


def test_namespace_holds_the_workspace_and_nothing_of_the_host(place: Place) -> None:
    root = report(place)["root"]
    assert set(root) <= {"bin", "claude", "dev", "etc", "home", "lib", "lib32", "lib64", "opt", "proc", "sbin", "tmp",
                         "usr", "workspace"}  # fmt: skip


def test_cli_runs_as_the_workspace_s_owner_without_privileges(place: Place) -> None:
    facts = report(place)
    assert facts["ids"] == [OWNER, OWNER, []]
    assert {line.split()[1] for line in facts["capabilities"]} == {"0" * 16}


def test_no_descriptor_but_the_pipes_and_the_credential_is_open(place: Place) -> None:
    facts = report(place)
    credential = facts["env"]["CLAUDE_CODE_API_KEY_FILE_DESCRIPTOR"]
    assert set(facts["fds"]) <= {"0", "1", "2", credential}
    assert facts["fds"][credential].startswith("pipe:")


def test_secret_is_in_no_variable_and_no_argument(place: Place) -> None:
    facts = report(place)
    assert SECRET not in json.dumps(facts)


def test_environment_is_made_from_nothing(place: Place) -> None:
    steering = {"LD_PRELOAD": "/x.so", "ANTHROPIC_BASE_URL": "http://x", "BUN_OPTIONS": "--preload=/x", "FOO": "bar"}
    environment = report(place, env={"TERM": "xterm", **steering})["env"]
    assert environment["TERM"] == "xterm"
    assert environment.pop("ANTHROPIC_BASE_URL") == "http://api.anthropic.com", "the bridge's own"
    assert not steering.keys() & environment.keys()
    assert "PWD" not in environment or environment["PWD"] == "/workspace"


def test_directory_is_the_client_s(place: Place) -> None:
    (place.workspace / "a b").mkdir()
    assert report(place, cwd="/workspace/a b")["cwd"] == "/workspace/a b"


def test_file_of_claude_belongs_to_the_workspace_s_owner(place: Place) -> None:
    assert place.run("-p", "touch new").returncode == 0
    assert (place.workspace / "new").stat().st_uid == OWNER


def test_project_memory_travels_with_the_call(place: Place) -> None:
    (place.workspace / "sub").mkdir()
    (place.workspace / "CLAUDE.md").write_text("outer @sub/more.md")
    (place.workspace / "sub/more.md").write_text("imported")
    (place.workspace / "sub/CLAUDE.md").write_text("inner")
    memory = report(place, cwd="/workspace/sub")["memory"]
    assert memory.index("outer") < memory.index("imported") < memory.index("inner")


def test_project_memory_leads_nowhere_outside(place: Place) -> None:
    (place.workspace / "CLAUDE.md").symlink_to("/root/secret")
    assert report(place)["memory"] == ""


# Refused


@pytest.mark.parametrize(
    ("argv", "cwd", "sentence"),
    [
        (["--settings", '{"apiKeyHelper": "x"}'], "/workspace", "would run on the host"),
        (["-p", "x", "--worktree"], "/workspace", "runs git on the host"),
        (["mcp", "list"], "/workspace", "on the host"),
        (["-p", "x y"], "/tmp", "not shared with the host"),
    ],
)
def test_refusal_is_126_and_a_sentence(place: Place, argv: list[str], cwd: str, sentence: str) -> None:
    done = place.run(*argv, cwd=cwd)
    assert done.returncode == 126
    assert sentence in done.stderr.decode()
    assert done.stderr.startswith(b"bridge: ")


def test_refused_control_request_is_answered_in_the_stream(place: Place) -> None:
    request = {"type": "control_request", "request_id": "r1", "request": {"subtype": "get_settings"}}
    user = {"type": "user", "message": {"role": "user", "content": "hi"}}
    lines = b"".join(json.dumps(message).encode() + b"\n" for message in (user, request, user))
    done = place.run("--input-format", "stream-json", "--output-format", "stream-json", "--verbose", stdin=lines)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["type"] for answer in answers].count("user") == 2
    (refused,) = [answer["response"] for answer in answers if answer["type"] == "control_response"]
    assert (refused["request_id"], refused["subtype"]) == ("r1", "error")


def test_line_that_is_no_message_ends_the_call_with_126(place: Place) -> None:
    done = place.run("--input-format", "stream-json", "--verbose", stdin=b"not json\n")
    assert done.returncode == 126
    assert b"line 1 on stdin is no JSON" in done.stderr


def test_missing_directory_is_125_and_names_no_host_path(shared_host: BridgeHost, place: Place) -> None:
    (place.workspace / "tmp").mkdir()
    options = ("--tmpfs", "/workspace/tmp", "--dir", "/workspace/tmp/in", "--chdir", "/workspace/tmp/in")
    done = place.run("-p", "x y", options=options)
    assert done.returncode == 125
    assert str(shared_host.directory).encode() not in done.stderr
    assert b"is not there on the host" in done.stderr


# Version and help


def test_version_and_help_start_no_process(shared_host: BridgeHost, place: Place) -> None:
    before = shared_host.status()["served"]
    assert place.run("--version").stdout == b"9.9.9 (Claude Code)\n"
    assert place.run("--help").stdout == b"Usage: claude\n"
    assert shared_host.status()["served"] == before
    assert "started" not in {entry["event"] for entry in shared_host.audit() if entry.get("grant") == place.name}


def test_refusal_answers_the_first_request_of_an_sdk(place: Place) -> None:
    """Then the exception of the SDK carries the sentence."""
    request = {"type": "control_request", "request_id": "7", "request": {"subtype": "initialize"}}
    done = place.run(*STREAM, "--plugin-dir", "/x", stdin=json.dumps(request).encode() + b"\n")
    answer = json.loads(done.stdout)["response"]
    assert (done.returncode, answer["request_id"], answer["subtype"]) == (126, "7", "error")
    assert answer["error"].startswith("bridge: --plugin-dir is not passed on to the host: ")
    assert answer["error"].encode() in done.stderr


@pytest.mark.parametrize("stdin", [b"", b"\n", b"[1]\n", b"no JSON"])
def test_refusal_says_nothing_to_other_input(place: Place, stdin: bytes) -> None:
    done = place.run(*STREAM, "--plugin-dir", "/x", stdin=stdin)
    assert (done.returncode, done.stdout) == (126, b"")
