"""Gateways of the operator's: what a CLI asks them for, and how a call knows them.

A gateway is a server that a variable of the operator's names and that the CLI speaks to as its API. The CLI is told
another name for it, which exists for one call, and a placeholder for each secret. The server's proxy (see
sandbox/proxy.py) speaks to the gateway itself: it passes what the tables below name and nothing else, demands
the placeholder, and puts the secret in its place. So whoever learns the name can do nothing with it.
"""

from __future__ import annotations

import base64
import dataclasses
import re
import secrets
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from bridge.policy.http_head import Request


class RefusedError(Exception):
    """The proxy does not do that; the text is a sentence."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A kind of request that passes: `path` is matched with its query, as it is sent on."""

    method: str
    path: str


_WORD = r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,200}"
_COLON, _SLASH = "(?::|%3[Aa])", "(?:/|%2[Ff])"
_MODEL = (
    rf"(?:[A-Za-z0-9][A-Za-z0-9._-]{{0,200}}|arn(?:{_COLON}[a-z0-9-]{{0,40}}){{5}}{_SLASH}[A-Za-z0-9][\w.-]{{0,100}})"
)
_MODEL += rf"(?:{_COLON}[0-9a-z]{{1,8}})?"
_QUERY = r"(?:\?(?:limit|after_id|before_id|beta)=[\w.-]{1,200}(?:&(?:limit|after_id|before_id|beta)=[\w.-]{1,200})*)?"

MESSAGES = (
    Row("POST", r"/v1/messages(?:\?beta=true)?"),  # what is said, in every mode; also titles and web searches
    Row("POST", r"/v1/messages/count_tokens(?:\?beta=true)?"),  # /context and /compact
    Row("GET", rf"/v1/models{_QUERY}"),  # with CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY
    Row("GET", rf"/v1/models/{_WORD}(?:\?beta=true)?"),  # the SDK in the CLI asks so for one model
)
BEDROCK = (
    Row("POST", rf"/model/{_MODEL}/(?:invoke|invoke-with-response-stream|count-tokens)"),
    # Which models there are: at the start, by the SDK of AWS.
    Row("GET", r"/inference-profiles(?:\?(?:type|maxResults|nextToken|typeEquals)=[\w.%-]{1,2048}(?:&(?:type|maxResults"
               r"|nextToken|typeEquals)=[\w.%-]{1,2048})*)?"),
    Row("GET", rf"/inference-profiles/{_MODEL}"),
)  # fmt: skip
VERTEX = (
    Row("POST", rf"(?:/v1)?/projects/{_WORD}/locations/{_WORD}/publishers/anthropic/models/"
                r"[A-Za-z0-9][A-Za-z0-9._@-]{0,200}:(?:rawPredict|streamRawPredict)"),
)  # fmt: skip
MANTLE = tuple(dataclasses.replace(row, path="(?:/anthropic)?" + row.path) for row in MESSAGES)
COLLECTOR = (Row("POST", "/v1/(?:traces|metrics|logs)"),)
ONE_SIGNAL = (Row("POST", "/"),)


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a variable means that names a gateway: the requests, and where the secrets for them stand."""

    rows: tuple[Row, ...]
    secrets: tuple[str, ...] = ()
    headers: tuple[str, ...] = ("ANTHROPIC_CUSTOM_HEADERS",)
    """Variables with further fields for each request; the last one can tell the CLI of one."""
    skips: str = ""
    """The variable that says that requests are not signed; without it, or a key, they are, as AWS wants it."""


API = ("api.anthropic.com", 443)
PORTS = {"http": 80, "https": 443}
LOGIN = ""
"""In place of a variable's name: what the CLI logs in with, which travels by descriptor."""
TOKEN = "ANTHROPIC_AUTH_TOKEN"  # noqa: S105 - the name of a variable
OTLP_HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"
KINDS = {
    "ANTHROPIC_BASE_URL": Kind(MESSAGES, (TOKEN,)),
    "ANTHROPIC_BEDROCK_BASE_URL": Kind(
        BEDROCK, (TOKEN, "AWS_BEARER_TOKEN_BEDROCK"), skips="CLAUDE_CODE_SKIP_BEDROCK_AUTH"
    ),
    "ANTHROPIC_BEDROCK_MANTLE_BASE_URL": Kind(
        MANTLE, (TOKEN, "AWS_BEARER_TOKEN_BEDROCK"), skips="CLAUDE_CODE_SKIP_MANTLE_AUTH"
    ),
    "ANTHROPIC_AWS_BASE_URL": Kind(
        MESSAGES, (TOKEN, "ANTHROPIC_AWS_API_KEY"), skips="CLAUDE_CODE_SKIP_ANTHROPIC_AWS_AUTH"
    ),
    "ANTHROPIC_VERTEX_BASE_URL": Kind(VERTEX, (TOKEN,)),
    "ANTHROPIC_GOOGLE_CLOUD_BASE_URL": Kind(MESSAGES + VERTEX, (TOKEN,)),
    "ANTHROPIC_FOUNDRY_BASE_URL": Kind(MESSAGES, (TOKEN, "ANTHROPIC_FOUNDRY_API_KEY", "ANTHROPIC_FOUNDRY_AUTH_TOKEN")),
    "OTEL_EXPORTER_OTLP_ENDPOINT": Kind(COLLECTOR, headers=(OTLP_HEADERS,)),
    **{
        f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT": Kind(
            ONE_SIGNAL, headers=(OTLP_HEADERS, f"OTEL_EXPORTER_OTLP_{signal}_HEADERS")
        )
        for signal in ("TRACES", "METRICS", "LOGS")
    },
}
"""What each CLI asks for was seen by running both; Bedrock, Vertex and the others also by the SDKs inside the CLI."""

