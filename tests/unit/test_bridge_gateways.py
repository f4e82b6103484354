"""Pure rules of the network: which requests belong to the API, and which heads have only one meaning."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.policy.gateways import CALL, KINDS, RefusedError, disguise
from bridge.policy.http_head import Answer, HeadError, Request, chunk_size, split_authority, split_url, written

BEDROCK = "ANTHROPIC_BEDROCK_BASE_URL"
VERTEX = "ANTHROPIC_VERTEX_BASE_URL"
MANTLE = "ANTHROPIC_BEDROCK_MANTLE_BASE_URL"
OTLP = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
ARN = "arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Aapplication-inference-profile%2Fabc123"
MODELS = "/projects/p-1/locations/us-east5/publishers/anthropic/models"


def passes(variable: str, method: str, path: str) -> bool:
    rows = KINDS[variable].rows
    return any(row.method == method and re.fullmatch(row.path, path, re.ASCII) for row in rows)


SEEN = [
    (BEDROCK, "POST", "/model/us.anthropic.claude-sonnet-4-5-20250929-v1:0/invoke"),
    (BEDROCK, "POST", "/model/us.anthropic.claude-opus-5-5/invoke-with-response-stream"),
    (BEDROCK, "POST", "/model/us.anthropic.claude-haiku-4-5-20251001-v1%3A0/count-tokens"),
    (BEDROCK, "POST", f"/model/{ARN}/invoke"),
    (BEDROCK, "GET", "/inference-profiles?type=SYSTEM_DEFINED"),
    (BEDROCK, "GET", "/inference-profiles?type=SYSTEM_DEFINED&nextToken=a%2Fb"),
    (BEDROCK, "GET", f"/inference-profiles/{ARN}"),
    (VERTEX, "POST", f"{MODELS}/claude-sonnet-4-5@20250929:streamRawPredict"),
    (VERTEX, "POST", f"/v1{MODELS}/claude-opus-5-5:rawPredict"),
    (VERTEX, "POST", f"{MODELS}/count-tokens:rawPredict"),
    (MANTLE, "POST", "/anthropic/v1/messages?beta=true"),
    (MANTLE, "POST", "/v1/messages"),
    (OTLP, "POST", "/v1/logs"),
    (TRACES, "POST", "/"),
]

OTHERS = [
    (BEDROCK, "POST", "/model/../admin/invoke"),
    (BEDROCK, "POST", "/model/%2e%2e/invoke"),
    (BEDROCK, "POST", "/model/a/../../x/invoke"),
    (BEDROCK, "POST", "/model/a%2F..%2F..%2Fx/invoke"),
    (BEDROCK, "POST", f"/model/{ARN}%2F..%2Fx/invoke"),
    (BEDROCK, "POST", "/model/a/invoke?x=1"),
    (BEDROCK, "GET", "/model/a/invoke"),
    (BEDROCK, "POST", "/guardrails"),
    (BEDROCK, "GET", "/inference-profiles?type=x&other=1"),
    (BEDROCK, "DELETE", f"/inference-profiles/{ARN}"),
    (VERTEX, "POST", f"{MODELS}/a/../b:rawPredict"),
    (VERTEX, "POST", f"{MODELS}/a:predict"),
    (VERTEX, "POST", "/projects/../locations/x/publishers/anthropic/models/a:rawPredict"),
    (VERTEX, "POST", MODELS.replace("anthropic", "google") + "/a:rawPredict"),
    (OTLP, "GET", "/v1/logs"),
    (OTLP, "POST", "/v1/logs/../x"),
    (TRACES, "POST", "/x"),
]


@pytest.mark.parametrize(("variable", "method", "path"), SEEN)
def test_request_that_a_cli_makes_passes(variable: str, method: str, path: str) -> None:
    assert passes(variable, method, path)


@pytest.mark.parametrize(("variable", "method", "path"), OTHERS)
def test_other_request_does_not_pass(variable: str, method: str, path: str) -> None:
    assert not passes(variable, method, path)


@pytest.mark.parametrize("variable", KINDS)
@given(path=st.text(st.sampled_from("/.%2e5cF;\\?=&:@av1messagsodlinvoke"), max_size=40))
@example(path="/v1/messages/..")
def test_what_passes_names_no_place_above_another(variable: str, path: str) -> None:
    if passes(variable, "POST", path) or passes(variable, "GET", path):
        plain = path.partition("?")[0].replace("%2F", "/").replace("%2f", "/")
        assert not {"", ".", ".."} & set(plain[1:].split("/")) or path == "/"
        assert "\\" not in plain
        assert ";" not in plain


@pytest.mark.parametrize("variable", KINDS)
def test_gateway_has_its_own_name_and_demands_a_placeholder(variable: str) -> None:
    skips = KINDS[variable].skips
    hidden = disguise({variable: "https://gateway.example/x", **({skips: "1"} if skips else {})}, "the-login")
    ((alias, gateway),) = hidden.gateways.items()
    assert hidden.environment[variable] == f"http://{alias}"
    method, path = gateway.rows[0].method, {BEDROCK: "/model/a/invoke", TRACES: "/"}.get(variable, "/v1/messages")
    if variable == VERTEX:
        path = f"{MODELS}/a:rawPredict"
    if variable.startswith("OTEL"):
        path = "/v1/traces" if variable == OTLP else "/"
    with pytest.raises(RefusedError, match="did not come from Claude itself"):
        gateway.judge(Request(method, "x", ((b"X-Api-Key", b"the-login"),)), path)
    (placeholder,) = gateway.secrets
    sent, fields = gateway.judge(Request(method, "x", ((CALL, placeholder), (b"A", b"b"))), path)
    assert sent == ("/x" if path == "/" else f"/x{path}")
    assert fields == [(b"A", b"b")]


def test_collector_s_own_fields_are_put_in() -> None:
    hidden = disguise(
        {TRACES: "http://t.example/traces", "OTEL_EXPORTER_OTLP_HEADERS": "a=1,b=two%20words",
         "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "a=3"}, ""
    )  # fmt: skip
    (gateway,) = hidden.gateways.values()
    assert gateway.headers == ((b"A", b"3"), (b"B", b"two words"))
    assert "OTEL_EXPORTER_OTLP_HEADERS" not in hidden.environment
    assert hidden.environment["OTEL_EXPORTER_OTLP_TRACES_HEADERS"].startswith("X-Bridge-Call=")


@pytest.mark.parametrize(
    "url", ["", "gateway.example", "ftp://x", "http://", "http://x:99999", "http://[::1", "https:///x"]
)
def test_variable_without_an_address_is_told_as_it_is(url: str) -> None:
    hidden = disguise({"ANTHROPIC_BASE_URL": url}, "the-login")
    assert (hidden.environment, hidden.gateways, hidden.login) == ({"ANTHROPIC_BASE_URL": url}, {}, "")


@pytest.mark.parametrize("value", ["bad\r\nX: y", "x\0", ""])
def test_field_of_the_operator_s_that_is_none_is_left_out(value: str) -> None:
    variables = {"ANTHROPIC_BASE_URL": "http://x", "ANTHROPIC_CUSTOM_HEADERS": f"A b: c\nGood: {value}\nLast: 1"}
    (gateway,) = disguise(variables, "").gateways.values()
    assert all(b"\r" not in field[1] and b"\0" not in field[1] for field in gateway.headers)
    assert (b"Last", b"1") in gateway.headers


# Heads


@given(st.binary(max_size=200))
@example(b"GET http://x/ HTTP/1.1\r\nA: b\r\n\r\n")
def test_request_is_written_as_it_was_read_or_refused(head: bytes) -> None:
    try:
        request = Request.parse(head + b"\r\n\r\n")
    except HeadError:
        return
    line = f"{request.method} {request.target} HTTP/1.1".encode()
    again = Request.parse(written(line, list(request.fields)))
    assert again == request


@given(st.binary(max_size=200))
def test_bytes_are_an_answer_or_none(head: bytes) -> None:
    try:
        answer = Answer.parse(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")
    except HeadError:
        return
    assert Answer.parse(written(answer.line, list(answer.fields))) == answer


@given(st.text(max_size=60))
@example("http://[::1]:80/x?y")
def test_url_is_split_or_refused(text: str) -> None:
    try:
        host, port, path = split_url(text)
    except HeadError:
        return
    assert 0 < port < 65536
    assert path.startswith("/")
    assert host
    assert not set(host) & set("/?#@\\")


@pytest.mark.parametrize("text", ["x", "x:", "x:0", "x:65536", ":1", "[::1:1", "u@x:1", "x/y:1", "x:1:2", "x:\u0661"])
def test_authority_that_is_none(text: str) -> None:
    with pytest.raises(HeadError):
        split_authority(text)


@pytest.mark.parametrize("line", [b"", b"\r\n", b"-1\r\n", b"0x1\r\n", b"1 \r\n", b"1;a\r\n", b"123456789\r\n", b"1\n"])
def test_size_of_a_chunk_that_is_none(line: bytes) -> None:
    with pytest.raises(HeadError):
        chunk_size(line)
