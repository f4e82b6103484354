"""What the API and the CLI say of a usage limit, and what a session's request is answered meanwhile."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.policy import usage_limits
from bridge.policy.usage_limits import BRIEF_MOST_S, BRIEF_S, LEAST_S, MOST_S, UNKNOWN_S, Told
from bridge.server.activity import Activity
from bridge.server.dialogue import ProgramDialogue

NOW = 1_800_000_000.0
HOUR_S = 3600.0


def fields(**more: str) -> list[tuple[bytes, bytes]]:
    """Return header fields: `retry_after`, and the others behind the common beginning."""
    prefix = {"retry_after": ""}
    return [
        ((prefix.get(name, "Anthropic-Ratelimit-Unified-") + name.replace("_", "-")).encode(), value.encode())
        for name, value in more.items()
    ]


def limit(reset: float, window: str = "five_hour") -> dict[str, str]:
    return {"status": "rejected", "reset": f"{reset:.0f}", "representative_claim": window}


@pytest.mark.parametrize(
    ("status", "said", "cause", "lasts"),
    [
        (429, limit(NOW + HOUR_S), "limit", HOUR_S),
        (429, limit(NOW + HOUR_S, "a_new_window"), "limit", HOUR_S),
        (429, {**limit(NOW + HOUR_S), "retry_after": "7200"}, "limit", 2 * HOUR_S),
        (429, limit(NOW - 10), "limit", LEAST_S),
        (429, {**limit(NOW - 10), "retry_after": "3"}, "limit", 3.0),
        (429, limit(NOW + 365 * 24 * HOUR_S), "limit", MOST_S),
        (429, {"status": "rejected"}, "limit", UNKNOWN_S),
        (429, {"status": "rejected", "reset": "Sat, 28 Nov 2026"}, "limit", UNKNOWN_S),
        (429, {"status": "rejected", "reset": "9" * 40}, "limit", UNKNOWN_S),
        (429, {"status": "allowed", "retry_after": "2"}, "burst", 2.0),
        (429, {"retry_after": "86400"}, "burst", BRIEF_MOST_S),
        (429, {}, "burst", BRIEF_S),
        (529, {}, "overload", BRIEF_S),
        (529, limit(NOW + HOUR_S), "overload", BRIEF_S),
    ],
)
def test_answer_tells_of_a_limit(status: int, said: dict[str, str], cause: str, lasts: float) -> None:
    told = usage_limits.of_answer(status, fields(**said), NOW)
    assert told is not None
    assert (told.cause, told.until - NOW, told.concerns_all) == (cause, lasts, cause != "burst")


@pytest.mark.parametrize("status", [200, 400, 401, 403, 500, 503])
def test_other_answers_tell_of_none(status: int) -> None:
    assert usage_limits.of_answer(status, fields(**limit(NOW + HOUR_S)), NOW) is None


@pytest.mark.parametrize("window", ["seven_day_opus", "seven_day_sonnet", "five_hour_of_something"])
def test_limit_of_one_model_is_not_that_of_the_account(window: str) -> None:
    assert usage_limits.of_answer(429, fields(**limit(NOW + HOUR_S, window)), NOW) is None
    assert usage_limits.of_message(event(rateLimitType=window), NOW) is None


def event(**more: Any) -> bytes:
    info = {"status": "rejected", "resetsAt": NOW + HOUR_S, "rateLimitType": "seven_day", **more}
    return json.dumps({"type": "rate_limit_event", "rate_limit_info": info}, separators=(",", ":")).encode()


def test_message_of_the_cli_tells_of_a_limit() -> None:
    told = Told("limit", NOW + HOUR_S, "the account's weekly limit is reached", concerns_all=True, window="seven_day")
    assert usage_limits.of_message(event(), NOW) == told
    assert usage_limits.of_message(event(resetsAt=10**30), NOW) == Told("limit", NOW + MOST_S, *told_rest(told))
    odd: Any
    for odd in (None, True, "soon", float("nan"), float("inf"), [], {}):
        assert usage_limits.of_message(event(resetsAt=odd), NOW) == Told("limit", NOW + UNKNOWN_S, *told_rest(told))


def told_rest(told: Told) -> tuple[str, bool, str]:
    return told.why, told.concerns_all, told.window


@pytest.mark.parametrize(
    "line",
    [
        event(status="allowed"),
        event(status="allowed_warning"),
        b" " + event(),
        event()[:-1],
        event(x="y" * 5000),
        b'{"type":"rate_limit_event"}',
        b'{"type":"rate_limit_event","rate_limit_info":[]}',
        b'{"type":"rate_limit_event","rate_limit_info":' + b"[" * 2000,
        b'{"type":"user","text":' + event() + b"}",
    ],
)
def test_other_lines_tell_of_none(line: bytes) -> None:
    assert usage_limits.of_message(line, NOW) is None


@given(st.binary(max_size=60), st.dictionaries(st.sampled_from(["status", "reset", "retry_after"]), st.text("0a-. ")))
def test_nothing_that_is_said_is_an_error_or_lasts_for_ever(tail: bytes, said: dict[str, str]) -> None:
    told = usage_limits.of_answer(429, fields(**said), NOW)
    assert told is not None
    assert NOW < told.until <= NOW + MOST_S
    usage_limits.of_message(b'{"type":"rate_limit_event"' + tail, NOW)


def test_refusal_says_to_the_cli_what_the_api_said() -> None:
    told = usage_limits.of_answer(429, fields(**limit(NOW + HOUR_S)), NOW)
    assert told is not None
    head, body = usage_limits.refusal(told, "it is reached", NOW)
    assert usage_limits.of_answer(429, head, NOW) == told
    assert json.loads(body)["error"] == {"type": "rate_limit_error", "message": "it is reached"}


@pytest.mark.parametrize("cut", range(0, len(event()) + 1, 7))
def test_program_s_output_is_heard_wherever_it_is_cut(cut: int) -> None:
    told: list[Told] = []
    dialogue = ProgramDialogue(Activity(), lambda: None, told.append)
    data = b'{"type":"system"}\n' + event() + b"\n"
    for part in (data[:cut], data[cut:]):
        dialogue.hear(part)
    assert [each.window for each in told] == ["seven_day"]