CALL = b"X-Bridge-Call"
"""The field that carries the placeholder where the operator has no secret for a gateway."""

TELLING = frozenset({b"alt-svc", b"content-location", b"link", b"location", b"refresh", b"set-cookie", b"via"})
"""Fields of a gateway's answer that name places, and of which the CLI needs none."""


@dataclasses.dataclass(frozen=True)
class Gateway:
    """A gateway, as the proxy of one call knows it."""

    host: str
    port: int
    tls: bool
    prefix: str = dataclasses.field(repr=False)
    rows: tuple[Row, ...]
    secrets: Mapping[bytes, bytes] = dataclasses.field(default_factory=dict, repr=False)
    """What stands for each placeholder."""
    headers: tuple[tuple[bytes, bytes], ...] = dataclasses.field(default=(), repr=False)
    """What the operator has put in, in place of what the CLI says."""
    basic: bytes = dataclasses.field(default=b"", repr=False)
    """The field Authorization of the name and password in the URL, for requests that carry no secret there."""

    def is_greeting(self, request: Request, path: str) -> bool:
        """Whether a CLI warms up a connection with it (2.1.197); it carries nothing, and nobody needs the answer."""
        return request.method == "HEAD" and path == "/" and self.rows[0].path != "/"

    def judge(self, request: Request, path: str) -> tuple[str, list[tuple[bytes, bytes]]]:
        """The path and the fields to send on, or RefusedError."""
        if not any(row.method == request.method and re.fullmatch(row.path, path, re.ASCII) for row in self.rows):
            raise RefusedError(f"{request.method} {path[:80]} is nothing that Claude asks its gateway for")
        fields, carriers = [], set()
        for name, value in request.passed():
            for placeholder, secret in self.secrets.items():
                if name.lower() in (b"x-api-key", b"authorization", CALL.lower()) and placeholder in value:
                    carriers.add(name.lower())
                    value = value.replace(placeholder, secret)
            fields.append((name, value))
        if not carriers:
            raise RefusedError(f"{request.method} {path[:80]} did not come from Claude itself")
        own = dict(self.headers)
        if self.basic and b"authorization" not in carriers:
            own.setdefault(b"Authorization", self.basic)
        replaced = {CALL.lower(), *(name.lower() for name in own)}
        kept = [(name, value) for name, value in fields if name.lower() not in replaced]
        return (self.prefix.rstrip("/") + path if path != "/" else self.prefix or "/"), [*kept, *own.items()]


