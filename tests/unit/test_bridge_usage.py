"""What counts of the CLI's reports, what the database keeps, what budgets decide, and what is printed of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import signal
import socket
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.policy import telemetry
from bridge.policy.telemetry import Report, Usage
from bridge.server.activity import Activity
from bridge.server.gate import Gate
from bridge.server.host import usage
from bridge.server.host.budgets import Over, Period, budgets_of, standings, worst
from bridge.server.host.config import ConfigError, parse
from bridge.server.host.usage import UsageStore, rows
from bridge.server.operator import usage_report
from bridge.server.sandbox.proxy import Proxy, Rules
from bridge.server.sandbox.reports import Reports
from tests.support.waiting import wait_until

DAY = "2026-11-28"
NOON = 1795867200.0
"""2026-11-28 12:00 UTC, a Saturday."""
TEXT = "a secret of the prompt"


def record(name: str = "api_request", **facts: Any) -> dict[str, Any]:
    """Return a record as both versions of the CLI write it."""
    given = {"event.name": name, "session.id": "s", "event.sequence": 1, "model": "claude-opus-5-5", **facts}
    kinds = {int: "intValue", float: "doubleValue", str: "stringValue", bool: "boolValue"}
    attributes = [{"key": key, "value": {kinds[type(value)]: value}} for key, value in given.items()]
    return {"timeUnixNano": "1", "body": {"stringValue": f"claude_code.{name}"}, "attributes": attributes}


def body(*records: dict[str, Any]) -> bytes:
    return json.dumps({"resourceLogs": [{"resource": {}, "scopeLogs": [{"logRecords": records}]}]}).encode()


REQUEST: dict[str, Any] = {
    "input_tokens": 5, "output_tokens": 6, "cache_read_tokens": 7, "cache_creation_tokens": 8,
    "cost_usd": 0.5, "cost_usd_micros": 500_000,
}  # fmt: skip
READ = Report("s", 1, "claude-opus-5-5", Usage(5, 6, 7, 8, 500_000))


# Reports


@pytest.mark.parametrize("shape", [lambda value: value, str], ids=["numbers", "texts"])
def test_answer_is_read(shape: Any) -> None:
    """OTLP writes 64-bit numbers as texts, and so do others."""
    facts = {name: shape(value) for name, value in REQUEST.items()}
    assert telemetry.read(body(record(**facts), record("user_prompt", prompt=TEXT))) == [READ]


def test_cost_of_a_cli_that_says_no_whole_number() -> None:
    (report,) = telemetry.read(body(record(input_tokens=1, cost_usd=0.0000301)))
    assert report.usage == Usage(1, micros=30)


@pytest.mark.parametrize("status", [429, 529, 0])
def test_failed_request_is_read(status: int) -> None:
    (report,) = telemetry.read(body(record("api_error", status_code=status, error=TEXT)))
    assert (report.status, report.usage) == (status, Usage())
    assert TEXT not in repr(report)


@pytest.mark.parametrize("model", [TEXT, "x" * 81, "", "a\nb", '"}'])
def test_text_that_is_no_model_is_not_kept(model: str) -> None:
    facts: dict[str, Any] = {**REQUEST, "model": model}
    (report,) = telemetry.read(body(record(**facts)))
    assert report.model == telemetry.OTHER_MODEL


@pytest.mark.parametrize("tokens", [-1, 1 << 41, "nan", "inf", "x", True])
def test_what_is_no_number_of_tokens_counts_as_none(tokens: Any) -> None:
    (report,) = telemetry.read(body(record(input_tokens=tokens)))
    assert report.usage.input == 0


KEYS = st.sampled_from(["resourceLogs", "scopeLogs", "logRecords", "attributes", "key", "value"])
DOCUMENTS = st.recursive(
    st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner)
)


@settings(max_examples=40)
@given(st.binary(max_size=60) | DOCUMENTS.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_no_report(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert telemetry.read(data) == []


# The address of one call's reports


def test_report_that_comes_twice_counts_once() -> None:
    got: list[Report] = []
    reports = Reports(got.extend)
    several = [Report("s", number, "m") for number in (1, 2)]
    for batch in (several, several, [*several, Report("s", 3, "m"), Report("other", 1, "m")]):
        reports._count(batch)
    assert [(report.session, report.sequence) for report in got] == [("s", 1), ("s", 2), ("s", 3), ("other", 1)]


def test_report_that_could_not_be_kept_counts_when_it_comes_again() -> None:
    got: list[Report] = []
    problems = [OSError("full")]

    def take(new: list[Report]) -> None:
        if problems:
            raise problems.pop()
        got.extend(new)

    reports = Reports(take)
    with pytest.raises(OSError, match="full"):
        reports._count([READ])
    reports._count([READ])
    assert got == [READ]


def test_variables_replace_the_operators_own() -> None:
    theirs = {telemetry.SWITCH: "1", telemetry.LOGS_EXPORTER: "otlp,console", telemetry.LOGS_ENDPOINT: "http://x"}
    ours = telemetry.variables("name.invalid", "secret", theirs)
    assert ours[telemetry.LOGS_EXPORTER] == "otlp,console"
    assert ours[telemetry.LOGS_ENDPOINT] == "http://name.invalid/v1/logs"
    assert "OTEL_METRICS_EXPORTER" not in ours
    assert telemetry.wants_logs(theirs)


def test_other_signals_are_off_where_the_operator_has_no_telemetry() -> None:
    theirs = {"OTEL_METRICS_EXPORTER": "otlp", telemetry.LOGS_EXPORTER: "console"}
    ours = telemetry.variables("name.invalid", "secret", theirs)
    assert (ours["OTEL_METRICS_EXPORTER"], ours[telemetry.LOGS_EXPORTER]) == ("none", "otlp")
    assert not telemetry.wants_logs(theirs)


# The database


def test_sums_are_kept_by_grant_day_and_model(tmp_path: Path) -> None:
    store = UsageStore(tmp_path / "u")
    store.add("a", [READ, READ, Report("s", 2, "m", status=429)], DAY)
    store.add("b", [Report("s", 2, "m", status=500)], DAY)
    store.add("a", [READ], "2026-11-29")
    found = {(row.grant, row.day, row.model): row for row in rows(tmp_path / "u")}
    assert len(found) == 4
    two = found["a", DAY, READ.model]
    assert (two.requests, two.input, two.output, two.cache_read, two.cache_creation) == (2, 10, 12, 14, 16)
    assert (two.micros, two.tokens) == (1_000_000, 52)
    assert (found["a", DAY, "m"].limited, found["a", DAY, "m"].failed, found["a", DAY, "m"].requests) == (1, 0, 0)
    assert (found["b", DAY, "m"].limited, found["b", DAY, "m"].failed) == (0, 1)
    assert store.used("a", "2026-11-29") == (26, 500_000)
    assert store.used("a", DAY) == (78, 1_500_000)
    assert store.used("c", DAY) == (0, 0)
    assert [row.day for row in rows(tmp_path / "u", "2026-11-29")] == ["2026-11-29"]


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        UsageStore(tmp_path / "u").add("a", [READ], DAY)
    finally:
        os.umask(old)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {0o600}


def test_models_that_a_container_invents_count_as_one(tmp_path: Path) -> None:
    store = UsageStore(tmp_path / "u")
    for number in range(100):
        store.add("a", [Report("s", number, f"m-{number}", Usage(1))], DAY)
    found = rows(tmp_path / "u")
    assert len(found) == usage.MAX_MODELS
    assert sum(row.input for row in found) == 100
    store.add("a", [Report("s", 1, "m-3", Usage(1))], DAY)
    assert next(row.input for row in rows(tmp_path / "u") if row.model == "m-3") == 2


def test_old_days_are_removed(tmp_path: Path) -> None:
    store = UsageStore(tmp_path / "u")
    store.add("a", [READ], "2025-01-01")
    store.add("a", [READ], DAY)
    assert [row.day for row in rows(tmp_path / "u")] == [DAY]


def _write(path: Path, told: Any) -> None:
    store = UsageStore(path)
    for number in range(1_000_000):
        store.add("a", [Report("s", number, "m", Usage(1)), Report("s", number, "n", Usage(1))], DAY)
        told.value = number + 1


def test_kill_loses_or_doubles_nothing(tmp_path: Path) -> None:
    """What was counted is there; of the report in the middle of which the kill came, all or nothing."""
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        before = sum(row.input for row in rows(tmp_path / "u"))
        told = context.Value("q", 0, lock=False)
        writer = context.Process(target=_write, args=(tmp_path / "u", told))
        writer.start()
        wait_until(lambda told=told: told.value > 20, 10, "some reports")  # type: ignore[misc]
        os.kill(writer.pid or 0, signal.SIGKILL)
        writer.join()
        found = {row.model: row.input for row in rows(tmp_path / "u")}
        assert found["m"] == found["n"]
        assert found["m"] * 2 - before in (told.value * 2, told.value * 2 + 2)


def test_file_that_is_no_database_is_an_error_of_sqlite(tmp_path: Path) -> None:
    (tmp_path / "u").write_text("x" * 5000)
    with pytest.raises(sqlite3.DatabaseError):
        UsageStore(tmp_path / "u").add("a", [READ], DAY)


# Budgets


BUDGETS = {
    "*": {"usd": 20},
    "research-*": {"usd": 100, "tokens": 1000, "per": "week", "over": "stop"},
    "research-x-*": {"usd": 1},
    "nightly": [{"usd": 5, "over": "warn"}, {"tokens": 60, "per": "week"}],
}


@pytest.mark.parametrize(
    ("grant", "usd"), [("shop", [20]), ("research-1", [100]), ("research-x-1", [1]), ("nightly", [5, None])]
)
def test_most_exact_name_counts(grant: str, usd: list[float | None]) -> None:
    budgets = parse({"budgets": BUDGETS}).budgets
    assert [budget.usd for budget in budgets_of(budgets, grant)] == usd


def test_grant_that_no_name_fits_has_no_budget() -> None:
    assert budgets_of(parse({"budgets": {"a": {"usd": 1}}}).budgets, "b") == ()


@pytest.mark.parametrize(
    ("budgets", "why"),
    [
        ([], "budgets is []; a mapping of names is allowed"),
        ({"*": {}}, "budgets.* is {}; a budget is allowed, such as {usd: 20, per: day}, or a list of them"),
        ({"*": 20}, "budgets.* is 20; a budget is allowed, such as {usd: 20, per: day}, or a list of them"),
        ({"*": []}, "budgets.* is []; a budget is allowed, such as {usd: 20, per: day}, or a list of them"),
        ({"*": {"per": "day"}}, "budgets.* has neither usd nor tokens; one of them is needed"),
        ({"a": {"usd": -1}}, "budgets.a.usd is -1; a number from 0 to 1000000 is allowed"),
        ({"a": {"usd": float("nan")}}, "budgets.a.usd is nan; a number from 0 to 1000000 is allowed"),
        ({"a": {"usd": "20"}}, "budgets.a.usd is '20'; a number from 0 to 1000000 is allowed"),
        ({"a": {"usd": True}}, "budgets.a.usd is True; a number from 0 to 1000000 is allowed"),
        ({"a": {"tokens": 1.5}}, "budgets.a.tokens is 1.5; a whole number from 0 to 1000000000000000 is allowed"),
        ({"a": {"usd": 1, "per": "month"}}, "budgets.a.per is 'month'; allowed are day, week"),
        ({"a": {"usd": 1, "over": "kill"}}, "budgets.a.over is 'kill'; allowed are hold, warn, stop"),
        ({"a": {"usd": 1, "till": 1}}, "budgets.a.till is not known; allowed are over, per, tokens, usd"),
        ({"a b": {"usd": 1}}, "budgets.a b names no grant; a name is allowed, or a pattern with * and ?"),
    ],
)
def test_wrong_budget_is_one_line(budgets: object, why: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse({"budgets": budgets})
    assert str(error.value) == why


def standing(grant: str, tokens: int, usd: float, asked: list[str] | None = None) -> Any:
    def used(_: str, since: str) -> tuple[int, int]:
        (asked if asked is not None else []).append(since)
        return tokens, round(usd * 1_000_000)

    return worst(standings(parse({"budgets": BUDGETS}).budgets, grant, used, NOON))


def test_budget_is_used_up_when_its_last_part_is_used() -> None:
    assert standing("shop", 10**12, 19.99) is None
    over = standing("shop", 0, 20)
    assert over.sentence == "the budget of grant shop, 20 USD (20.00 used) per day, is used up"
    assert (over.end, over.budget.over) == ("2026-11-29 00:00 UTC", Over.HOLD)


def test_week_begins_on_monday() -> None:
    asked: list[str] = []
    over = standing("research-1", 1000, 1, asked)
    assert over.sentence == "the budget of grant research-1, 1,000 tokens (1,000 used) per week, is used up"
    assert (asked, over.end) == (["2026-11-23"], "2026-11-30 00:00 UTC")
    assert Period.WEEK.begins(1795392000).isoformat() == "2026-11-23T00:00:00+00:00"  # itself a Monday


def test_harder_budget_decides() -> None:
    assert standing("nightly", 0, 5).budget.over is Over.WARN
    assert standing("nightly", 60, 5).budget.over is Over.HOLD


# What is printed


def some() -> list[usage.Row]:
    return [
        usage.Row("shop", DAY, "claude-opus-5-5", 2, 10, 12, 14, 16, 1_500_000, 1, 0),
        usage.Row("shop", DAY, "m", 1, 1, 1, 0, 0, 500_000, 0, 2),
        usage.Row("cart", "2026-11-27", "m", 1, 1, 1, 0, 0, 1_000_000, 0, 0),
    ]


def test_table_says_each_grant_and_day_once() -> None:
    lines = usage_report.text(some(), DAY, {}, with_bars=True)
    assert lines[0].split("  ")[0] == "DAY"
    assert lines[1].split()[:10] == [DAY, "shop", "3", "11", "13", "14", "16", "1", "2", "2.00"]
    assert [line.count("█") for line in lines[1:3]] == [24, 12]
    assert lines[3].startswith("3.00 USD and 56 tokens since 2026-11-28")
    assert "█" not in "".join(usage_report.text(some(), DAY, {}, with_bars=False))


def test_prometheus_text_sums_all_days() -> None:
    lines = usage_report.prometheus(some()).splitlines()
    assert 'claude_bridge_tokens_total{grant="shop",model="claude-opus-5-5",kind="cache_read"} 14' in lines
    assert 'claude_bridge_cost_usd_total{grant="cart",model="m"} 1.000000' in lines
    assert 'claude_bridge_limited_requests_total{grant="shop",model="claude-opus-5-5"} 1' in lines
    names = {line.split("{")[0] for line in lines if not line.startswith("#")}
    assert {line.split()[2] for line in lines if line.startswith("# TYPE")} == names
    assert len(lines) == len(set(lines))


@pytest.mark.parametrize(
    ("said", "day"),
    [("today", DAY), ("yesterday", "2026-11-27"), ("7d", "2026-11-22"), ("1d", DAY), ("2026-02-03", "2026-02-03")],
)
def test_first_day(said: str, day: str) -> None:
    assert usage_report.first_day(said, DAY) == day


@pytest.mark.parametrize("said", ["", "x", "2026-13-01", "d", "-3d", "99999999999d", "28.11.2026"])
def test_what_is_no_day_is_said_in_one_sentence(said: str) -> None:
    with pytest.raises(ValueError, match=r"^--since is .*; a day is allowed: "):
        usage_report.first_day(said, DAY)


# The proxy of a call


OTHER_NAME = "0123456789abcdef0123456789abcdef.invalid"


def asked(reports: Reports, lines: str, data: bytes = b"") -> str:
    """Return what a call's proxy answers to bytes of its namespace."""

    async def ask() -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        proxy = Proxy(listener, Rules(web=False), lambda *_, **__: None, Gate(Activity()), reports)
        proxy.cut()  # reports still count when the call is ending
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(lines.replace("\n", "\r\n").encode() + data)
        answer = await reader.read()
        writer.close()
        proxy.close()
        return answer.decode()

    return asyncio.run(ask())


