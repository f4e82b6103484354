"""The server's life: publishing, restart, kill, reload, revoke, overload; and the errors that clients get."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bridge.protocol.frames import HEADER, PREFACE, SIZES, WINDOW, Frame, frame, record
from tests.support.bridge_host import FAKE_CLI, OWNER, ROOT, BridgeHost, HostMaker, Place, passable
from tests.support.bridge_raw import RawClient
from tests.support.waiting import wait_until


def told(done: subprocess.CompletedProcess[bytes]) -> tuple[int, str]:
    """Return exit code and first line of a failed call."""
    return done.returncode, done.stderr.decode().split("\n")[0]


# Published


def test_directory_of_a_grant_holds_one_socket_and_nothing_else(place: Place) -> None:
    (entry,) = place.mount.iterdir()
    assert entry.name == "claude-bridge.sock"
    assert stat.S_ISSOCK(entry.stat().st_mode)
    assert stat.S_IMODE(entry.stat().st_mode) == 0o666


def test_state_is_closed_to_others(shared_host: BridgeHost) -> None:
    assert stat.S_IMODE(shared_host.state.stat().st_mode) == 0o700


def test_second_server_is_refused_and_names_the_first(shared_host: BridgeHost) -> None:
    done = shared_host.tell("serve")
    assert done.returncode == 1
    assert f"process {shared_host.process.pid if shared_host.process else 0}" in done.stderr


def test_stale_socket_is_replaced_and_containers_go_on(host_per_test: HostMaker) -> None:
    host = host_per_test()
    place = host.grant("one")
    host.end(signal.SIGKILL)
    assert told(place.run("-p", "out x"))[1].startswith("bridge: the host's bridge has stopped")
    host.start()
    assert place.run("-p", "out x").stdout == b"x"


def test_what_is_no_socket_is_never_removed(host_per_test: HostMaker) -> None:
    host = host_per_test()
    place = host.grant("one")
    host.end()
    (place.mount / "claude-bridge.sock").write_text("mine")
    done = host.tell("serve")
    assert done.returncode == 1
    assert "is not a socket" in done.stderr
    assert (place.mount / "claude-bridge.sock").read_text() == "mine"


def test_living_socket_of_someone_else_is_left_alone(host_per_test: HostMaker) -> None:
    host = host_per_test()
    place = host.grant("one")
    host.end()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(place.mount / "claude-bridge.sock"))
        other.listen()
        assert "another server listens" in host.tell("serve").stderr


@pytest.mark.parametrize("planted", ["link", "file", "foreign"])
def test_planted_state_directory_is_refused(tmp_path: Path, planted: str) -> None:
    host = BridgeHost(tmp_path)
    if planted == "link":
        (tmp_path / "elsewhere").mkdir()
        host.state.symlink_to(tmp_path / "elsewhere")
    elif planted == "file":
        host.state.write_text("")
    else:
        host.state.mkdir()
        os.chown(host.state, 1234, 1234)
    done = host.tell("serve")
    assert done.returncode == 1
    assert "move it away" in done.stderr


def test_stop_removes_its_own_sockets_only(host_per_test: HostMaker) -> None:
    host = host_per_test()
    one, two = host.grant("one"), host.grant("two")
    path = two.mount / "claude-bridge.sock"
    path.unlink()
    path.write_text("not the server's")
    assert host.end() == 0
    assert not (one.mount / "claude-bridge.sock").exists()
    assert path.read_text() == "not the server's"


def test_install_writes_a_unit_whose_command_serves_every_grant(tmp_path_factory: pytest.TempPathFactory) -> None:
    tmp_path = tmp_path_factory.mktemp("5% a")
    host = BridgeHost(tmp_path)
    done = host.tell("install", XDG_CONFIG_HOME=str(tmp_path / "config"))
    (unit,) = (tmp_path / "config/systemd/user").iterdir()
    assert done.stdout.splitlines() == [
        f"bridge: wrote {unit}",
        "bridge: now type `systemctl --user daemon-reload && systemctl --user enable --now claude-code-bridge.service`",
    ]
    (line,) = re.findall("^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)
    command = [word.replace("%%", "%") for word in shlex.split(line)]
    host.process = subprocess.Popen(command, cwd=ROOT, env=host.environment(), stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: host.tell("status").returncode == 0, 30, "the server")
        place = host.grant("later")
        assert place.run("-p", "out x").stdout == b"x"
    finally:
        assert host.end() == 0


# Ends


def test_killed_server_leaves_no_child_and_answers_every_client(host_per_test: HostMaker) -> None:
    host = host_per_test(limits={"running": 20, "per_grant": 20})
    place = host.grant("one")
    with contextlib.ExitStack() as stack:
        calls = [stack.enter_context(place.start("-p", "ignore;ready;wait")) for _ in range(20)]
        for call in calls:
            assert call.line() == b"ready\n"
        children = host.children()
        host.end(signal.SIGKILL)
        ends = [call.end(timeout=2) for call in calls]
    assert {code for code, _, _ in ends} == {125}
    assert all(err.decode().startswith("bridge: the connection to the host broke") for _, _, err in ends)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 2, "the end of all children")
    host.start()
    assert place.run("-p", "out back").stdout == b"back"


def test_next_server_ends_what_a_server_left_that_was_killed_while_a_call_started(host_per_test: HostMaker) -> None:
    host = host_per_test()
    host.end(signal.SIGKILL)
    tools = host.state / "scratch/cleft/tools"
    tools.parent.mkdir()
    tools.touch()
    words = ["--dev-bind", "/", "/", "--unshare-pid", "--ro-bind", str(tools), str(tools), "sleep", "60"]
    left, other = subprocess.Popen(["bwrap", *words]), subprocess.Popen(["tail", "-f", str(tools)])
    try:
        children = Path(f"/proc/{left.pid}/task/{left.pid}/children")
        wait_until(lambda: children.read_text().split(), 10, "the first process of the namespace")
        first = Path("/proc", children.read_text().split()[0])
        host.start()
        wait_until(lambda: not first.exists() and left.poll() is not None, 10, "the end of what was left")
        assert other.poll() is None
    finally:
        for process in (left, other):
            process.kill()
            process.wait()


def test_graceful_stop_lets_running_calls_end(host_per_test: HostMaker) -> None:
    host = host_per_test()
    place = host.grant("one")
    with place.start("-p", "ready;drip 30") as call:
        call.line()
        assert host.end() == 0
        code, out, _ = call.end()
    assert (code, out.split()[-1]) == (0, b"29")


def test_graceful_stop_answers_who_waits_and_who_takes_too_long(host_per_test: HostMaker) -> None:
    host = host_per_test(limits={"running": 1, "stop_grace": 1})
    place = host.grant("one")
    with place.start("-p", "ignore;ready;wait") as running:
        running.line()
        with place.start("-p", "out x") as waiting:
            wait_until(lambda: host.status()["queued"] == 1, 10, "a call that waits")
            assert host.end() == 0
            code, _, err = waiting.end()
        assert (code, b"is stopping" in err) == (125, True)
        code, _, err = running.end()
        assert (code, b"has stopped in the middle" in err) == (125, True)


# Grants


def test_revoked_grant_ends_its_calls_at_once(shared_host: BridgeHost, place: Place) -> None:
    with place.start("-p", "ready;wait") as call:
        call.line()
        assert shared_host.tell("revoke", place.name).returncode == 0
        code, _, err = call.end(timeout=3)
    assert code == 125
    assert b"was revoked" in err
    code, line = told(place.run("-p", "out x"))
    assert code == 125
    assert "does not exist" in line


def test_grant_that_is_made_again_finds_its_directory(shared_host: BridgeHost, place: Place) -> None:
    shared_host.tell("revoke", place.name)
    assert shared_host.tell("grant", place.name, "--workspace", str(place.workspace)).returncode == 0
    assert place.run("-p", "out back").stdout == b"back"


def test_share_is_there_for_its_grant(shared_host: BridgeHost, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("shared")
    tmp_path.chmod(0o755)
    place = shared_host.grant("with-share", f"{tmp_path}:/data:ro")
    done = place.run("-p", "report", "--add-dir", "/data")
    assert "data" in json.loads(done.stdout)["root"]


@pytest.mark.parametrize("share", ["x", "/a:b", "/a:/workspace/x", "/a:/etc", "/a:/b:zz", "/a:/", "/a:/proc/x"])
def test_share_that_cannot_be_is_refused(shared_host: BridgeHost, place: Place, share: str) -> None:
    done = shared_host.tell("grant", place.name, "--workspace", str(place.workspace), "--share", share)
    assert (done.returncode, done.stderr[:8]) == (1, "bridge: ")


def test_default_grant_of_serve(tmp_path_factory: pytest.TempPathFactory) -> None:
    tmp_path = tmp_path_factory.mktemp("host")
    host = BridgeHost(tmp_path)
    (tmp_path / "ws").mkdir()
    os.chown(tmp_path / "ws", OWNER, OWNER)
    host.start("--workspace", str(tmp_path / "ws"))
    try:
        place = Place("default", tmp_path / "ws", host.state / "grants" / "default")
        assert place.run("-p", "out x").stdout == b"x"
    finally:
        host.end()


# Full queues, and late clients


def test_client_that_leaves_the_output_of_an_ended_process_gives_its_turn_back(
    shared_host: BridgeHost, place: Place
) -> None:
    """The last output is still in the pipe: the process has ended, but the call has not."""
    size = WINDOW + 100_000
    with RawClient(place) as client:
        _, opening = client.link.open([b"-p", b"flood %d" % size], {}, cwd="/workspace", stdin="none", stdout="other")
        client.sock.sendall(opening)
        heard = 0
        while heard < WINDOW:
            heard += sum(len(event.payload) for event in client.events() if event.kind == Frame.STDOUT)
        wait_until(lambda: not place.cli(), 10, "the end of the process")
        assert shared_host.status()["grants"][place.name]["running"] == 1
    wait_until(lambda: shared_host.status()["grants"][place.name]["running"] == 0, 10, "its turn")


def test_full_queue_is_said_so(host_per_test: HostMaker) -> None:
    host = host_per_test(limits={"running": 1, "queued": 1})
    place = host.grant("one")
    with place.start("-p", "ready;wait") as running:
        running.line()
        with place.start("-p", "out x"):
            wait_until(lambda: host.status()["queued"] == 1, 10, "a call that waits")
            code, line = told(place.run("-p", "out y"))
    assert code == 125
    assert "is full" in line


def test_call_that_waits_too_long_is_given_up(host_per_test: HostMaker) -> None:
    host = host_per_test(limits={"running": 1, "wait": 1})
    place = host.grant("one")
    with place.start("-p", "ready;wait") as running:
        running.line()
        code, line = told(place.run("-p", "out y"))
    assert code == 125
    assert "within 1 s" in line


def test_client_that_leaves_the_queue_is_forgotten(host_per_test: HostMaker) -> None:
    host = host_per_test(limits={"running": 1})
    place = host.grant("one")
    with place.start("-p", "ready;wait") as running:
        running.line()
        with place.start("-p", "touch ran"):
            wait_until(lambda: host.status()["queued"] == 1, 10, "a call that waits")
        wait_until(lambda: host.status()["queued"] == 0, 5, "an empty queue")
    assert not (place.workspace / "ran").exists()


def test_too_many_connections_are_refused(host_per_test: HostMaker) -> None:
    host = host_per_test(limits={"connections": 1})
    place = host.grant("one")
    with place.start("-p", "ready;wait") as running:
        running.line()
        code, line = told(place.run("--version"))
    assert code == 125
    assert "1 connections are open" in line


# Reload


def test_reload_takes_new_limits_and_refuses_mistakes(host_per_test: HostMaker) -> None:
    host = host_per_test()
    place = host.grant("one")
    host.configure(policy={"refuse": ["--model"]})
    assert host.process is not None
    host.process.send_signal(signal.SIGHUP)
    wait_until(lambda: place.run("-p", "out x", "--model", "m").returncode == 126, 10, "the new policy")
    host.config.write_text("limits: {running: none}")
    host.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "limits.running is 'none'" in host.log.read_text(), 10, "the complaint")
    assert place.run("-p", "out x", "--model", "m").returncode == 126


MISTAKES = ["x: 1", "limits: {x: 1}", "limits: {running: 0}", "confinement: yes", "- a", "a: [", "claude: 7",
            "environment: {A: [1]}", "policy: {allow: x}", "audit: {size: 1}", "web_ports: 8080",
            "web_ports: [0]", "web_ports: [65536]", "web_ports: [x]", "web_ports: [yes]"]  # fmt: skip


@pytest.mark.parametrize("text", MISTAKES)
def test_mistake_in_the_configuration_is_one_line_and_64(tmp_path: Path, text: str) -> None:
    host = BridgeHost(tmp_path)
    host.config.write_text(text)
    done = host.tell("serve")
    assert done.returncode == 64
    assert re.fullmatch(r"bridge: \S*bridge.yaml: .+\n", done.stderr)


# Errors that clients get


def fault(place: Place, *options: str, **env: str) -> dict[str, str]:
    """Return the client's error in the form for programs."""
    done = place.run("-p", "out x", options=options, env={"CLAUDE_BRIDGE_ERRORS": "json", **env})
    assert done.returncode == 125
    found: dict[str, str] = json.loads(done.stderr)
    return found


