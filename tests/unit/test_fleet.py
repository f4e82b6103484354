"""What an agent does, as one word; waiting for it; and the JSON documents with their schemas."""

from __future__ import annotations

import dataclasses
import itertools
import json
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jsonschema import ValidationError
from rich.console import Console

from bridge.server.holds import Held
from bridge.server.host.budgets import standings
from bridge.server.host.config import parse
from bridge.server.host.usage import Row
from bridge.server.operator import report, usage_report
from commands import agents_look
from pipeline.agents import health, overview, ps, states
from pipeline.agents import wait as waiting
from pipeline.agents.audit import Audit, Found
from pipeline.agents.overview import Overview
from pipeline.agents.states import Call, Facts, Report, State, state_of
from pipeline.errors import Problem
from tests.support import schemas

NOW = 1_800_000_000.0


def call(state: str, since: float = NOW, waits_for: str = "", ahead: int | None = None) -> Call:
    until = NOW + 60 if state == "waiting_for_quota" else None
    return Call("interactive", state, waits_for, ahead, until, since, "0a1b", 3, nested=False)


def running(state: str = "running", phase: str = "running", health: str = "healthy", command: bool = False) -> Facts:
    return Facts("running", 0, health, NOW, None, command, Report("healthy", phase, state, "its words"))


def ended(state: str, at: float) -> Facts:
    return Facts("running", 0, "healthy", NOW, None, report=Report("healthy", "running", state, "its words", ended=at))


PERMISSION = call("waiting_for_person", NOW + 5, "permission for Bash")
TURN = call("waiting_for_turn", waits_for="a place", ahead=2)

TABLE = [
    # the container
    (Facts("created"), (), State("stopped", None, "it was made and is not started", was_started=False)),
    (Facts("exited", 0, finished=NOW), (), State("stopped", NOW, "", None, True)),
    (Facts("paused"), (), State("stopped", None, "its container is paused", None, True)),
    (Facts("exited", 137, finished=NOW), (), State("failed", NOW, "its container ended with 137", None, True)),
    (Facts("dead", 1), (), State("failed", None, "its container ended with 1", None, True)),
    (Facts("restarting", 0, finished=NOW), (), State("starting", NOW)),
    (
        Facts("restarting", 3, finished=NOW),
        (),
        State("failed", NOW, "its container ended with 3, and the engine starts it again", None, True),
    ),
    (Facts("exited", 0, finished=NOW), (call("working"),), State("stopped", NOW, "", None, True)),
    # its own word
    (Facts("running", health="starting", started=NOW), (), State("starting", NOW)),
    (running("starting", "starting"), (), State("starting", NOW)),
    (running(phase="stopping"), (call("working"),), State("stopped", None, "it is being stopped")),
    (running("restarting", health="unhealthy"), (call("idle"),), State("failed", None, "its words")),
    (running("finished", command=True), (), State("finished", is_final=True)),
    (running("finished"), (call("asleep"),), State("finished", is_final=True)),
    (running("finished"), (call("working"),), State("working", NOW)),
    (ended("finished", NOW + 1), (), State("finished", NOW + 1, is_final=True)),
    (ended("restarting", NOW + 1), (), State("failed", NOW + 1, "its words")),
    (running(health="unhealthy"), (), State("unhealthy", None, "its words")),
    (Facts("running", health="unhealthy", started=NOW, failing=NOW + 1), (), State("unhealthy", NOW + 1)),
    (running(health="unhealthy"), (call("working"),), State("working", NOW)),
    (running(command=True), (), State("working", NOW)),
    (running(), (), State("idle", NOW)),
    (Facts("running", started=NOW), (), State("idle", NOW)),
    # its calls
    (running(command=True), (call("idle"),), State("idle", NOW)),
    (running(), (call("starting"),), State("working", NOW)),
    (running(), (call("ending"),), State("idle", NOW)),
    (running(), (call("asleep", NOW + 1),), State("asleep", NOW + 1)),
    (running(), (call("asleep"), call("idle", NOW + 1)), State("idle", NOW + 1)),
    (running(), (call("idle"), call("working", NOW + 1)), State("working", NOW + 1)),
    (running(), (call("working", NOW + 2), call("working", NOW + 1)), State("working", NOW + 1)),
    (running(), (call("working"), TURN), State("waiting_for_turn", NOW, "a place", 2)),
    (running(), (TURN, call("waiting_for_quota")), State("waiting_for_quota", NOW)),
    (running(), (TURN, PERMISSION, call("working")), State("waiting_for_person", NOW + 5, "permission for Bash")),
]


