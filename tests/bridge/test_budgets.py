"""What a grant's budget does to calls, with the newest CLI; and the operator's own collector beside the reports."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bridge.server.host import usage
from tests.support import schemas
from tests.support.bridge_cli import NEWEST, VERSIONS
from tests.support.bridge_host import Place
from tests.support.fake_messages_api import directed
from tests.support.real_host import RealHost, real_server
from tests.support.stream_json import STREAM, read, user
from tests.support.waiting import wait_until

LITTLE = {"tokens": 1, "per": "week"}
"""The fake API says two tokens for each answer."""
BUDGETS = {
    "stopped-*": {**LITTLE, "over": "stop"},
    "held-*": {**LITTLE, "over": "hold"},
    "warned-*": {**LITTLE, "over": "warn"},
}
LIMITS = {"held": 1_000_000}
"""A call waits, however far away the end of the week is."""
WITHIN_S = 40.0


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealHost]:
    with real_server(tmp_path_factory.mktemp("budgets"), NEWEST, limits=LIMITS, budgets=BUDGETS) as host:
        host.api.part = directed
        yield host


def use_up(real: RealHost, name: str) -> Place:
    """Return a grant that has used its budget up."""
    place = real.host.grant(name)
    assert place.run("-p", "first").returncode == 0
    wait_until(lambda: is_over(real, place), WITHIN_S, "a budget that is used up")
    real.api.requests.clear()
    return place


def is_over(real: RealHost, place: Place) -> bool:
    (budget,) = real.host.status()["grants"][place.name]["budgets"]
    return bool(budget["is_over"])


def says(name: str, text: str) -> bool:
    """Return whether a text names the budget and its end."""
    budget = f"the budget of grant {name}, 1 tokens ("
    end = "used) per week, is used up; it begins again at 20"
    return budget in text and end in text and "00:00 UTC" in text


def test_new_call_is_refused(real: RealHost) -> None:
    place = use_up(real, "stopped-1")
    done = place.run("-p", "second")
    assert done.returncode == 125
    assert says(place.name, done.stderr.decode())
    assert "claude-bridge-server usage" in done.stderr.decode()
    assert not real.api.prompts


def test_new_call_waits_until_there_is_budget(real: RealHost) -> None:
    place = use_up(real, "held-1")
    with place.start("-p", "second") as running:
        wait_until(lambda: real.host.status()["grants"][place.name]["queued"] == 1, WITHIN_S, "a call that waits")
        (call,) = real.host.calls(place)
        assert call["state"] == "waiting_for_quota"
        assert "the budget of grant held-1" in call["waits_for"]
        assert not real.api.prompts
        configure(real, {**BUDGETS, "held-1": {"usd": 100}})
        code, out, _ = running.end()
    assert (code, out.strip()) == (0, b"heard: second")
    configure(real, BUDGETS)


def configure(real: RealHost, budgets: dict[str, Any]) -> None:
    """Let the server read other budgets."""
    real.host.configure(
        claude=real.cli, environment={"ANTHROPIC_BASE_URL": real.api.url}, limits=LIMITS, budgets=budgets
    )
    real.host._ask("grant", "reload", "--workspace", str(real.host.grant("reload").workspace))


def test_budget_that_only_warns(real: RealHost) -> None:
    place = use_up(real, "warned-1")
    assert place.run("-p", "second").returncode == 0
    assert says(place.name, real.host.log.read_text())
    assert [entry["over"] for entry in real.host.audit() if entry["event"] == "budget"].count("warn") == 1


@pytest.mark.parametrize("name", ["stopped-2", "held-2"])
def test_next_prompt_of_a_session_is_refused_with_the_sentence(real: RealHost, name: str) -> None:
    """The first prompt uses the budget up; what runs ends as it should."""
    place = real.host.grant(name)
    real.api.requests.clear()
    with place.start(*STREAM) as running:
        results = read(running.line, lambda message: message["type"] == "result")
        for text in ("one", "two"):
            running.stdin.write(user(text))
            running.stdin.flush()
            result = next(results)
            if text == "one":
                assert result["result"] == "heard: one"
                wait_until(lambda: is_over(real, place), WITHIN_S, "a budget that is used up")
        assert result["is_error"]
        assert says(name, result["result"])
        running.end()
    assert len(real.api.prompts) == 1


def test_call_of_a_command_is_refused(real: RealHost) -> None:
    """It would share the place of the call above it, which would wait for it."""
    place = real.host.grant("held-3")
    command = "until /app/claude -p inner 2>&1 </dev/null | grep budget; do :; done"
    done = place.run("-p", f"\nUSE Bash {json.dumps({'command': command})}", "--allowedTools", "Bash")
    assert says(place.name, done.stdout.decode())


def test_reports_for_people_and_machines(real: RealHost) -> None:
    use_up(real, "stopped-9")
    found = json.loads(real.host._ask("usage", "--json", "stopped-9"))
    schemas.check("bridge-usage", found)
    assert [(row["grant"], row["requests"]) for row in found["used"]] == [("stopped-9", 1)]
    assert found["budgets"]["stopped-9"][0]["is_over"]
    text = real.host._ask("usage", "stopped-9")
    assert "budget of stopped-9 per week: 2 of 1 tokens; used up, so new calls are refused; begins again at" in text
    lines = real.host._ask("usage", "--prometheus").splitlines()
    assert any(line.startswith('claude_bridge_tokens_total{grant="stopped-9"') for line in lines)
    for words in (["nobody"], ["--since", "soon"]):
        done = real.host.tell("usage", *words)
        assert (done.returncode, len(done.stderr.splitlines())) == (64, 1), done.stderr


# The operator's own collector


class Collector(ThreadingHTTPServer):
    """Keeps the requests that it gets."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[tuple[str, str, bytes]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length")
        body = self.rfile.read(int(length)) if length else b""
        self.server.got.append((self.path, self.headers.get("Authorization", ""), body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.mark.parametrize("version", VERSIONS)
def test_operators_own_collector_gets_the_same_reports(version: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    collector = Collector()
    threading.Thread(target=collector.serve_forever, args=(0.05,), daemon=True).start()
    environment = {
        "CLAUDE_CODE_ENABLE_TELEMETRY": "1", "OTEL_LOGS_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}/base",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20otel-7",
    }  # fmt: skip
    with real_server(tmp_path_factory.mktemp("collector"), version, environment=environment) as real:
        place = real.place()
        assert place.run("-p", "hello").returncode == 0
        wanted = {"/base/v1/logs", "/base/v1/metrics"}
        wait_until(lambda: {path for path, _, _ in collector.got} >= wanted, WITHIN_S, "both signals")
        (row,) = usage.rows(real.host.state / "usage.sqlite3")
    collector.shutdown()
    collector.server_close()
    assert row.requests == 1
    assert {key for _, key, _ in collector.got} == {"Bearer otel-7"}
    assert sum(body.count(b'"api_request"') for path, _, body in collector.got if path.endswith("logs")) == 1


def test_reports_count_without_a_namespace(tmp_path_factory: pytest.TempPathFactory) -> None:
    proxies = {"HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": "localhost,127.0.0.1"}
    directory: Path = tmp_path_factory.mktemp("none")
    for each in (directory, *directory.parents[:-2]):
        each.chmod(each.stat().st_mode | 0o011)
    with real_server(directory, NEWEST, confinement="none", environment=proxies) as real:
        assert real.place().run("-p", "hello").returncode == 0
        wait_until(lambda: bool(usage.rows(real.host.state / "usage.sqlite3")), WITHIN_S, "the use")
        (row,) = usage.rows(real.host.state / "usage.sqlite3")
    assert row.requests == 1