def test_fault_not_mounted(place: Place) -> None:
    assert fault(place, CLAUDE_BRIDGE_SOCKET="/nowhere/claude-bridge.sock")["error"] == "not-mounted"


def test_fault_missing(place: Place) -> None:
    assert fault(place, CLAUDE_BRIDGE_SOCKET="/tmp/claude-bridge.sock")["error"] == "missing"


def test_fault_permission(place: Place) -> None:
    (place.workspace / "s").mkdir(mode=0o700)
    options = (
        "--unshare-user",
        "--uid",
        "1234",
        "--gid",
        "1234",
        "--cap-drop",
        "ALL",
        "--perms",
        "0000",
        "--dir",
        "/no",
    )
    assert fault(place, *options, CLAUDE_BRIDGE_SOCKET="/no/s")["error"] == "permission"


@pytest.mark.parametrize(("answer", "kind"), [(b"HTTP/1.1 400 Bad Request\r\n", "foreign"), (b"", "lost"),
                                              (PREFACE + record(Frame.HELLO, 0, protocol=99), "version")])  # fmt: skip
def test_fault_of_what_answers(place: Place, answer: bytes, kind: str) -> None:
    path = place.workspace / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with place.start(words=place.claude("-p", "x y", options=("--setenv", "CLAUDE_BRIDGE_SOCKET", "/workspace/s",
                                            "--setenv", "CLAUDE_BRIDGE_ERRORS", "json"))) as call:  # fmt: skip
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)
            code, _, err = call.end()
    assert (code, json.loads(err)["error"]) == (125, kind)


