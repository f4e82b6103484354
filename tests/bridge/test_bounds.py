"""No call can use up what others need: descriptors, turns, memory, and time on the event loop."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import json
import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.policy import PolicyError, Scope
from bridge.policy.argv import rewrite
from bridge.policy.documents import MAX_FILE, MAX_FILES
from bridge.policy.heads import MAX_HEAD, MAX_HEADS, MAX_PARTS
from bridge.policy.project_policy import read
from bridge.protocol.frames import Frame, record
from bridge.server.host.acceptor import Acceptor
from bridge.server.host.config import MIB
from bridge.server.host.grants import Grant
from bridge.server.host.state_directory import StateDirectory
from bridge.server.host.trees import DIRECTORY, remove
from bridge.server.policy_worker import LIMIT_S
from bridge.server.sandbox import bubblewrap, processes
from bridge.server.sandbox.pipes import InputPump
from tests.support.bridge_flood import NONSENSE, PINGS, STREAM, Client
from tests.support.bridge_host import FAKE_CLI, OWNER, BridgeHost, HostMaker, Place, bridge_host, make_way
from tests.support.waiting import wait_until

WITH_COMMANDS = Scope(runs_commands=True, web=True)
AT_ONCE_S = 1.0
"""Processor time of this thread, so that other load on the machine does not matter."""


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def skill(number: int, head: str) -> bytes:
    return b".claude/skills/s%d/SKILL.md\n---\n%s\n---\ntext" % (number, head.encode())


# Descriptors


def test_call_that_runs_out_of_descriptors_gives_all_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = StateDirectory(tmp_path / "state")
    state.prepare()
    (tmp_path / "workspace").mkdir()
    os.chown(tmp_path / "workspace", OWNER, OWNER)
    plan = rewrite(["-p", "hi"], WITH_COMMANDS, files=[skill(n, "name: x") for n in range(50)])
    spec = bubblewrap.SandboxSpec(
        Grant.of("alpha", tmp_path / "workspace"),
        FAKE_CLI,
        plan.argv,
        {},
        "/workspace",
        b"",
        None,
        plan.project,
        tmp_path,
    )
    make, made = os.memfd_create, []

    def few(*arguments: object) -> int:
        made.append(arguments)
        if len(made) > 4:
            raise OSError(errno.EMFILE, "Too many open files")
        return make("few")

    monkeypatch.setattr(os, "memfd_create", few)
    before = descriptors()
    with pytest.raises(OSError, match="Too many"):
        bubblewrap.sandboxed(spec, state, WITH_COMMANDS)
    assert len(descriptors()) == len(before)


def test_files_of_a_client_that_keeps_no_limit_are_counted() -> None:
    project = read([skill(n, "name: x") for n in range(2 * MAX_FILES)], [], WITH_COMMANDS)
    assert len(project.files) <= MAX_FILES
    assert "too many" in " ".join(project.notes)


def test_listener_waits_while_nothing_can_be_accepted() -> None:
    """It does not call accept() again and again meanwhile, because that would use all of the server's time."""

    class Exhausted(socket.socket):
        asked = 0

        def accept(self) -> tuple[socket.socket, object]:
            Exhausted.asked += 1
            if Exhausted.asked == 1:
                raise OSError(errno.EMFILE, "Too many open files")
            return super().accept()

    async def play() -> int:
        taken: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        with Exhausted() as listener, socket.socket() as client:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            listener.setblocking(False)
            acceptor = Acceptor(listener, taken.set_result)
            client.connect(listener.getsockname())
            (await asyncio.wait_for(taken, 5)).close()
            acceptor.close()
        return Exhausted.asked

    assert asyncio.run(play()) == 2


# Turns


def test_call_that_cannot_be_started_gives_its_turn_back(host_per_test: HostMaker) -> None:
    host = host_per_test(limits={"running": 2, "per_grant": 2})
    place = host.grant("alpha")
    scratch = host.state / "scratch"
    scratch.rename(host.state / "away")  # no directory can be made, as with a full disk
    assert [place.run("-p", "out x").returncode for _ in range(4)] == [125] * 4
    (host.state / "away").rename(scratch)
    assert host.status()["running"] == 0
    assert place.run("-p", "out x").stdout == b"x"


@pytest.mark.parametrize("argv", [("-p", "out x"), ("-p", "out x", "--output-format", "json")])
def test_limit_is_told_on_stderr_also_where_notes_are_not(host_per_test: HostMaker, argv: tuple[str, ...]) -> None:
    place = host_per_test().grant("alpha")
    for name, text in {"commands/large.md": "x" * (MAX_FILE + 1), "settings.json": '{"apiKeyHelper": "x"}'}.items():
        path = place.workspace / ".claude" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        make_way(path)
        path.write_text(text)
    done = place.run(*argv)
    assert done.stderr == f"bridge: .claude/commands/large.md is left out: a file may have {MAX_FILE} bytes\n".encode()
    assert done.stdout == b"x"


