"""Many containers at once, and the sudden end of the server, with a scripted CLI in live containers."""

from __future__ import annotations

import collections
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.bridge_box import Box, facts
from tests.support.bridge_host import BridgeHost, HostMaker
from tests.support.containers import Agents
from tests.support.waiting import wait_until

LOAD = Path(__file__).parents[1] / "support" / "bridge_load.py"
CONTAINERS, CLIENTS, SIZE = 10, 10, 1_000_000
MEMORY_MB = 80
GONE_S = 2.0

prod_alone = pytest.mark.parametrize("image", ["prod"], indirect=True)


def boxes(agents: Agents, host: BridgeHost, count: int) -> list[Box]:
    """Make containers, each with a grant of its own."""
    return [Box(agents, host.grant(f"grant-{number}"), {LOAD: "/load.py"}) for number in range(count)]


@prod_alone
def test_hundred_clients_from_ten_containers(host_per_test: HostMaker, agents: Agents) -> None:
    host = host_per_test()
    began = [
        box.begin("python3", "/load.py", "echo", str(CLIENTS), str(SIZE)) for box in boxes(agents, host, CONTAINERS)
    ]
    told = [client for process in began for client in facts(process)]
    wrong = [client for client in told if client["code"] or not client["same"]]
    assert (len(told), wrong) == (CONTAINERS * CLIENTS, [])
    assert all(re.fullmatch(r"10000\d\d", client["err"]) for client in told), "stderr holds the count and nothing else"
    assert second_turns(host.audit()) == 0
    peak = memory_peak_mb(host)
    print(f"server's memory at its peak: {peak:.1f} MB")
    assert peak < MEMORY_MB


def second_turns(log: list[dict[str, Any]], per_grant: int = 4) -> int:
    """Count unfair turns: a grant got a turn while another had been waiting since before that grant's previous turn.

    Two cases do not count. A grant that already runs as many calls as one grant may was not passed over. Nor was a
    grant that runs some calls, when the turn went to one that runs none: the last place is kept for such grants.
    """
    waiting: dict[str, collections.deque[int]] = collections.defaultdict(collections.deque)
    running: collections.Counter[str] = collections.Counter()
    turn: dict[str, int] = {}
    count = 0
    for number, entry in enumerate(log):
        name = entry.get("grant", "")
        if entry["event"] == "asked":
            waiting[name].append(number)
        elif entry["event"] == "started":
            rest = [other for other, calls in waiting.items() if other != name and calls and running[other] < per_grant]
            rest = [other for other in rest if running[name] or not running[other]]
            since = [max(waiting[other][0], turn.get(other, -1)) for other in rest]
            count += name in turn and any(moment < turn[name] for moment in since)
            waiting[name].popleft()
            turn[name] = number
            running[name] += 1
        elif entry["event"] == "ended":
            running[name] -= 1
    assert sum(entry["event"] == "started" for entry in log) == CONTAINERS * CLIENTS
    return count


def memory_peak_mb(host: BridgeHost) -> float:
    assert host.process is not None
    status = Path(f"/proc/{host.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024 / 1e6


@prod_alone
def test_killed_server_leaves_twenty_clients_with_a_sentence(host_per_test: HostMaker, agents: Agents) -> None:
    host = host_per_test(limits={"running": 20, "per_grant": 10})
    held = boxes(agents, host, 2)
    began = [box.begin("python3", "/load.py", "hold", "10") for box in held]
    for process in began:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    children = host.children()
    assert len(children) >= 20
    killed = time.monotonic()
    host.end(signal.SIGKILL)
    wait_until(lambda: not [pid for pid in children if is_alive(pid)], GONE_S, "the end of all that the server started")
    told = [client for process in began for client in facts(process)]
    assert {client["code"] for client in told} == {125}
    assert len(told) == 20
    assert max(client["at"] for client in told) - killed < GONE_S
    sentences = {client["err"].split("\n")[0] for client in told}
    assert sentences == {"bridge: the connection to the host broke in the middle of the call"}
    host.start()
    assert held[0].run("claude-code", "-p", "out again").stdout == b"again"


@prod_alone
def test_killed_container_leaves_nothing_on_the_host(host_per_test: HostMaker, agents: Agents) -> None:
    host = host_per_test()
    (box,) = boxes(agents, host, 1)
    call = box.begin("claude-code", "-p", "orphan /workspace/alive;ignore;ready;wait")
    assert call.stdout is not None
    assert call.stdout.readline() == b"ready\n"
    wait_until((box.place.workspace / "alive").exists, 10, "the orphan")
    children = host.children()
    box.agent.container.kill()
    wait_until(lambda: not [pid for pid in children if is_alive(pid)], GONE_S, "the end of all that the call started")
    call.communicate()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_count_of_second_turns_counts() -> None:
    asked = [{"event": "asked", "grant": name} for name in "ab"] * (CONTAINERS * CLIENTS // 2)
    unfair = [{"event": event, "grant": name} for name in "ab" for _ in range(50) for event in ("started", "ended")]
    assert second_turns(asked + unfair) == 49
    fair = [{"event": event, "grant": name} for _ in range(50) for name in "ab" for event in ("started", "ended")]
    assert second_turns(asked + fair) == 0