def test_host_without_claude_is_127(host_per_test: HostMaker) -> None:
    place = host_per_test(claude="/nonexistent/claude").grant("one")
    for argv in (["-p", "x y"], ["--version"]):
        code, line = told(place.run(*argv))
        assert code == 127
        assert "no program" in line


def test_host_without_login_is_125_and_says_how(host_per_test: HostMaker) -> None:
    host = host_per_test(environment={"ANTHROPIC_API_KEY": ""})
    code, line = told(host.grant("one").run("-p", "x y"))
    assert code == 125
    assert "claude-bridge-server login" in line


def test_server_survives_whatever_is_sent(shared_host: BridgeHost, place: Place) -> None:
    start = PREFACE + record(Frame.HELLO, 0, protocol=1)
    nonsense = [b"GET / HTTP/1.1\r\n\r\n", PREFACE + b"\xff" * 64, start + frame(Frame.STDIN, 9, b"x"), b"", start * 2,
                start + record(Frame.CALL, 1, arg=b"-p", env=b"="), PREFACE + record(Frame.HELLO, 0, protocol=7),
                start + frame(Frame.CALL, 1, b"arg=-p\0") + frame(Frame.SIGNAL, 1, b"\x63")]  # fmt: skip
    for data in nonsense:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(place.mount / "claude-bridge.sock"))
            connection.sendall(data)
    assert place.run("-p", "out x").stdout == b"x"