def test_container_without_a_workspace_may_not_call(host_per_test: HostMaker) -> None:
    place = host_per_test().grant("alpha")
    words = [word for word in place.claude("-p", "out x", cwd="/") if word != "/workspace"]
    words.remove("--bind")
    words.remove(str(place.workspace))
    done = subprocess.run(words, capture_output=True, env={"PATH": "/usr/bin:/bin"}, timeout=20, check=False)
    assert (done.returncode, b"has no /workspace" in done.stderr) == (125, True), done.stderr


# The loop


def nested(levels: int) -> str:
    lines = [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, levels)]
    return "\n".join(["a0: &a0 {x: 1}", *lines])


PATIENCE = {
    "merged keys": [skill(1, nested(12))],
    "defaults": [b'.mcp.json\n{"mcpServers": {"a": {"command": "%s"}}}' % (b"${a:-" * 20_000)],
    "variables": [b'.mcp.json\n{"mcpServers": {"a": {"command": "%s"}}}' % (b"${A}" * 30_000)],
}


@pytest.mark.parametrize("files", PATIENCE.values(), ids=PATIENCE.keys())
def test_project_that_is_made_to_take_long_does_not(files: list[bytes]) -> None:
    begun = time.thread_time()
    read(files, [b"A=" + b"x" * 100_000], WITH_COMMANDS)
    assert time.thread_time() - begun < AT_ONCE_S