@pytest.mark.parametrize(("facts", "calls", "expected"), TABLE)
def test_state_of_an_agent(facts: Facts, calls: tuple[Call, ...], expected: State) -> None:
    for order in itertools.permutations(calls):
        assert state_of(facts, order) == expected


def test_table_has_every_state() -> None:
    assert {expected.name for _, _, expected in TABLE} == {*states.MEANINGS}


PAGE = {
    "status": "degraded",
    "agent": {"name": "shop", "state": "running", "restarts": 2},
    "checks": {"agent": {"status": "pass", "detail": "running: a login\x1b[2J shell"}},
    "phase": "running",
}


def test_word_of_an_agent_is_read_and_cannot_steer_a_terminal() -> None:
    told = states.report_of(json.dumps(PAGE))
    assert told == Report("degraded", "running", "running", "a login?[2J shell", 2, None)
    page = {**PAGE, "agent": {**PAGE["agent"], "last_exit_at": "2026-11-28T05:17:10Z"}}  # type: ignore[dict-item]
    assert states.report_of(json.dumps(page)).ended == 1795843030


@pytest.mark.parametrize(
    "output",
    [
        "",
        "no supervisor runs here",
        "[" * 100_000,
        "[]",
        json.dumps({**PAGE, "phase": 3}),
        json.dumps({**PAGE, "agent": {"state": "running", "restarts": -1}}),
        json.dumps({**PAGE, "agent": {"state": "running", "restarts": 10**400}}),
        json.dumps({**PAGE, "checks": {"agent": {"detail": ["x"]}}}),
        json.dumps({**PAGE, "checks": []}),
    ],
)
def test_word_of_an_agent_in_another_form_counts_as_not_said(output: str) -> None:
    assert states.report_of(output) == Report()


def probe(number: int) -> dict[str, object]:
    """Return what the engine keeps of a probe. Each begins in the second of its number, and fails unless that is 0."""
    return {"Start": f"2026-11-28T05:17:1{number}Z", "ExitCode": number, "Output": ""}


def test_facts_of_a_container_are_what_the_engine_says() -> None:
    health = {"Status": "healthy", "Log": [{"Output": "old"}, {"Output": json.dumps(PAGE)}]}
    times = {"StartedAt": "2026-11-28T05:17:10.59331337Z", "FinishedAt": "0001-01-01T00:00:00Z"}
    attrs = {
        "State": {"Status": "running", "ExitCode": 0, "Health": health, **times},
        "Config": {"Env": ["A=b", "AGENT_COMMAND=claude-code"]},
    }
    found = states.facts_of(attrs)
    assert (found.status, found.health, found.has_command) == ("running", "healthy", True)
    assert found.started == pytest.approx(1795843030.593)
    assert found.finished is None
    assert found.report.state == "running"
    assert found.failing is None
    health["Log"] = [probe(1), probe(0), probe(2), probe(1)]
    assert states.facts_of(attrs).failing == 1795843032
    attrs["Config"] = {"Env": ["AGENT_COMMAND="]}
    assert not states.facts_of(attrs).has_command


@pytest.mark.parametrize(
    ("said", "facts", "condition"),
    [
        ("degraded", running(), "degraded"),
        ("healthy", running(health="unhealthy"), "healthy"),
        ("unhealthy", running(), "unhealthy"),
        ("", running(), "healthy"),
        ("splendid", running(), "none"),
        ("stopping", running(), "none"),
        ("healthy", Facts("exited"), "none"),
    ],
)
def test_condition_is_what_an_agent_says_when_it_is_asked(said: str, facts: Facts, condition: str) -> None:
    assert facts.updated(Report(said)).condition == condition


