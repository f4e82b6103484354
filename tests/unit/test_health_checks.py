"""The checks: what each finds in its observations, and that healthcheck imports nothing from agent."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from healthcheck.access import Client
from healthcheck.check import Check, Finding
from healthcheck.checks import all_checks, memory, task_master
from healthcheck.checks.agent import AgentCheck
from healthcheck.checks.bridge import BridgeCheck
from healthcheck.checks.disk import DiskCheck
from healthcheck.checks.tmux import TmuxCheck
from healthcheck.checks.volumes import VolumesCheck
from healthcheck.facts import RUNNING, AgentFacts, Certificates, Pane, Sources, VolumeStatus
from healthcheck.metrics import exposition
from healthcheck.pages import Reporter
from healthcheck.probe import Observation, Probe, ProbeError
from healthcheck.server import MOST_CONNECTIONS, Page, Server
from tests.support.waiting import next_turn

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
AGENT = AgentFacts(name="alpha", phase=RUNNING, state="running", what_runs="x", is_command=False, pid=7)
COMMAND = AgentFacts(name="alpha", phase=RUNNING, state="command", what_runs="x", is_command=True)
PANE = Pane("agent", 1, 0, "bash", True, 0, "%0", 7, "bash", False)
GOOD = VolumeStatus("/agent", "ext4", False, "", 8 << 30, 4 << 30)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine, for 10 s at most."""

    async def main() -> T:
        async with asyncio.timeout(10):
            return await coroutine

    return asyncio.run(main())


async def observed(check: Check) -> None:
    """Let each probe of a check observe once."""
    tasks = [asyncio.ensure_future(probe.keep_observing()) for probe in check.probes]
    for probe in check.probes:
        await probe.first.wait()
    for task in tasks:
        task.cancel()


def found(make: Callable[[], Check], agent: AgentFacts = AGENT) -> Finding:
    """Return what a check finds after one observation."""

    async def main() -> Finding:
        check = make()
        await observed(check)
        return check.evaluate(agent)

    return run(main())


def panes(*seen: Pane) -> Callable[[], Awaitable[list[Pane]]]:
    async def listed() -> list[Pane]:
        return list(seen)

    return listed


async def hung() -> list[Pane]:
    raise ProbeError("hung: no answer")


def sources() -> Sources:
    return Sources(panes(PANE), {"/agent": lambda: GOOD}, "/nowhere/claude-bridge.sock", Certificates, "1.2.3")


# -- the table --------------------------------------------------------------------------------------------


def test_table_has_the_contracts_checks_in_their_order() -> None:
    async def main() -> list[tuple[str, bool]]:
        return [(check.name, check.required) for check in all_checks(sources())]

    required, optional = ("tmux", "agent", "volumes"), ("bridge", "task-master", "network", "disk", "memory")
    assert run(main()) == [(name, True) for name in required] + [(name, False) for name in optional]


def test_recovery_works_on_tmux_and_agent() -> None:
    async def main() -> set[str]:
        return {check.name for check in all_checks(sources()) if check.recoverable}

    assert run(main()) == {"tmux", "agent"}


def test_pages_show_what_each_check_has_seen() -> None:
    async def main() -> tuple[dict[str, Any], str]:
        checks = all_checks(sources())
        for check in checks:
            await observed(check)
        return Reporter(lambda: AGENT, checks, {}).status()[1], exposition(AGENT, checks, {}, 1)

    page, text = run(main())
    assert page["sessions"][0]["windows"][0]["name"] == "bash"
    assert page["volumes"] == [
        {"path": "/agent", "trouble": "", "kind": "ext4", "read_only": False, "total_bytes": 8 << 30,
         "free_bytes": 4 << 30}
    ]  # fmt: skip
    assert page["bridge"] == {"socket": "/nowhere/claude-bridge.sock", "answers": False}
    assert set(page["memory"]) <= {"used", "limit", "oom_kills"}
    for row in ("magents_sessions 1", "magents_panes 1", 'magents_volume_size_bytes{path="/agent"} 8589934592'):
        assert f"\n{row}\n" in text


def test_health_imports_nothing_of_the_agent() -> None:
    imports = re.compile(r"^\s*(?:from|import)\s+(agent|pipeline)\b", re.MULTILINE)
    assert [str(path) for path in (ROOT / "healthcheck").rglob("*.py") if imports.search(path.read_text())] == []


# -- each check -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "status", "detail"),
    [
        (panes(PANE), "pass", "1 session"),
        (panes(), "fail", "session agent is missing; it is being started again"),
        (hung, "fail", "hung: no answer"),
    ],
)
def test_tmux(seen: Callable[[], Awaitable[list[Pane]]], status: str, detail: str) -> None:
    finding = found(lambda: TmuxCheck(seen))
    assert (finding.status, finding.detail) == (status, detail)