@pytest.mark.parametrize("entry", ["1,", "? a,"])
def test_heads_that_are_made_to_take_long_stay_within_a_worker_s_time(entry: str) -> None:
    head = f"name: [{entry * ((MAX_HEAD - 10) // len(entry))}]"
    begun = time.thread_time()
    project = read([skill(n, head) for n in range(2 * MAX_HEADS // MAX_HEAD)], [], WITH_COMMANDS)
    assert time.thread_time() - begun < LIMIT_S * 0.4
    assert 1 <= len(project.files) < MAX_HEADS // MAX_HEAD
    assert f"{MAX_PARTS} values together" in project.limits[0]


def test_heads_of_long_values_may_have_so_many_characters_together() -> None:
    head = f"name: [{', '.join(['x' * 99] * (MAX_HEAD // 102))}]"
    project = read([skill(n, head) for n in range(2 * MAX_HEADS // MAX_HEAD)], [], WITH_COMMANDS)
    assert len(project.files) == MAX_HEADS // len(head)
    assert f"{MAX_HEADS} characters together" in project.limits[0]


def test_rules_that_are_made_to_take_long_do_not() -> None:
    begun = time.thread_time()
    with pytest.raises(PolicyError, match="make it shorter"):
        rewrite(["-p", "hi", "--allowedTools", "a(" * 400_000], Scope(runs_commands=True))
    assert time.thread_time() - begun < AT_ONCE_S


HEADS = ["version: 2024-13-45", "version: !!bool x", "version: " + "9" * 5000, "a: &a [*a]", "? [a]\n: b"]


@pytest.mark.parametrize("head", HEADS)
def test_odd_head_is_a_line_and_no_more(head: str) -> None:
    project = read([skill(1, head), skill(2, "name: x")], [], WITH_COMMANDS)
    assert "skills/s2/SKILL.md" in project.files
    assert all("is left out: " in note for note in project.notes)


def test_hook_whose_fields_are_no_text_is_left_out() -> None:
    deep = b"[" * 900 + b"]" * 900
    hook = b'{"type": "command", "command": "true", "if": %s}' % deep
    settings = b'.claude/settings.json\n{"hooks": {"Stop": [{"hooks": [%s]}]}}' % hook
    project = read([settings], [], WITH_COMMANDS)
    assert "if of a hook of Stop is left out: this field is of another type" in " ".join(project.notes)
    assert dataclasses.asdict(project)["settings"] == {"hooks": {"Stop": [{"hooks": []}]}}


# Errors raised by the policy


ODD_PROJECTS = {
    "hooks": b'.claude/settings.json\n{"hooks":{"Stop":[{"hooks":5}]}}',
    "choice": b'.claude/settings.json\n{"disabledMcpjsonServers":5}',
    "deep": b'.mcp.json\n{"mcpServers":{"a":' + b'{"a":' * 900 + b"1" + b"}" * 902,
    "head": b".claude/agents/a.md\n---\n? [a]\n: b\n---\n",
}


def client_of(place: Place) -> Client:
    return Client(str(place.mount / "claude-bridge.sock"), str(place.workspace))


@pytest.mark.parametrize("file", ODD_PROJECTS.values(), ids=ODD_PROJECTS.keys())
def test_odd_project_is_a_note_and_the_call_starts(place: Place, file: bytes) -> None:
    client = client_of(place)
    assert client.started(client.call([b"-p", b"out x"], (file,)))


@pytest.mark.parametrize("line", NONSENSE, ids=range(len(NONSENSE)))
def test_odd_message_is_answered(shared_host: BridgeHost, place: Place, line: bytes) -> None:
    """The answer is an error of the call or a reply to the request. A message that means nothing has none, but the next
    one has. The connection stays open; nothing is logged."""
    before = shared_host.log.stat().st_size
    client = client_of(place)
    number = client.call(STREAM)
    assert client.started(number)
    odd = b'{"type":"control_request","request_id":"1","request":{"subtype":"odd"}}\n'
    client.feed(number, line + b"\n" + odd)
    answer = client.wait(lambda event: event.kind in (Frame.ERROR, Frame.STDOUT))
    if answer.kind == Frame.ERROR:
        assert answer.fields.get("kind") == b"policy"
        assert len(answer.fields.get("text")) < 1100
    else:
        assert b"bridge: refused: " in answer.payload
    assert shared_host.log.stat().st_size == before


def test_sentence_about_a_long_argument_is_short(shared_host: BridgeHost, place: Place) -> None:
    client = client_of(place)
    number = client.call([b"-p", b"--add-dir", b"/sekrit" + b"\xff" * 1_000_000])
    error = client.wait(lambda event: event.channel == number)
    assert (error.kind, error.fields.get("code")) == (Frame.ERROR, b"126")
    assert len(error.fields.get("text")) < 1100
    assert b"/sekrit" in error.fields.get("text")
    assert "sekrit" not in (shared_host.state / "audit.jsonl").read_text()


def test_long_message_is_passed_on_as_a_short_one_would_be(place: Place) -> None:
    """A process of its own checks the message. The stream continues after it."""
    text = "\U0001f600" + "x" * 3_000_000
    lines = [json.dumps({"type": "user", "message": {"content": part}}) for part in (text, "short")]
    done = place.run(*map(os.fsdecode, STREAM), stdin="\n".join(lines).encode())
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["message"]["content"] for line in done.stdout.splitlines()] == [text, "short"]


def test_long_request_is_refused_in_its_place(place: Place) -> None:
    request = {"subtype": "start_shell_task", "x": "y" * 100_000}
    lines = [{"type": "control_request", "request_id": "7", "request": request}, {"type": "keep_alive"}]
    done = place.run(*map(os.fsdecode, STREAM), stdin="\n".join(map(json.dumps, lines)).encode())
    said = {message["type"]: message for message in map(json.loads, done.stdout.splitlines())}
    assert said["control_response"]["response"]["request_id"] == "7"
    assert "keep_alive" in said


def test_project_that_is_judged_elsewhere_counts_as_before(place: Place) -> None:
    agents = place.workspace / ".claude" / "agents"
    agents.mkdir(parents=True)
    (agents / "a.md").write_text("---\nname: a\nmcpServers: [{x: {command: cat}}]\n---\nx")
    done = place.run("-p", "report", env={"CLAUDE_BRIDGE_NOTES": "always"})
    assert done.returncode == 0
    assert b"mcpServers is left out: the CLI starts none" in done.stderr


def test_judges_have_no_rights_and_end_with_the_server(host_per_test: HostMaker) -> None:
    host = host_per_test()
    place = host.grant("alpha")
    assert place.run("-p", "out x", "--append-system-prompt", "y" * 50_000).stdout == b"x"
    judges = host.judges()
    assert len(judges) == 2, "the one that forks, and the grant's"
    owners = {pid: Path(f"/proc/{pid}").stat().st_uid for pid in judges}
    assert set(owners.values()) == {65534}
    host.end(signal.SIGKILL)
    wait_until(lambda: not [pid for pid in judges if Path(f"/proc/{pid}").exists()], 5, "the judges' end")


# Answers that nobody reads


def test_pings_whose_answers_nobody_reads_are_read_no_more(shared_host: BridgeHost, place: Place) -> None:
    """The server reads no more than the kernel's buffers in both directions hold, and less than a megabyte more."""
    client = client_of(place)
    client.sock.setblocking(False)
    sent = 0
    while sent < 50_000_000 and select.select([], [client.sock], [], 1.0)[1]:
        sent += client.sock.send(PINGS)
    assert sent < 3_000_000


def test_revoked_client_that_reads_nothing_is_cut_off(shared_host: BridgeHost, place: Place) -> None:
    client = client_of(place)
    client.sock.settimeout(1.0)
    with pytest.raises(TimeoutError):
        client.sock.sendall(PINGS * 200)
    shared_host.tell("revoke", place.name)
    poll = select.poll()
    poll.register(client.sock, select.POLLHUP)
    assert poll.poll(4000), "the connection is closed"


# How commands end


@pytest.mark.parametrize(("told", "code"), [
    ({"signal": 19}, 147), ({"signal": 20}, 148), ({"signal": 10**17, "code": 3}, 3), ({"signal": 200}, 125),
    ({"code": 7}, 7),
])  # fmt: skip
def test_command_that_ends_by_no_signal_has_an_exit_code(place: Place, told: dict[str, int], code: int) -> None:
    client = client_of(place)
    number = client.call([b"-p", b"handed"], stdin="none")
    run = client.wait(lambda event: event.kind == Frame.RUN)
    client.sock.sendall(record(Frame.EXIT, run.channel, **told))
    out = client.wait(lambda event: event.channel == number and event.kind == Frame.STDOUT)
    assert out.payload == b"%d" % code


# Memory


def test_call_that_takes_too_much_memory_ends_and_another_goes_on(host_per_test: HostMaker) -> None:
    """Each of the two processes stays below the limit. Together they are above it."""
    host = host_per_test(limits={"memory": 200})
    modest, greedy = host.grant("modest"), host.grant("greedy")
    with modest.start("-p", "hog 60") as other:
        wait_until(lambda: memory_of(modest) > 120 * MIB, 25, "a call with much memory")
        refused = greedy.run("-p", "hog 150")
        assert refused.returncode == 125
        assert b"more memory than the host allows a call (200 MiB)" in refused.stderr
        assert b"limits.memory" in refused.stderr
        wait_until(lambda: not greedy.cli(), 25, "the end of its processes")
        assert memory_of(modest) > 120 * MIB
        other.process.terminate()
    (ended,) = [entry for entry in host.audit() if entry["event"] == "failed"]
    assert (ended["grant"], ended["why"]) == ("greedy", "memory")


def memory_of(place: Place) -> int:
    return sum(map(processes.memory, place.cli()))


# The disk


def test_grant_that_takes_too_much_of_the_disk_is_told_so(host_per_test: HostMaker) -> None:
    host = host_per_test(limits={"disk": 1})
    place = host.grant("alpha")
    assert place.run("-p", "out x").returncode == 0
    kept = next((host.state / "private").rglob("projects")) / "x.jsonl"
    kept.write_bytes(b"x" * 1_500_000)
    wait_until(lambda: host.status()["grants"]["alpha"]["problem"], 25, "the disk to be measured")
    assert "limits.disk" in host.tell("status").stdout
    refused = place.run("-p", "out x")
    assert (refused.returncode, b"limits.disk" in refused.stderr) == (125, True)
    kept.unlink()
    wait_until(lambda: place.run("-p", "out x").returncode == 0, 25, "a call")


def deepen(directory: Path, name: str, levels: int) -> int:
    """Create nested directories. Returns the descriptor of the innermost one."""
    here = os.open(directory, DIRECTORY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    return here


def test_deep_names_do_not_get_round_the_limit_of_the_disk(host_per_test: HostMaker) -> None:
    """The file lies below names so long that no path of the host can reach it."""
    host = host_per_test(limits={"disk": 1})
    place = host.grant("alpha")
    assert place.run("-p", "out x").returncode == 0
    kept = next((host.state / "private").rglob("projects"))
    here = deepen(kept, "a" * 200, 25)
    fd = os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=here)
    os.write(fd, b"x" * 1_500_000)
    os.close(fd)
    os.close(here)
    wait_until(lambda: place.run("-p", "out x").returncode == 125, 25, "the disk to be measured")
    assert "limits.disk" in host.tell("status").stdout
    assert remove(kept / ("a" * 200)) == ""


def test_directory_of_a_call_is_removed_however_deep() -> None:
    """Without a namespace, this is where the CLI keeps its own files."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as passable:
        Path(passable).chmod(0o755)
        with bridge_host(Path(passable), confinement="none") as host:
            place, scratch = host.grant("one"), host.state / "scratch"
            with place.start("-p", "ready;wait") as running:
                running.line()
                os.close(deepen(next(scratch.iterdir()), "x", 1900))
            wait_until(lambda: not list(scratch.iterdir()), 10, "the end of the directory")
            assert "Recursion" not in host.log.read_text()


# Memory


@pytest.fixture
def small() -> Iterator[Path]:
    """A directory on a tmpfs of one megabyte."""
    with tempfile.TemporaryDirectory() as name:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", name], check=True)
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", name], check=True)


def test_output_for_a_file_that_is_nearly_full_ends_nothing(small: Path) -> None:
    async def play() -> bool:
        drained: list[bool] = []
        pump = InputPump(os.open(small / "output", os.O_WRONLY | os.O_CREAT), lambda: drained.append(True))
        pump.write(b"x" * 3_000_000)
        pump.close()
        return bool(drained)

    assert asyncio.run(play())
    assert (small / "output").stat().st_size > 900_000