@pytest.mark.parametrize(
    ("answer", "page"),
    [
        (b'HTTP/1.1 200 OK\r\nA: b\r\n\r\n{"a": 1}', '{"a": 1}'),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 9_000_000, None),
        (b"nothing", ""),
    ],
)
def test_agent_that_answers_has_a_bound(answer: bytes, page: str | None) -> None:
    """The page that has no end is cut off, and one that never comes costs a second."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.recv(1000)
                connection.sendall(answer)

        with ThreadPoolExecutor(1) as pool:
            pool.submit(serve)
            [found] = health.ask([port])
    assert found == page if page is not None else len(found) < 3 * health.LARGEST
    assert health.ask([port]) == [""]


def container(number: int, command: str = "", status: str = "running") -> Any:
    state = {"Status": status, "Health": {"Status": "healthy", "Log": [{"Output": json.dumps(PAGE)}]}}
    labels = {ps.LABEL: f"a{number}", f"{ps.LABEL}.user": "1:1", ps.WORKSPACE_LABEL: "/w", ps.MODE_LABEL: "clone"}
    ports = {"3999/tcp": [{"HostPort": str(number)}]}
    config = {"Env": [f"AGENT_COMMAND={command}"], "Image": "i"}
    attrs = {"State": state, "Config": config, "NetworkSettings": {"Ports": ports}}
    return SimpleNamespace(id="c0ffee", labels=labels, attrs=attrs)


def test_container_with_the_name_s_label_alone_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    bare, one = container(1), container(2)
    bare.labels = {ps.LABEL: "a1"}
    monkeypatch.setattr(ps, "every", lambda _: [bare, one])
    document = overview.document(overview.every(None))
    schemas.check("agents-ps", document)
    assert [(each["name"], each["workspace"], each["user"]) for each in document["agents"]] == [
        ("a1", "", ""),
        ("a2", "/w", "1:1"),
    ]


@pytest.mark.parametrize(("ask", "asked"), [(False, [2]), (True, [1, 2, 3])])
def test_agent_is_asked_itself_where_only_it_knows(
    monkeypatch: pytest.MonkeyPatch, ask: bool, asked: list[int]
) -> None:
    """The second one's command has ended since the engine's probe. The third one's has a call."""
    ports: list[int] = []

    def answer(found: Iterable[int]) -> list[str]:
        ports.extend(found)
        return [
            json.dumps({**PAGE, "agent": {"state": "finished" if each == 2 else "running", "restarts": 0}})
            for each in ports
        ]

    monkeypatch.setattr(health, "ask", answer)
    told = {"a3": {"calls": [dataclasses.asdict(call("idle"))]}}
    found = [container(1), container(2, "make"), container(3, "claude-code"), container(4, "make", "exited")]
    seen = overview._overviews(found, told, ask=ask)
    assert [each.state.name for each in seen] == ["idle", "finished", "idle", "stopped"]
    assert ports == asked


def test_bridge_of_an_earlier_version_says_nothing_of_calls() -> None:
    assert states.calls_of([{"state": "running", "age_s": 1.0}]) == ()
    told = dataclasses.asdict(call("waiting_for_person", waits_for="Bash(\x1b[2J)"))
    assert states.calls_of([told])[0].waits_for == "Bash(?[2J)"


# Waiting


def agent(name: str, state: State, calls: tuple[Call, ...] = (), health: str = "healthy", **facts: Any) -> Overview:
    return Overview(
        **{
            "name": name,
            "state": state,
            "image": "magents/agent:latest",
            "variant": "prod",
            "user": "1000:1000",
            "workspace": "/home/me/shop",
            "mode": "direct",
            "health": health,
            "address": "http://127.0.0.1:3999/health",
            "container": "c0ffee",
            "restarts": 0,
            "command_restarts": 0,
            "calls": calls,
            **facts,
        }
    )


WORKING, IDLE, ASLEEP = State("working", NOW), State("idle", NOW), State("asleep", NOW)
MADE = State("stopped", None, "it was made and is not started", was_started=False)
ASKING = State("waiting_for_person", NOW, "permission for Bash")
RETRIED, FAILED = State("failed", None, "x"), State("failed", NOW, "its container ended with 3", None, True)


