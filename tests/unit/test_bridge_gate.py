"""The gate of a call, on a clock that the loop moves forward itself whenever nothing else is to do."""

from __future__ import annotations

import asyncio
import selectors
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from bridge.policy.usage_limits import Told
from bridge.server.activity import Activity
from bridge.server.gate import (
    FREE,
    QUIET_S,
    SILENT_S,
    START_S,
    STDIN_MOST_S,
    STDIN_S,
    UNSURE_MOST_S,
    UNSURE_S,
    Gate,
    HeldTurnError,
    Hold,
    RefusedTurnError,
)
from bridge.server.sandbox.proxy import Proxy, Rules
from tests.support.waiting import move_on, next_turn, until

WAIT_S = 600.0
PROMPT = 10 * FREE


class Clock(selectors.DefaultSelector):
    """Waits for nothing: the time jumps to the next event."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found and timeout:
            self.now += timeout
        return found


class Desk:
    """The server, with as many places as it is told."""

    wait_limit = WAIT_S

    def __init__(self) -> None:
        self.is_free = True
        self.told: list[str] = []
        self.keeps = False
        self.refusal: HeldTurnError | None = None

    def ask(self) -> bool:
        self.told.append("ask")
        if self.refusal is not None:
            raise self.refusal
        return self.is_free

    def take(self) -> None:
        self.told.append("take")

    def give_back(self) -> bool:
        self.told.append("keep" if self.keeps else "back")
        return not self.keeps

    def hear_limit(self, told: Told) -> None:
        self.told.append(told.cause)


class Scene:
    """A gate, its desk and its clock."""

    def __init__(self, hold: Hold) -> None:
        self.loop = asyncio.get_running_loop()
        self.desk, self.activity = Desk(), Activity()
        self.gate = Gate(self.activity)
        self.gate.attach(self.desk, hold)
        self.gate.start()
        self.has_left = False

    @property
    def state(self) -> str:
        return self.activity.state.value

    async def request(self, lasts: float = 1.0) -> None:
        async with self.gate.request(lambda: self.has_left):
            await move_on(lasts)

    async def held_for(self) -> float:
        """Return the seconds until the place is given back."""
        begun = self.loop.time()
        while self.gate.may_pass:
            assert self.loop.time() - begun < 100, "the place is held for ever"
            await move_on(0.01)
        return round(self.loop.time() - begun, 1)


def play(act: Callable[[Scene], Coroutine[Any, Any, None]], hold: Hold = Hold.ANSWER) -> Scene:
    async def run() -> Scene:
        scene = Scene(hold)
        await act(scene)
        return scene

    def loop() -> asyncio.AbstractEventLoop:
        clock = Clock()
        made = asyncio.SelectorEventLoop(clock)
        made.time = lambda: clock.now  # type: ignore[method-assign]
        return made

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(run())


def test_place_is_held_from_a_request_until_a_moment_after_the_answer() -> None:
    async def act(scene: Scene) -> None:
        await scene.request(100)
        await move_on(QUIET_S / 2)
        await scene.request()
        assert scene.state == "working"
        assert await scene.held_for() == QUIET_S
        assert scene.state == "idle"

    assert play(act).desk.told == ["ask", "back"]


def test_command_holds_the_place_and_one_in_the_background_does_not() -> None:
    async def act(scene: Scene) -> None:
        await scene.request(UNSURE_S + 1)
        scene.gate.begin_command("first")
        await move_on(100)
        assert scene.gate.may_pass
        scene.gate.end_command("first")
        await scene.request()
        scene.gate.begin_command("server")
        await scene.request()
        assert await scene.held_for() == QUIET_S

    play(act)


def test_command_that_is_heard_of_just_after_a_request_counts_for_a_while_unless_ends_are_reported() -> None:
    async def act(scene: Scene) -> None:
        await scene.request(UNSURE_S / 2)
        scene.gate.begin_command("late")
        assert await scene.held_for() == UNSURE_MOST_S
        scene.gate.is_told_of_ends = True
        await scene.request(UNSURE_S / 2)
        scene.gate.begin_command("reported")
        await move_on(100)
        assert scene.gate.may_pass
        scene.gate.answer_ended()
        assert not scene.gate.may_pass

    play(act)


def test_interrupted_answer_has_no_end_and_leaves_no_command_that_holds_the_place() -> None:
    async def act(scene: Scene) -> None:
        scene.gate.is_told_of_ends = True
        await scene.request(UNSURE_S + 1)
        scene.gate.begin_command("sure")
        scene.gate.interrupt()
        await move_on(100)
        assert scene.gate.may_pass, "Escape may only have closed a menu"
        scene.gate.end_command("sure")
        await scene.request(UNSURE_S / 2)
        scene.gate.begin_command("in the background")
        await move_on(100)
        scene.gate.interrupt()
        assert await scene.held_for() == UNSURE_MOST_S

    play(act)


def test_call_that_is_over_asks_for_no_place() -> None:
    """Its proxy may still have a piece of a request in its hands. Nobody would give the place back."""

    async def act(scene: Scene) -> None:
        scene.activity.come_up()
        tunnel = scene.gate.tunnel(lambda: False)
        scene.gate.close()
        with pytest.raises(ConnectionAbortedError):
            await asyncio.wait_for(tunnel.send(PROMPT), 1)
        tunnel.hear(PROMPT)

    assert play(act).desk.told == []


def test_request_waits_for_its_turn() -> None:
    async def act(scene: Scene) -> None:
        scene.desk.is_free = False
        both = [asyncio.create_task(scene.request()) for _ in "ab"]
        await move_on(100)
        assert scene.state == "waiting_for_turn"
        scene.gate.open()
        await asyncio.gather(*both)

    assert play(act).desk.told == ["ask"]


def test_request_that_the_cli_gives_up_leaves_the_queue() -> None:
    async def act(scene: Scene) -> None:
        scene.desk.is_free = False
        asked = asyncio.create_task(scene.request())
        await move_on(1)
        scene.has_left = True
        with pytest.raises(ConnectionAbortedError):
            await asked
        assert scene.state == "idle"

    assert play(act).desk.told == ["ask", "back"]


def test_request_fails_after_the_time_limit_with_a_sentence() -> None:
    async def act(scene: Scene) -> None:
        scene.desk.is_free = False
        with pytest.raises(RefusedTurnError, match="within 600 s"):
            await scene.request()

    assert play(act).desk.told == ["ask", "back"]


def test_session_without_a_first_prompt_gives_its_place_back() -> None:
    async def act(scene: Scene) -> None:
        scene.gate.open()
        assert await scene.held_for() == START_S

    play(act)


def test_call_whose_stdin_stays_open_gives_its_place_back() -> None:
    async def act(scene: Scene) -> None:
        scene.gate.open()
        await move_on(2)
        scene.gate.stir(is_end=False)
        assert await scene.held_for() == STDIN_S
        await scene.request()
        scene.gate.stir(is_end=True)
        await move_on(1000)
        assert scene.gate.may_pass

    play(act, Hold.STDIN)


def test_stdin_that_brings_something_for_ever_holds_no_place_for_ever() -> None:
    async def act(scene: Scene) -> None:
        scene.gate.open()
        while scene.gate.may_pass:
            scene.gate.stir(is_end=False)
            await move_on(1)
        assert scene.loop.time() <= STDIN_MOST_S + 1

    play(act, Hold.STDIN)


def test_call_that_has_to_keep_its_place_keeps_it() -> None:
    async def act(scene: Scene) -> None:
        scene.desk.keeps = True
        scene.gate.open()
        await move_on(START_S + 1)
        assert scene.gate.may_pass

    assert play(act).desk.told == ["keep"]


def test_state_of_a_call_is_the_first_fact_that_counts() -> None:
    now = 100.0
    activity = Activity(lambda: now)
    seen = []
    activity.hold_place(has_place=True)
    for report in (
        activity.come_up,
        lambda: activity.ask_person("May it run ls?"),
        lambda: activity.wait_for_turn("a place"),
        lambda: activity.wait_for_turn(""),
        lambda: activity.sleep(is_asleep=True),
        activity.end,
    ):
        now += 1
        report()
        seen.append((activity.state.value, activity.since, activity.waits_for))
    assert seen == [
        ("working", 101, ""),
        ("waiting_for_person", 102, "May it run ls?"),
        ("waiting_for_turn", 103, "a place"),
        ("waiting_for_person", 104, "May it run ls?"),
        ("asleep", 105, ""),
        ("ending", 106, ""),
    ]


# New work is held

HELD = HeldTurnError("the limit is reached", [(b"retry-after", b"60")], b"{}")


@pytest.mark.parametrize("comes", ["at once", "while it waits"])
def test_request_that_is_held_too_long_is_answered_by_a_gateway_and_gives_up_its_turn(comes: str) -> None:
    async def act(scene: Scene) -> None:
        scene.desk.is_free = False
        scene.desk.refusal = HELD if comes == "at once" else None
        request = asyncio.create_task(scene.request())
        await move_on(1)
        scene.gate.turn_away(HELD)
        with pytest.raises(HeldTurnError):
            await request
        assert not scene.gate.may_pass
        assert scene.state == "idle"

    assert play(act).desk.told == (["ask"] if comes == "at once" else ["ask", "back"])


@pytest.mark.parametrize("comes", ["at once", "while it waits"])
def test_request_that_is_held_too_long_passes_through_a_tunnel_so_that_the_api_can_answer(comes: str) -> None:
    async def act(scene: Scene) -> None:
        scene.activity.come_up()
        scene.desk.is_free = False
        scene.desk.refusal = HELD if comes == "at once" else None
        prompt = asyncio.create_task(scene.gate.tunnel(lambda: False).send(PROMPT))
        await move_on(1)
        scene.gate.turn_away(HELD)
        await prompt
        assert scene.gate.may_pass

    assert play(act).desk.told == (["ask", "take"] if comes == "at once" else ["ask", "back", "take"])


# A tunnel, whose bytes mean nothing to the server


def test_handshake_passes_and_a_prompt_waits() -> None:
    async def act(scene: Scene) -> None:
        scene.desk.is_free = False
        scene.activity.come_up()
        tunnel = scene.gate.tunnel(lambda: False)
        for _ in range(10):
            await tunnel.send(2000)
            tunnel.hear(FREE)
        assert scene.desk.told == []
        prompt = asyncio.create_task(tunnel.send(PROMPT))
        await move_on(100)
        assert not prompt.done()
        scene.gate.open()
        await prompt
        for _ in range(5):
            await move_on(SILENT_S - 1)
            tunnel.hear(100)
        assert await scene.held_for() == SILENT_S

    assert play(act).desk.told == ["ask", "back"]


def test_answer_that_comes_after_the_place_was_given_back_takes_it_again() -> None:
    async def act(scene: Scene) -> None:
        scene.activity.come_up()
        tunnel = scene.gate.tunnel(lambda: False)
        await tunnel.send(PROMPT)
        await scene.held_for()
        tunnel.hear(FREE)
        assert not scene.gate.may_pass
        tunnel.hear(1)
        assert scene.gate.may_pass

    assert play(act).desk.told == ["ask", "back", "take"]


def test_end_that_the_cli_reports_needs_no_silence() -> None:
    async def act(scene: Scene) -> None:
        scene.activity.come_up()
        tunnel = scene.gate.tunnel(lambda: False)
        await tunnel.send(PROMPT)
        scene.gate.begin_command("server")
        tunnel.hear(PROMPT)
        scene.gate.answer_ended()
        await next_turn()
        assert not scene.gate.may_pass
        tunnel.hear(100)
        assert not scene.gate.may_pass

    play(act)


def test_proxy_lets_a_prompt_through_the_tunnel_in_its_turn() -> None:
    async def run() -> None:
        arrived: asyncio.Queue[int] = asyncio.Queue()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(1 << 16):
                arrived.put_nowait(len(data))
            writer.close()

        api = await asyncio.start_server(answer, "127.0.0.1", 0)
        target = api.sockets[0].getsockname()
        scene = Scene(Hold.ANSWER)
        scene.desk.is_free = False
        scene.activity.come_up()
        listener = socket.create_server(("127.0.0.1", 0))
        proxy = Proxy(listener, Rules(named=frozenset({target})), lambda *_, **__: None, scene.gate)
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"CONNECT %s:%d HTTP/1.1\r\n\r\n" % (target[0].encode(), target[1]))
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"x" * 100)
        assert await arrived.get() == 100
        writer.write(b"x" * PROMPT)
        await until(lambda: scene.desk.told, 20, "the question for a place")
        assert arrived.empty()
        scene.gate.open()
        size = 0
        while size < PROMPT:
            size += await arrived.get()
        scene.gate.close()
        writer.close()
        await writer.wait_closed()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait_for(asyncio.gather(*others, return_exceptions=True), 20)  # both ends have seen the end
        proxy.close()
        api.close()
        await api.wait_closed()
        await next_turn()

    asyncio.run(run())