FUZZ = 1_000_000


def test_million_fuzzed_frames_leave_the_server_as_it_was(host_per_test: HostMaker) -> None:
    host = host_per_test(limits={"connections": 100_000})
    place = host.grant("one")
    rng = random.Random(20261124)
    memory = []
    for share in (FUZZ // 5, FUZZ):
        sent = 0
        while sent < share:
            sent += fuzz(place, rng)
        wait_until(lambda: host.status()["grants"]["one"]["connections"] == 0, 20, "the connections' end")
        memory.append(memory_kb(host))
    assert memory[1] < memory[0] + 2048, "memory grows"
    assert place.run("-p", "out x").stdout == b"x"


def fuzz(place: Place, rng: random.Random) -> int:
    """Send a thousand harmless frames of random size and then five random ones. Returns how many were sent."""
    kinds = [Frame.PONG, Frame.PONG, Frame.PONG, Frame.PING]
    harmless = [frame(rng.choice(kinds), 0, rng.randbytes(rng.randrange(64))) for _ in range(1000)]
    bodies = [rng.randbytes(rng.choice([0, 0, 1, 5, 5, 40])) for _ in range(5)]
    wild = [HEADER.pack(len(body), rng.choice([*SIZES, 0x7F]), rng.randrange(4)) + body for body in bodies]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(place.mount / "claude-bridge.sock"))
        connection.sendall(PREFACE + record(Frame.HELLO, 0, protocol=1) + b"".join(harmless))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(b"".join(wild))
    return len(harmless) + len(wild)


def memory_kb(host: BridgeHost) -> int:
    assert host.process is not None
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{host.process.pid}/status").read_text())
    assert found
    return int(found[1])


# The log