@pytest.mark.parametrize(
    ("until", "looks", "code"),
    [
        ("idle", [[IDLE, ASLEEP]], 0),
        ("idle", [[WORKING, IDLE], [IDLE, WORKING], [IDLE, IDLE]], 0),
        ("waiting", [[WORKING], [ASKING]], 0),
        ("finished", [[WORKING], [RETRIED], [State("finished", is_final=True)]], 0),
        ("idle", [[WORKING, IDLE], [WORKING, FAILED]], 1),
        ("idle", [[State("finished", is_final=True)]], 1),
        ("idle", [[WORKING, IDLE], [WORKING, None]], 1),
        ("idle", [[WORKING, MADE]] * 2 + [[WORKING, State("starting", NOW)], [IDLE, IDLE]], 0),
        ("idle", [[WORKING, MADE]] * 3, 3),
        ("waiting", [[IDLE]] * 4, 124),
    ],
)
def test_waiting_ends(until: str, looks: list[list[State | None]], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_S", 0)
    clock = itertools.count()
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    seen = iter(looks)

    def look() -> dict[str, Overview | None]:
        return {name: agent(name, state) if state else None for name, state in zip("ab", next(seen), strict=False)}

    monkeypatch.setattr(waiting, "NOT_STARTED_S", 2.0)
    outcome = waiting.wait(look, until, 4, lambda _: False)
    assert outcome.code == code
    assert next(seen, None) is None, "all looks were needed"
    schemas.check("agents-wait", outcome.as_json())


@pytest.mark.parametrize(
    ("health", "state", "code"),
    [("healthy", WORKING, 0), ("degraded", ASKING, 0), ("unhealthy", WORKING, 124), ("none", FAILED, 1)],
)
def test_healthy_is_what_health_says_in_any_state(health: str, state: State, code: int) -> None:
    assert waiting.wait(lambda: {"a": agent("a", state, health=health)}, "healthy", 0, lambda _: False).code == code


def test_agent_that_a_command_is_about_to_start_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "NOT_STARTED_S", 0.0)
    seen = {"a": agent("a", MADE)}
    assert waiting.wait(lambda: seen, "idle", 0, lambda name: name == "a").code == 124
    outcome = waiting.wait(lambda: seen, "idle", 0, lambda _: False)
    schemas.check("agents-wait", outcome.as_json())
    assert outcome.sentence() == (
        "not idle, and no command starts it: a is stopped: it was made and is not started; run `bin/invoke agents.up a`"
    )


def test_who_is_not_there_is_named() -> None:
    seen = {"a": agent("a", IDLE), "b": agent("b", ASKING), "c": None}
    assert waiting.Outcome(124, "idle", 5.2, seen).sentence() == (
        "not idle after 5 s: b is waiting for a person: permission for Bash; c is gone"
    )
    assert waiting.Outcome(1, "idle", 0, seen).sentence().startswith("not idle, and waiting does not change that: b is")
    assert waiting.Outcome(0, "idle", 0, {"a": agent("a", IDLE)}).sentence() == "idle: a"


@pytest.mark.parametrize(
    ("until", "timeout"), [("done", ""), ("", ""), ("idle", "soon"), ("idle", "-1"), ("idle", "nan"), ("idle", "inf")]
)
def test_what_cannot_be_waited_for_is_refused_with_64(until: str, timeout: str) -> None:
    with pytest.raises(Problem) as caught:
        waiting.check(until, timeout)
    assert caught.value.code == 64


# The table for people


@pytest.mark.parametrize(
    ("width", "left_out"),
    [(None, []), (300, []), (160, ["image"]), (145, ["image", "user"]), (60, ["image", "user", "address"])],
)
def test_table_is_as_wide_as_the_terminal_and_a_pipe_gets_all(width: int | None, left_out: list[str]) -> None:
    agents = [agent("shop", ASKING), agent("cart", IDLE, workspace="/home/me/" + "x" * 30)]
    rows = agents_look._rows(agents, width)
    headings = ["agent", "state", "since", "image", "user", "workspace", "mode", "health", "address"]
    assert [column.header for column in rows.columns] == [each for each in headings if each not in left_out]
    with (console := Console(width=width or 1000)).capture() as printed:
        console.print(rows)
    lines = printed.get().splitlines()
    assert "shop" in lines[1]
    assert max(map(len, lines)) <= (width or 1000)
    assert width == 60 or len(lines) == 3


