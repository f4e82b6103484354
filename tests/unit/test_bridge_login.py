"""How long a login lasts, what is told of it, and when its renewal is tried. tests/bridge/test_login.py renews one."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bridge.policy.gateways import Disguise, with_api
from bridge.policy.http_head import Answer, Request
from bridge.server.host import credentials, login
from bridge.server.host.login import Login
from bridge.server.sandbox.proxy import Rules
from tests.support import schemas
from tests.support.waiting import until

FALSE = Path("/bin/false")
HOUR_S = 3600.0


def log_in(home: Path, left: float, **more: Any) -> None:
    """Write a login that has `left` seconds."""
    (home / ".claude").mkdir(exist_ok=True)
    entry = {"accessToken": "sk-ant-oat01-x", "refreshToken": "r", "expiresAt": (time.time() + left) * 1000, **more}
    (home / ".claude/.credentials.json").write_text(json.dumps({"claudeAiOauth": entry}))


def login_of(home: Path, notes: list[dict[str, Any]] | None = None, **environment: str) -> Login:
    """Return the login of a server with this home, whose CLI fails."""

    def note(event: str, **facts: Any) -> None:
        if notes is not None:
            notes.append({"event": event, **facts})

    def find() -> credentials.Credential | None:
        return credentials.find("auto", home / "none", {"HOME": str(home), **environment})

    return Login(find, lambda: FALSE, dict[str, str], note, lambda _: None)


def said_of(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """Check what the status says of a login by its schema."""
    server = schemas.schema("bridge-status")["properties"]["server"]
    part = next(each for each in server["oneOf" if "oneOf" in server else "anyOf"] if each.get("type") == "object")
    part = part["properties"]["login"]
    assert list(status) == part["required"]
    return status


@pytest.mark.parametrize(
    ("left", "more", "lasts"),
    [
        (HOUR_S, {}, "and is renewed before; `claude-bridge-server login`"),
        (HOUR_S, {"refreshToken": ""}, "and cannot be renewed; `claude-bridge-server login`"),
        (HOUR_S, {"expiresAt": None}, "its end is not known"),
    ],
)
def test_status_says_how_long_a_login_lasts(tmp_path: Path, left: float, more: dict[str, Any], lasts: str) -> None:
    log_in(tmp_path, left, **more)
    one = login_of(tmp_path)
    status = said_of(one.status())
    assert lasts in status["lasts"]
    assert (status["source"], status["problem"]) == (f"the login in {tmp_path}/.claude", "")
    assert lasts in one.public[0]
    assert str(tmp_path) not in "".join(one.public)


def test_status_of_a_host_without_login_or_with_a_key(tmp_path: Path) -> None:
    none = login_of(tmp_path)
    assert "run `claude-bridge-server login`" in said_of(none.status())["problem"]
    assert "not logged in" in none.public[1]
    key = login_of(tmp_path, ANTHROPIC_API_KEY="sk-ant-api03-x")
    assert said_of(key.status())["source"] == "ANTHROPIC_API_KEY in the server's environment"
    assert key.public == ("", "")


@pytest.mark.parametrize("more", [{"refreshToken": ""}, {"accessToken": "", "refreshToken": "", "expiresAt": 0}])
def test_login_that_nobody_can_renew_ends_calls(tmp_path: Path, more: dict[str, Any]) -> None:
    log_in(tmp_path, -1, **more)
    one = login_of(tmp_path)
    with pytest.raises(credentials.NoCredentialsError, match="run `claude` on the host and log in"):
        one.credential()
    assert not one.is_wanted
    assert "run `claude` on the host" in one.public[1]
    assert "run `claude` on the host" in said_of(one.status())["problem"]


def test_pauses_between_renewals_that_fail_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login, "FIRST_PAUSE_S", 0.02)
    notes: list[dict[str, Any]] = []
    log_in(tmp_path, HOUR_S)
    one = login_of(tmp_path, notes)
    assert not one.is_wanted
    log_in(tmp_path, login.RENEW_BEFORE_S - 1)
    assert not one.is_wanted, "it is due, and no call waits for it"

    async def fail() -> None:
        one.start()
        await until(lambda: len(notes) >= 4, 30, "four renewals that fail")
        one.close()

    started = time.monotonic()
    asyncio.run(fail())
    assert time.monotonic() - started >= 0.02 + 0.04 + 0.08
    assert {note["event"] for note in notes} == {"failed"}
    assert "did not renew it and ended with 1" in one.problem
    assert one.credential() is not None, "calls go on while the login is good"


def test_renewal_gets_no_variable_but_those_of_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log_in(tmp_path, HOUR_S)
    program, seen = tmp_path / "cli", tmp_path / "seen"
    program.write_text(f'#!/bin/sh\nenv > {seen}\necho "$@" >> {seen}\n')
    program.chmod(0o755)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-api03-x")
    monkeypatch.setenv("CLAUDECODE", "1")
    asyncio.run(login.run(program, tmp_path / ".claude", {"HTTPS_PROXY": "http://p", "ANTHROPIC_BASE_URL": "http://b"}))
    text = seen.read_text()
    assert "HTTPS_PROXY=http://p" in text
    assert "mcp get " in text
    assert not [name for name in ("ANTHROPIC", "CLAUDECODE") if name in text]


def test_request_to_the_api_gets_the_login_that_is_good(tmp_path: Path) -> None:
    hidden = with_api(Disguise({}), "old")
    gateway = hidden.gateways["api.anthropic.com"]
    request = Request("POST", "/v1/messages", ((b"Authorization", b"Bearer old"), (b"X-Other", b"old")))
    assert gateway.judge(request, "/v1/messages")[1] == [*request.fields]
    assert gateway.is_work(request, "/v1/messages?beta=true")
    assert not gateway.is_work(request, "/v1/messages/count_tokens?beta=true")
    assert not gateway.is_work(request, "/api/web/domain_info")

    async def present(_: str) -> str:
        return "new"

    found = credentials.Credential("old", "x", False, time.time(), tmp_path, True)
    for credential, environment, passes, is_asked in (
        (found, {}, True, True),
        (found, {"ANTHROPIC_BASE_URL": "http://gateway"}, False, False),
        (credentials.Credential("old", "x", False), {}, True, False),
        (None, {"ANTHROPIC_AUTH_TOKEN": "old"}, True, False),
        (None, {"CLAUDE_CODE_USE_BEDROCK": "1"}, False, False),
    ):
        rules = Rules.of(environment, True, (), credential, "g", present)
        assert ("api.anthropic.com" in rules.disguise.gateways) == passes
        assert (rules.present is not None) == is_asked


@pytest.mark.parametrize(
    ("head", "keeps"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: Close\r\n\r\n", False),
    ],
)
def test_connection_is_kept_only_where_the_end_of_the_answer_is_known(head: bytes, keeps: bool) -> None:
    assert Answer.parse(head).keeps is keeps