@dataclasses.dataclass(frozen=True)
class Disguise:
    """The operator's variables as one call is told them, and what the proxy needs to undo it."""

    told: Mapping[str, str]
    gateways: Mapping[str, Gateway] = dataclasses.field(default_factory=dict)
    """By the name that the CLI is told."""
    signed: frozenset[tuple[str, int]] = frozenset()
    """Addresses that the CLI has to know by name, since it signs its requests with it."""
    login: str = ""
    """The placeholder of what the CLI logs in with; empty when it needs the real one."""


def disguise(environment: Mapping[str, str], login: str) -> Disguise:
    """Names and placeholders for one call; `login` is the secret that the CLI is handed, or nothing."""
    told, gateways, signed = dict(environment), {}, set()
    placeholders: dict[str, str] = {}
    for variable, kind in KINDS.items():
        if (address := _Address.read(environment.get(variable, ""))) is None:
            continue
        if variable == "ANTHROPIC_BASE_URL" and (address.host, address.port) == API:
            continue
        mine = {name: environment[name] for name in kind.secrets if environment.get(name)}
        if kind.skips and not environment.get(kind.skips) and mine.keys() <= {TOKEN}:
            if address.tls:
                signed.add((address.host, address.port))
                continue
            mine = {}
        if variable == "ANTHROPIC_BASE_URL" and login:
            mine[LOGIN] = login
        known = {placeholders.setdefault(name, _like(secret)): secret for name, secret in mine.items()}
        known = known or {placeholders.setdefault(kind.headers[-1], secrets.token_hex(16)): ""}
        alias = f"{secrets.token_hex(16)}.invalid"
        for name in kind.headers:
            told.pop(name, None)
        told[variable] = f"http://{alias}"
        pairs = {placeholder.encode(): "".join(secret.split()).encode() for placeholder, secret in known.items()}
        headers = _headers(environment, kind)
        gateways[alias] = Gateway(
            address.host, address.port, address.tls, address.prefix, kind.rows, pairs, headers, address.basic
        )
    login_told = placeholders.pop(LOGIN, "")
    told |= {name: _telling(name, placeholder) for name, placeholder in placeholders.items()}
    return Disguise(told, gateways, frozenset(signed), login_told)


def _telling(variable: str, placeholder: str) -> str:
    """The value of a variable that has the CLI send a placeholder."""
    if variable.endswith("_HEADERS"):
        return f"{CALL.decode()}{'=' if variable.startswith('OTEL') else ': '}{placeholder}"
    return placeholder


def _like(secret: str) -> str:
    """A placeholder that the CLI takes for a secret of the same kind."""
    shape = re.match(r"sk-ant-[a-z]{3}\d\d-", secret)
    return (shape[0] if shape else "") + secrets.token_hex(32)


@dataclasses.dataclass(frozen=True)
class _Address:
    """Where a gateway is, by its URL."""

    host: str
    port: int
    tls: bool
    prefix: str
    basic: bytes = dataclasses.field(repr=False)
    """What the name and password in the URL are as a field; empty when there are none."""

    @classmethod
    def read(cls, url: str) -> _Address | None:
        """The address in a URL of the operator's; None when it is none."""
        try:
            parts = urlsplit(url.strip())
            port = parts.port or PORTS.get(parts.scheme)
        except ValueError:
            return None
        if not parts.hostname or port is None:
            return None
        prefix = "" if parts.path == "/" else parts.path
        return cls(parts.hostname, port, parts.scheme == "https", prefix, basic(parts.username, parts.password))


def basic(name: str | None, password: str | None) -> bytes:
    """Name and password of a URL, as the field Authorization has them; nothing when there are none."""
    if not name:
        return b""
    return b"Basic " + base64.b64encode(f"{unquote(name)}:{unquote(password or '')}".encode())


def _headers(environment: Mapping[str, str], kind: Kind) -> tuple[tuple[bytes, bytes], ...]:
    """The fields that the operator has put into each request to a gateway."""
    found: dict[str, str] = {}
    for variable in kind.headers:
        telemetry = variable.startswith("OTEL")
        for entry in environment.get(variable, "").split("," if telemetry else "\n"):
            name, _, value = entry.partition("=" if telemetry else ":")
            if re.fullmatch(r"[\w.-]{1,100}", name.strip(), re.ASCII) and value.strip().isprintable():
                found[name.strip().title()] = unquote(value.strip()) if telemetry else value.strip()
    return tuple((name.encode(), value.encode()) for name, value in found.items())