# The documents and their schemas


def every_document() -> dict[str, list[Any]]:
    """Return documents that show all that there can be."""
    agents = [agent(f"a{number}", state_of(facts, calls), calls) for number, (facts, calls, _) in enumerate(TABLE)]
    kinds = [Call(kind, "idle", "", None, None, NOW, None, 0, nested=True) for kind in ("print", "program")]
    agents += [agent("b", IDLE, tuple(kinds), health) for health in ("degraded", "unhealthy", "starting")]
    agents.append(agent("c", FAILED, health="none", address=""))
    seen = {"a": agents[0], "b": None}
    audit = Audit(Path("/w"), NOW, [Found("x", "git", NOW, 3)], ["too many files"])
    client = {"age_s": 1.5, "grant": "a", "uid": 1000, "pid": 7, "container": "c0ffee", "client": "shop"}
    calls = [{**dataclasses.asdict(call(state)), **client} for state in (*states.OF_CALL, "ending")]
    calls += [{**dataclasses.asdict(kind), **client} for kind in kinds]
    held = dataclasses.asdict(Held("limit", NOW, "the limit is reached"))
    grant = {"workspace": "/w", "connections": 1, "running": 1, "queued": 0, "calls": calls, "problem": ""}
    grants = {name: {**grant, "held": why, "wrong_workspaces": 0} for name, why in (("a", held), ("b", None))}
    login = {"source": "the login in /h", "lasts": "a day", "expires": 1.5, "renewed": True, "problem": ""}
    server = {
        "pid": 1,
        "uptime_s": 1.0,
        "cli": "2",
        "login": login,
        "running": 1,
        "queued": 0,
        "served": 0,
        "stopping": False,
    }
    chosen = parse({"budgets": {"a": [{"usd": 1, "over": over} for over in ("warn", "hold")]
                                     + [{"tokens": 1, "per": "week", "over": "stop"}]}}).budgets  # fmt: skip
    budgets = [each.facts() for each in standings(chosen, "a", lambda *_: (1, 0), NOW)]
    grants = {name: {**each, "budgets": budgets} for name, each in grants.items()}
    used = Row("a", "2026-11-28", "m", 1, 1, 1, 1, 1, 1, 1, 1)
    answers = [{**server, "held": why, "grants": grants, "problems": {"b": "it is gone"}} for why in (held, None)]
    answers.append({**answers[1], "login": {**login, "expires": None}})
    return {
        "agents-ps": [overview.document(agents)],
        "agents-wait": [
            waiting.Outcome(code, until, 1.23, seen).as_json() for code in waiting.RESULTS for until in waiting.UNTIL
        ],
        "agents-audit": [audit.document("a")],
        "bridge-usage": [usage_report.document([used], "2026-11-28", {"a": budgets})],
        "bridge-status": [report.status_document(each) for each in (None, *answers)],
    }


@pytest.mark.parametrize("name", schemas.NAMES)
def test_schema_has_what_the_documents_have_and_nothing_more(name: str) -> None:
    """`unseen` also fails where a document has something that its schema has not."""
    schemas.validator(name).check_schema(schemas.schema(name))
    for place, part in schemas.parts(name).items():
        if "properties" in part:
            assert (part["additionalProperties"], part["required"]) == (False, [*part["properties"]]), place
        assert part.get("description") or "/additionalProperties" in place or part.get("type") in ("null", "string"), (
            place
        )
    assert not schemas.unseen(name, every_document()[name])


def test_schema_refuses_what_it_does_not_know() -> None:
    document = every_document()["agents-ps"][0]
    with pytest.raises(ValidationError, match="Additional properties are not allowed"):
        schemas.check("agents-ps", {**document, "agents": [{**document["agents"][0], "more": 1}]})
    with pytest.raises(ValidationError, match="is not valid under any"):
        schemas.check("agents-ps", {**document, "agents": [{**document["agents"][0], "state": "busy"}]})


def test_schema_explains_the_states_as_the_code_does() -> None:
    told = schemas.schema("agents-ps")["$defs"]["agent"]["properties"]["state"]["oneOf"]
    assert {each["const"]: each["description"] for each in told} == states.MEANINGS