def test_tmux_is_not_looked_at_beside_a_command() -> None:
    finding = found(lambda: TmuxCheck(None), COMMAND)
    assert (finding.status, finding.detail) == ("pass", "not used: a command runs instead of the session")


@pytest.mark.parametrize(
    ("state", "problem", "status", "detail"),
    [
        ("running", "", "pass", "running: x (pid 7)"),
        ("finished", "", "pass", "finished: x (pid 7)"),
        ("running", "cannot be started", "fail", "running: cannot be started"),
        ("restarting", "", "fail", "restarting: x"),
    ],
)
def test_agent(state: str, problem: str, status: str, detail: str) -> None:
    agent = AgentFacts("alpha", RUNNING, state, "x", is_command=False, pid=7, problem=problem)
    assert AgentCheck().evaluate(agent) == Finding(status, detail)


def broken() -> VolumeStatus:
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize(
    ("look", "status", "detail"),
    [
        (lambda: GOOD, "pass", "/agent can be written"),
        (lambda: VolumeStatus("/agent", "ext4", True, ""), "pass", "/agent is mounted read-only"),
        (lambda: VolumeStatus("/agent", "ext4", False, "/agent is full"), "fail", "/agent is full"),
        (broken, "fail", "/agent /agent cannot be looked at: OSError: [Errno 5] Input/output error"),
    ],
)
def test_volumes(look: Callable[[], VolumeStatus], status: str, detail: str) -> None:
    finding = found(lambda: VolumesCheck({"/agent": look}))
    assert (finding.status, finding.detail) == (status, detail)


def test_volume_that_hangs_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("healthcheck.checks.volumes.DEADLINE_S", 0.05)
    awake = threading.Event()

    def hangs() -> VolumeStatus:
        awake.wait(10)
        return GOOD

    async def main() -> tuple[bool, bool, bool, str]:
        check = VolumesCheck({"/agent": lambda: GOOD, "/shared": hangs})
        await observed(check)
        awake.set()
        return check.hangs("/agent"), check.hangs("/shared"), check.is_bad("/agent"), check.evaluate(AGENT).detail

    assert run(main()) == (False, True, False, "/shared hung: no answer in 0.05 s")


@pytest.mark.parametrize(
    ("volume", "status", "detail"),
    [
        (GOOD, "pass", "at least 4 GB left"),
        (
            VolumeStatus("/shared", "ext4", False, "", 100 << 20, 1 << 20),
            "warn",
            "/shared has 1 MB of 105 MB left; remove what is not needed or give it a larger volume",
        ),
        (VolumeStatus("/shared", "ext4", True, "", 100 << 20, 1 << 20), "pass", "at least 1 MB left"),
    ],
)
def test_disk(volume: VolumeStatus, status: str, detail: str) -> None:
    async def main() -> Finding:
        volumes = VolumesCheck({"/shared": lambda: volume})
        await observed(volumes)
        return DiskCheck(volumes).evaluate(AGENT)

    finding = run(main())
    assert (finding.status, finding.detail) == (status, detail)


@pytest.mark.parametrize(
    ("value", "status", "detail"),
    [
        (memory.Memory(5000, 0, 0), "pass", "5 KB used, no limit"),
        (memory.Memory(5000, 10_000, 0), "pass", "5 KB of 10 KB used"),
        (memory.Memory(5000, 10_000, 2), "pass", "5 KB of 10 KB used; 2 processes were killed for want of memory"),
        (
            memory.Memory(9500, 10_000, 0),
            "warn",
            "10 KB of 10 KB used; give the container more with `--memory`, or run less in it",
        ),
        (None, "warn", "not seen yet"),
    ],
)
def test_memory(value: memory.Memory | None, status: str, detail: str) -> None:
    assert memory.evaluate(Observation(value, "", 1.0)) == Finding(status, detail, 1.0)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (3, "/task-master, in place of the image's own"),
        (0, "is empty; build the image"),
        (None, "is not on PATH; build the image"),
    ],
)
def test_task_master(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int | None, words: str) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if size is not None:
        (tmp_path / "task-master").write_text("x" * size)
        (tmp_path / "task-master").chmod(0o755)
    finding = found(lambda: task_master.TaskMasterCheck("1.2.3"))
    assert words in finding.detail
    assert finding.status == ("pass" if size else "fail")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("{tmp}/x/claude-bridge.sock", "{tmp}/x is not mounted"),
        ("{tmp}/claude-bridge.sock", "socket missing"),
        ("/" + "x" * 107, "longer than 107 bytes"),
    ],
)
def test_bridge_that_is_away(tmp_path: Path, path: str, words: str) -> None:
    finding = found(lambda: BridgeCheck(path.format(tmp=tmp_path)))
    assert finding.status == "fail"
    assert words.format(tmp=tmp_path) in finding.detail


