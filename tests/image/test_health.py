"""Health of live containers: the pages, a negative test for each check, and clients that send bad requests."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from tests.support.containers import LABEL, SESSION, Agent, Agents
from tests.support.waiting import wait_until

pytest_plugins = ("tests.support.fixtures",)

CONNECTIONS = 200
TRUTH_S = 5.0
VOLUMES_FAIL = "health: volumes fail"


def talk(agent: Agent, data: bytes, timeout: float = 8.0) -> bytes:
    """Send bytes unchanged. Returns all that comes back."""
    with socket.create_connection(("127.0.0.1", agent.port), timeout=timeout) as connection:
        connection.sendall(data)
        reply = b""
        with contextlib.suppress(ConnectionResetError):  # ignored because the answer has been read before
            while chunk := connection.recv(65536):
                reply += chunk
        return reply


@pytest.fixture
def host_directory(tmp_path: Path) -> Path:
    """The directory to mount at /host. Only its own mode matters, not those above it."""
    tmp_path.chmod(0o755)
    return tmp_path


def probe(agent: Agent) -> int:
    """Run Docker's own probe. Returns its exit code."""
    return agent.try_run("agent-health-probe")[0]


# -- pages ------------------------------------------------------------------------------------------------


def test_health_has_the_shape_of_the_contract(agents: Agents) -> None:
    agent = agents.healthy(environment={"AGENT_NAME": "alpha"})
    code, health = agent.get("/health")
    assert code == 200
    assert set(health) == {"status", "agent", "checks", "uptime_s", "version", "phase"}
    assert health["agent"] == {"name": "alpha", "state": "running", "session": "agent", "restarts": 0}
    assert list(health["checks"]) == ["tmux", "agent", "volumes", "bridge", "task-master", "network", "disk", "memory"]
    assert [name for name, check in health["checks"].items() if check["required"]] == ["tmux", "agent", "volumes"]
    assert all(set(check) == {"status", "required", "detail", "age_s"} for check in health["checks"].values())


@pytest.mark.parametrize(
    ("request_line", "code"),
    [
        ("GET /live HTTP/1.1", 200),
        ("GET /ready HTTP/1.0", 200),
        ("GET /status HTTP/1.1", 200),
        ("GET /metrics HTTP/1.1", 200),
        ("GET /health?x=1 HTTP/1.1", 200),
        ("GET / HTTP/1.1", 404),
        ("GET /healthy HTTP/1.1", 404),
        ("POST /health HTTP/1.1", 405),
        ("HEAD /health HTTP/1.1", 405),
        ("GET /health HTTP/2.0", 505),
        ("GET /health", 400),
        ("\x00\x01\x02", 400),
    ],
)
def test_page_has_its_code(agents: Agents, request_line: str, code: int) -> None:
    agent = agents.healthy()
    reply = talk(agent, f"{request_line}\r\nHost: localhost\r\n\r\n".encode())
    assert reply.startswith(f"HTTP/1.1 {code} ".encode())
    assert b"application/json" in reply or b"/metrics" in request_line.encode()


def test_oversized_head_is_refused_and_the_refusal_arrives(agents: Agents) -> None:
    agent = agents.healthy()
    assert talk(agent, b"GET /health HTTP/1.1\r\nX: " + b"x" * 200_000).startswith(b"HTTP/1.1 431 ")


def test_metrics_name_the_agent(agents: Agents) -> None:
    agent = agents.healthy(environment={"AGENT_NAME": 'a"b\\c'})
    code, text = agent.get("/metrics")
    assert code == 200
    assert 'magents_agent_info{name="a\\"b\\\\c"' in text
    assert 'magents_check{check="tmux",required="true"} 1' in text


# -- who may read details ---------------------------------------------------------------------------------

BARE = {"/health": {"status": "degraded"}, "/live": {"status": "alive"}, "/ready": {"status": "ready"}}
ASK = (
    "import http.client, sys\n"
    "connection = http.client.HTTPConnection(sys.argv[1], 3999, timeout=5)\n"
    "connection.request('GET', sys.argv[2], headers={'Host': sys.argv[3]})\n"
    "answer = connection.getresponse()\n"
    "print(answer.status, answer.read().decode(), end='')"
)