def post(target: str, secret: str, length: int) -> str:
    return f"POST {target} HTTP/1.1\nHost: x\nX-Bridge-Usage: {secret}\nContent-Length: {length}\n\n"


@pytest.mark.parametrize("way", ["proxied", "tunnel", "direct"])
def test_report_counts_for_the_call_that_sent_it(way: str) -> None:
    got: list[Report] = []
    reports, data = Reports(got.extend), body(record(**REQUEST))
    target = f"http://{reports.name}/v1/logs" if way == "proxied" else "/v1/logs"
    connect = f"CONNECT {reports.name}:80 HTTP/1.1\nHost: x\n\n" if way == "tunnel" else ""
    assert " 200 OK" in asked(reports, connect + post(target, reports.secret, len(data)), data)
    assert got == [READ]


@pytest.mark.parametrize(
    ("name", "secret", "status"),
    [(None, "x", "403"), (None, "", "403"), (OTHER_NAME, None, "403"), ("127.0.0.1:1", None, "403")],
)
def test_report_with_another_name_or_secret_counts_for_nobody(
    name: str | None, secret: str | None, status: str
) -> None:
    got: list[Report] = []
    reports, data = Reports(got.extend), body(record(**REQUEST))
    target = f"http://{name or reports.name}/v1/logs"
    said = asked(reports, post(target, reports.secret if secret is None else secret, len(data)), data)
    assert f" {status} " in said
    assert not got


def test_report_that_is_too_long_or_none_is_refused() -> None:
    reports = Reports(lambda _: None)
    target = f"http://{reports.name}/v1/logs"
    assert " 400 " in asked(reports, post(target, reports.secret, telemetry.MAX_REPORT + 1))
    assert " 400 " in asked(reports, post(target, reports.secret, 2), b"{}")
