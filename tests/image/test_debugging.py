"""The development image's tools work for the agent's user, with no capability except tcpdump's own."""

from __future__ import annotations

import pytest
from testinfra.host import Host

pytestmark = pytest.mark.variant("dev")


def test_strace_traces_a_process(host: Host) -> None:
    done = host.run("strace -f -e trace=execve true")
    assert done.rc == 0
    assert 'execve("/usr/bin/true"' in done.stderr


def test_tcpdump_captures_on_loopback(host: Host) -> None:
    done = host.run(
        "timeout 20 tcpdump -i lo -c 2 -l -n tcp port 3999 > /tmp/packets 2> /tmp/told & pid=$!; "
        "until grep -q listening /tmp/told; do kill -0 $pid || exit 1; done; "
        "curl -s http://127.0.0.1:3999/live > /dev/null; wait $pid; cat /tmp/packets"
    )
    assert done.rc == 0, done.stderr
    assert "127.0.0.1.3999" in done.stdout


def test_gdb_attaches(host: Host) -> None:
    done = host.run(
        "tail -f /dev/null & pid=$!; gdb -p $pid -batch -ex 'info inferiors' 2>&1; code=$?; kill $pid; exit $code"
    )
    assert done.rc == 0
    assert "process " in done.stdout


def test_inspector_answers(host: Host) -> None:
    done = host.run(
        "node --inspect=127.0.0.1:9229 -e 'setInterval(() => {}, 1000)' 2> /tmp/inspector & pid=$!; "
        "until grep -q listening /tmp/inspector; do kill -0 $pid || exit 1; done; "
        "curl -s http://127.0.0.1:9229/json/version; kill $pid"
    )
    assert '"Browser": "node.js/v' in done.stdout


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("ss -ltn", ":3999"),
        ("lsof -p $$", "cwd"),
        ("vim -es -c ':put =3+4' -c ':%p' -c ':q!'", "7"),
        ("TERM=xterm timeout 1 htop < /dev/null | head -c 2000 | tr -d '\\0'", "CPU"),
    ],
)
def test_tool_does_its_work(host: Host, command: str, expected: str) -> None:
    assert expected in host.run(command).stdout