@dataclass(frozen=True)
class Neighbours:
    """Two agents on a network of their own. `alpha` also has the name `agents.example.org`."""

    alpha: Agent
    other: Agent

    @property
    def address(self) -> str:
        """Return the address of the first agent."""
        (network,) = self.alpha.container.attrs["NetworkSettings"]["Networks"].values()
        return str(network["IPAddress"])

    def ask(self, page: str, host: str) -> tuple[int, str]:
        """Send a request from the second agent to the first."""
        code, _, body = self.other.run("python3", "-c", ASK, self.address, page, host).partition(" ")
        return int(code), body


@pytest.fixture
def neighbours(agents: Agents, client: docker.DockerClient) -> Iterator[Neighbours]:
    network = client.networks.create(f"magents-test-{uuid.uuid4().hex[:8]}", labels={LABEL: SESSION})
    try:
        alpha = agents.start(
            network=network.name,
            hostname="box",
            environment={"AGENT_NAME": "alpha", "HEALTH_ALLOWED_HOSTS": "agents.example.org"},
        )
        made = Neighbours(alpha, agents.healthy(network=network.name))
        alpha.wait_healthy()
        yield made
        for agent in (made.alpha, made.other):
            network.disconnect(agent.container, force=True)
    finally:
        network.remove()


def test_another_container_gets_the_bare_state(neighbours: Neighbours) -> None:
    for host in ("localhost", "127.0.0.1:3999", "alpha", "box", f"{neighbours.address}:3999", "example.org"):
        for page, told in BARE.items():
            code, body = neighbours.ask(page, host)
            assert (code, json.loads(body)) == (200, told), (page, host)
        for page in ("/status", "/metrics"):
            code, body = neighbours.ask(page, host)
            assert (code, set(json.loads(body))) == (403, {"error"}), (page, host)
            assert "HEALTH_ALLOWED_HOSTS" in body


def test_another_container_gets_details_by_an_allowed_name(neighbours: Neighbours) -> None:
    code, body = neighbours.ask("/status", "agents.example.org:80")
    assert (code, json.loads(body)["agent"]["name"]) == (200, "alpha")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:3999", "alpha", "ALPHA:80", "box", "{own}:3999"])
def test_host_and_container_get_details(neighbours: Neighbours, host: str) -> None:
    alpha = neighbours.alpha
    alpha.port  # noqa: B018 - reads the container's addresses
    host = host.format(own=neighbours.address)
    request = f"GET /status HTTP/1.1\r\nHost: {host}\r\n\r\n"
    assert talk(alpha, request.encode()).startswith(b"HTTP/1.1 200 ")
    for address in (neighbours.address, *(["127.0.0.1"] if neighbours.address not in host else [])):
        assert alpha.run("python3", "-c", ASK, address, "/status", host).startswith("200 ")


@pytest.mark.parametrize("header", ["", "Host: rebound.example.org\r\n", "Host: localhost.example.org\r\n"])
def test_foreign_name_gets_the_bare_state_also_from_the_host(agents: Agents, header: str) -> None:
    agent = agents.healthy()
    for page, told in BARE.items():
        head, _, body = talk(agent, f"GET {page} HTTP/1.0\r\n{header}\r\n".encode()).partition(b"\r\n\r\n")
        assert (head.split()[1], json.loads(body)) == (b"200", told)
    for page in ("/status", "/metrics"):
        assert talk(agent, f"GET {page} HTTP/1.0\r\n{header}\r\n".encode()).startswith(b"HTTP/1.1 403 ")


# -- clients ----------------------------------------------------------------------------------------------


def test_probe_is_answered_beside_200_connections(agents: Agents) -> None:
    agent = agents.healthy()
    port = agent.port
    with contextlib.ExitStack() as held:
        idle = [held.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(CONNECTIONS)]
        for connection in idle[::2]:
            connection.sendall(b"GET /he")
        began = time.monotonic()
        assert probe(agent) == 0
        assert time.monotonic() - began < 2
        for connection in idle[::2]:
            connection.sendall(b"alth HTTP/1.1\r\n\r\n")
        assert all(connection.recv(12) == b"HTTP/1.1 200" for connection in idle[::2])