# -- probe ------------------------------------------------------------------------------------------------


def test_probe_that_hangs_shows_until_it_returns() -> None:
    async def main() -> list[tuple[int | None, str]]:
        answer = asyncio.Event()

        async def look() -> int:
            await answer.wait()
            return 7

        seen: asyncio.Queue[tuple[int | None, str]] = asyncio.Queue()
        probe = Probe("x", look, every_s=60, deadline_s=0.02)
        probe.changed = lambda: seen.put_nowait((probe.last.value, probe.last.problem))
        task = asyncio.ensure_future(probe.keep_observing())
        first = await seen.get()
        answer.set()
        second = await seen.get()
        task.cancel()
        return [first, second]

    assert run(main()) == [(None, "hung: no answer in 0.02 s"), (7, "")]


def test_probe_that_is_cancelled_leaves_no_observation_behind() -> None:
    async def main() -> int:
        async def look() -> None:
            await asyncio.Event().wait()

        task = asyncio.ensure_future(Probe("x", look, every_s=60, deadline_s=60).keep_observing())
        await next_turn()
        task.cancel()
        await asyncio.wait({task})
        await next_turn()
        return len(asyncio.all_tasks())

    assert run(main()) == 1


def test_probe_observes_again_when_asked() -> None:
    async def main() -> int:
        count = 0

        async def look() -> int:
            nonlocal count
            count += 1
            return count

        probe = Probe("x", look, every_s=60, deadline_s=60)
        task = asyncio.ensure_future(probe.keep_observing())
        while probe.last.value != 3:
            probe.observe_again()
            await next_turn()
        task.cancel()
        return count

    assert run(main()) >= 3


# -- server -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def served(page: Page) -> Iterator[int]:
    """Serve one page at /x from a loop in a thread; yields the port."""
    ready, port = threading.Event(), 0
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    def may_see(host: str, client: Client) -> bool:
        return host == "me" and client.peer == client.own == "127.0.0.1"

    async def serve() -> None:
        nonlocal port
        server = Server({"/x": page}, may_see)
        listener = await server.listen("127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        listener.close()
        for connection in list(server._connections):
            connection.abort()
        await next_turn()

    def turn() -> None:
        with contextlib.closing(loop):
            loop.run_until_complete(serve())

    thread = threading.Thread(target=turn)
    thread.start()
    assert ready.wait(10)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


def ask(port: int, data: bytes) -> bytes:
    """Send bytes; return all that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(data)
        reply = b""
        while chunk := connection.recv(65536):
            reply += chunk
        return reply


PAGE = Page(lambda: (200, {"all": 1}), lambda: (200, {"bare": 1}))


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        (b"GET /x HTTP/1.1\r\nHost: me\r\n\r\n", b'{"all": 1}'),
        (b"GET /x HTTP/1.1\r\nHost: you\r\n\r\n", b'{"bare": 1}'),
        (b"GET /y HTTP/1.1\r\n\r\n", b'"pages": ["/x"]'),
        (b"X" * 20_000, b"431 Request Header Fields Too Large"),
    ],
)
def test_server_answers(request_: bytes, reply: bytes) -> None:
    with served(PAGE) as port:
        assert reply in ask(port, request_)


def test_answer_larger_than_the_sockets_buffers_arrives_whole() -> None:
    text = "x" * 8_000_000
    with served(Page(lambda: (200, text))) as port:
        assert ask(port, b"GET /x HTTP/1.1\r\nHost: me\r\n\r\n").endswith(b"\r\n\r\n" + text.encode())


def test_slow_client_is_told_and_silent_one_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("healthcheck.server.PATIENCE_S", 0.1)
    with served(PAGE) as port:
        assert ask(port, b"GET /x").startswith(b"HTTP/1.1 408 ")
        assert ask(port, b"") == b""


def test_oldest_of_too_many_connections_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("healthcheck.server.PATIENCE_S", 60)  # so that the time limit does not end it
    with served(PAGE) as port, contextlib.ExitStack() as held:
        waiting = [
            held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            for _ in range(MOST_CONNECTIONS + 1)
        ]
        assert b'{"all": 1}' in ask(port, b"GET /x HTTP/1.1\r\nHost: me\r\n\r\n")
        assert waiting[0].recv(1) == b""
        waiting[-1].sendall(b"GET /x HTTP/1.1\r\n\r\n")
        assert waiting[-1].recv(65536).startswith(b"HTTP/1.1 200 ")


def test_server_takes_no_address_that_is_taken() -> None:
    async def main() -> int | None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            try:
                await Server({}, lambda _host, _client: True).listen("127.0.0.1", taken.getsockname()[1])
            except OSError as error:
                return error.errno
        return 0

    assert run(main()) == 98