def test_audit_log_tells_who_and_what_and_no_word_of_the_prompt(shared_host: BridgeHost, place: Place) -> None:
    place.run("-p", "out a-private-word", "--append-system-prompt", "another-private-word", "--model", "opus")

    def mine_written() -> list[dict[str, Any]]:
        mine = [entry for entry in shared_host.audit() if entry.get("grant") == place.name]
        return mine if mine[-1:] and mine[-1]["event"] == "ended" else []

    mine = wait_until(mine_written, 5, "the call's end, of which the client hears first")
    assert [entry["event"] for entry in mine] == ["asked", "started", "ended"]
    assert "private-word" not in json.dumps(mine)
    assert "--model=opus" in mine[1]["argv"]
    assert {"uid", "pid", "container"} <= mine[0].keys()


def test_audit_log_is_rotated(host_per_test: HostMaker) -> None:
    host = host_per_test(audit={"size": 4096})
    place = host.grant("one")
    old = host.state / "audit.jsonl.1"
    wait_until(lambda: place.run("--worktree").returncode == 126 and old.exists(), 60, "a rotated log")
    assert (host.state / "audit.jsonl").stat().st_size <= 4096


# The operator's command


def test_status_shows_running_and_queued_calls(host_per_test: HostMaker) -> None:
    host = host_per_test(limits={"running": 1})
    place = host.grant("one")
    with place.start("-p", "ready;wait") as running:
        running.line()
        with place.start("-p", "out x"):
            wait_until(lambda: host.status()["queued"] == 1, 10, "a call that waits")
            grant = host.status()["grants"]["one"]
            assert (grant["running"], grant["queued"], len(grant["calls"])) == (1, 1, 2)
            assert "one" in host.tell("status").stdout


def test_status_without_a_server(tmp_path: Path) -> None:
    done = BridgeHost(tmp_path).tell("status")
    assert (done.returncode, "no server runs" in done.stderr) == (1, True)


def test_explain_shows_what_would_be_run(tmp_path: Path) -> None:
    done = BridgeHost(tmp_path).tell("explain", "--", "-p", "hello you", "--setting-sources", "project")
    assert done.returncode == 0
    assert '"--setting-sources=user"' in done.stdout
    refused = BridgeHost(tmp_path).tell("explain", "--", "--settings", "x.json")
    assert (refused.returncode, refused.stdout[:6]) == (126, "refuse")


def test_login_is_stored_for_the_server_alone(host_per_test: HostMaker) -> None:
    host = host_per_test(environment={"ANTHROPIC_API_KEY": ""})
    place = host.grant("one")
    assert place.run("-p", "out x").returncode == 125
    assert host.tell("login", stdin="sk-ant-oat01-token\n").returncode == 0
    assert stat.S_IMODE((host.state / "token").stat().st_mode) == 0o600
    environment = json.loads(place.run("-p", "report").stdout)["env"]
    assert "CLAUDE_CODE_OAUTH_TOKEN_FILE_DESCRIPTOR" in environment
    assert "sk-ant-oat01" not in json.dumps(environment)


def test_doctor_says_what_the_network_leads_to(host_per_test: HostMaker) -> None:
    gateway = {"ANTHROPIC_BASE_URL": "https://gateway.example", "NODE_EXTRA_CA_CERTS": "/nonexistent"}
    host = host_per_test(web_ports=[8443, 8080], environment=gateway)
    said = host.tell("doctor").stdout
    assert "ok   network: the API, and public servers at ports 80, 443, 8080, 8443; web_ports in bridge.yaml" in said
    assert "ok   gateway ANTHROPIC_BASE_URL: asked by the server" in said
    assert "FAIL certificates: /nonexistent cannot be read" in said


def test_doctor_names_what_is_wrong(host_per_test: HostMaker) -> None:
    host = host_per_test()
    host.grant("one")
    good = host.tell("doctor")
    assert good.returncode == 0, good.stdout
    assert "FAIL" not in good.stdout
    host.end()
    bad = host.tell("doctor")
    assert bad.returncode == 1
    assert "FAIL server" in bad.stdout


def test_confinement_none_runs_as_the_owner_and_leaves_nothing(host_per_test: HostMaker, tmp_path: Path) -> None:
    program = shutil.copy(FAKE_CLI, tmp_path / "claude")
    host = host_per_test(confinement="none", claude=str(program))
    place = host.grant("one")
    for directory in (tmp_path, host.directory):  # pytest closes these to others
        passable(directory)
        directory.chmod(0o755)
    facts = json.loads(place.run("-p", "report").stdout)
    assert facts["ids"][0] == 1000
    assert place.run("-p", "orphan alive;exit 3").returncode == 3
    wait_until(lambda: not host.children(), 2.5, "the end of the orphan")
    assert not list((host.state / "scratch").iterdir())