def test_200_clients_at_once_are_all_answered(agents: Agents) -> None:
    agent = agents.healthy()
    agent.get()  # looks up the port once
    answers: list[bytes] = []
    port = agent.port

    def ask() -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answers.append(connection.recv(12))

    threads = [threading.Thread(target=ask) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [b"HTTP/1.1 200"] * CONNECTIONS


def test_idle_connections_do_not_keep_the_probe_out(agents: Agents) -> None:
    agent = agents.healthy()
    port = agent.port
    with contextlib.ExitStack() as held:
        for _ in range(700):
            held.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert probe(agent) == 0


def test_slow_client_is_told_to_hurry(agents: Agents) -> None:
    agent = agents.healthy()
    assert talk(agent, b"GET /health HTTP/1.1\r\n").startswith(b"HTTP/1.1 408 ")


def test_proxies_in_the_environment_do_not_matter(agents: Agents) -> None:
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"), "http://127.0.0.1:9")
    agent = agents.healthy(environment=proxies)
    assert probe(agent) == 0
    assert agent.try_run("agent-status")[0] == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_probe_follows_host_and_port(agents: Agents, host: str) -> None:
    agent = agents.start(environment={"HEALTH_HOST": host, "HEALTH_PORT": "4001"})
    wait_until(lambda: agent.state()["Health"]["Status"] == "healthy", 10, "the engine's view")


# -- a negative test for each check -----------------------------------------------------------------------


def test_hung_tmux_fails_within_5_s_and_passes_again(agents: Agents) -> None:
    agent = agents.healthy().expect("health: tmux")
    agent.sh("kill -STOP $(pgrep -f '^/usr/bin/tmux -u -D')")
    agent.wait_status("unhealthy", timeout=TRUTH_S)
    assert "hung" in agent.check("tmux")["detail"]
    assert probe(agent) == 1
    # the probe with patience asks at once and again, so tmux goes on only after a while
    said = agent.sh("(sleep 2; pkill -CONT -f '^/usr/bin/tmux -u -D') & agent-health-probe 15")
    assert json.loads(said)["status"] in ("healthy", "degraded")


def test_lasting_failure_ends_the_container_with_70(agents: Agents) -> None:
    agent = agents.healthy(environment={"AGENT_UNHEALTHY_LIMIT": "2"}).expect("health: tmux")
    agent.sh("kill -STOP $(pgrep -f '^/usr/bin/tmux -u -D')")
    assert agent.wait_exit(15) == 70


def test_agent_between_two_failures_is_unhealthy(agents: Agents) -> None:
    agent = agents.start(environment={"AGENT_COMMAND": "exit 3"}).expect("ended with 3", "health: agent")
    health = agent.wait_status("unhealthy", timeout=10)
    assert "ended with 3" in health["checks"]["agent"]["detail"]


@pytest.mark.parametrize("path", ["/agent", "/shared", "/workspace"])
def test_full_volume_fails_and_passes_again(agents: Agents, path: str) -> None:
    volume = agents.volume(tmpfs="size=8m,mode=1777")
    agent = agents.healthy(volumes=[f"{volume}:{path}"]).expect(VOLUMES_FAIL, "state.json could not be written")
    agent.try_run("bash", "-c", f"head -c 100M /dev/zero > {path}/filler")
    agent.wait_status("unhealthy", timeout=TRUTH_S)
    assert f"{path} is full" in agent.check("volumes")["detail"]
    agent.run("rm", f"{path}/filler")
    agent.wait_healthy(TRUTH_S)


@pytest.mark.parametrize("path", ["/agent", "/shared"])
def test_volume_turned_read_only_fails_without_an_end(agents: Agents, path: str) -> None:
    agent = agents.healthy(privileged=True, tmpfs={path: "mode=1777"}, environment={"AGENT_UNHEALTHY_LIMIT": "1"})
    agent.expect(VOLUMES_FAIL).run("mount", "-o", "remount,ro", path, user="0")
    agent.wait_status("unhealthy", timeout=TRUTH_S)
    assert f"{path} turned read-only" in agent.check("volumes")["detail"]
    agent.run("mount", "-o", "remount,rw", path, user="0")
    agent.wait_healthy(TRUTH_S)


def test_little_space_warns_and_degrades(agents: Agents) -> None:
    volume = agents.volume(tmpfs="size=40m,mode=1777")
    agent = agents.healthy(volumes=[f"{volume}:/shared"])
    agent.sh("head -c 39M /dev/zero > /shared/filler")
    wait_until(lambda: agent.check("disk").get("status") == "warn", TRUTH_S, "the warning")
    assert agent.health()["status"] == "degraded"
    assert "/shared has" in agent.check("disk")["detail"]


def test_much_memory_warns(agents: Agents) -> None:
    agent = agents.healthy(mem_limit="128m", memswap_limit="128m")
    agent.container.exec_run(["python3", "-c", "x = bytearray(105 << 20); import signal; signal.pause()"], detach=True)
    wait_until(lambda: agent.check("memory").get("status") == "warn", 10, "the warning")


def test_missing_task_master_warns(agents: Agents) -> None:
    agent = agents.healthy(environment={"PATH": "/usr/bin:/bin"})
    assert agent.check("task-master")["status"] == "warn"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("none", "socket missing"),
        ("dead", "nobody listens"),
        ("file", "nobody listens"),
        ("long", "longer than 107 bytes"),
    ],
)
def test_bridge_that_is_away_warns_with_its_reason(agents: Agents, host_directory: Path, kind: str, words: str) -> None:
    path = host_directory / "claude-bridge.sock"
    if kind == "dead":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        path.chmod(0o666)
    elif kind == "file":
        path.touch(0o666)
        path.chmod(0o666)
    variables = {"CLAUDE_BRIDGE_SOCKET": "/host/" + "x" * 120} if kind == "long" else {}
    agent = agents.healthy(volumes=[f"{host_directory}:/host:ro"], environment=variables)
    check = agent.check("bridge")
    assert (check["status"], check["required"]) == ("warn", False)
    assert words in check["detail"]


