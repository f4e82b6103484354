"""The executor of commands in the container, against a host that grants credit late."""

from __future__ import annotations

import _thread
import os
import time

import pytest

from bridge.client.executor import Executor
from bridge.protocol.frames import WINDOW, Event, Frame, frame
from bridge.protocol.link import CLIENT, SERVER, Link
from tests.support.waiting import wait_until

SIZE = WINDOW + 50_000
"""More than the first credit, and what is left of it fits into a pipe."""


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_last_output_waits_for_credit_after_the_last_process_has_gone(is_cancelled: bool) -> None:
    """A cancel that comes after the last process changes nothing."""
    host, client, lock = Link(SERVER), Link(CLIENT), _thread.allocate_lock()
    host.receive(client.hello())
    client.receive(host.hello())
    events: list[Event] = []
    executor = Executor(client, lambda data: events.extend(host.receive(data)), lock, b"/nowhere")
    number, opening = host.open([b"head -c %d /dev/zero; echo $$ >&2" % SIZE], {}, cwd="/")
    (run,) = client.receive(opening)
    executor.on(run)
    wait_until(lambda: any(event.kind == Frame.STDERR for event in events), 10, "the end of the command")
    pid = int(next(event.payload for event in events if event.kind == Frame.STDERR))
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), 10, "the end of its process")  # noqa: PTH110
    ended = time.monotonic() + 0.3
    wait_until(lambda: time.monotonic() > ended, 10, "the end of its reaper")
    sent = frame(Frame.CANCEL, number) if is_cancelled else b""
    for event in client.receive(sent + host.grant(number, Frame.STDOUT, SIZE)):
        executor.on(event)
    wait_until(lambda: events[-1].kind == Frame.EXIT, 10, "the result")
    assert sum(len(event.payload) for event in events if event.kind == Frame.STDOUT) == SIZE