def test_bridge_that_listens_and_says_nothing_warns(agents: Agents, host_directory: Path) -> None:
    """For a server that answers, tests/bridge/test_containers.py has a real one."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(host_directory / "claude-bridge.sock"))
        (host_directory / "claude-bridge.sock").chmod(0o666)
        server.listen(50)
        agent = agents.healthy(volumes=[f"{host_directory}:/host:ro"])
        wait_until(lambda: "no answer" in agent.check("bridge").get("detail", ""), TRUTH_S, "the reason")


def test_bridge_that_never_answers_neither_hangs_nor_hides(agents: Agents, host_directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, contextlib.ExitStack() as held:
        server.bind(str(host_directory / "claude-bridge.sock"))
        (host_directory / "claude-bridge.sock").chmod(0o666)
        server.listen(0)
        for _ in range(2):  # the queue is full, so connecting waits for ever
            client = held.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            client.connect_ex(str(host_directory / "claude-bridge.sock"))
        agent = agents.healthy(volumes=[f"{host_directory}:/host:ro"])
        wait_until(lambda: "no answer" in agent.check("bridge").get("detail", ""), TRUTH_S, "the reason")
        assert agent.health()["status"] == "degraded"


# -- a disk that hangs ------------------------------------------------------------------------------------


@pytest.fixture
def frozen(tmp_path: Path) -> Iterator[tuple[Path, Callable[[str], None]]]:
    """A file system, and a function that freezes it: writers wait until it is thawed."""
    image, point = tmp_path / "disk", tmp_path / "mounted"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(32 << 20)
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a disk that hangs")  # the gate runs as root, so there it never skips
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(point)], check=True)
    point.chmod(0o1777)

    def freeze(option: str) -> None:
        subprocess.run(["fsfreeze", option, str(point)], check=True)

    try:
        yield point, freeze
    finally:
        subprocess.run(["fsfreeze", "-u", str(point)], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["umount", "-l", str(point)], check=True)


@pytest.mark.parametrize("path", ["/shared", "/agent"])
def test_hung_volume_shows_as_hung_and_hangs_nothing_else(
    agents: Agents, frozen: tuple[Path, Callable[[str], None]], path: str
) -> None:
    point, freeze = frozen
    agent = agents.healthy(volumes=[f"{point}:{path}"]).expect(VOLUMES_FAIL, "health: tmux")
    freeze("-f")
    agent.wait_status("unhealthy", timeout=TRUTH_S)
    assert f"{path} hung" in agent.check("volumes")["detail"]
    assert agent.get("/live")[0] == 200
    freeze("-u")
    agent.wait_healthy(TRUTH_S)
