"""The operator's gateways: which requests the CLI sends them, and how they are hidden from a call.

A gateway is a server that the CLI uses as its API; a variable of the operator holds its URL. The CLI is given a
random host name for it, valid for this call only, and a placeholder for each secret. The server's proxy
(sandbox/proxy.py) connects to the gateway itself. It passes only the requests in the tables below, requires the
placeholder, and replaces it with the secret. So the name alone is of no use to anyone.
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
    """The proxy refuses a request; the text is a sentence."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A kind of request that passes. `path` is a pattern for the path with its query, as it is sent on."""

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
    Row("POST", r"/v1/messages(?:\?beta=true)?"),  # conversations in every mode; also titles and web searches
    Row("POST", r"/v1/messages/count_tokens(?:\?beta=true)?"),  # /context and /compact
    Row("GET", rf"/v1/models{_QUERY}"),  # with CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY
    Row("GET", rf"/v1/models/{_WORD}(?:\?beta=true)?"),  # the SDK in the CLI requests one model like this
)
BEDROCK = (
    Row("POST", rf"/model/{_MODEL}/(?:invoke|invoke-with-response-stream|count-tokens)"),
    # The SDK of AWS lists the models at its start.
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
    """The meaning of a variable that holds a gateway's URL: which requests pass, and which variables hold the
    secrets."""

    rows: tuple[Row, ...]
    secrets: tuple[str, ...] = ()
    headers: tuple[str, ...] = ("ANTHROPIC_CUSTOM_HEADERS",)
    """Variables that add header fields to each request. The last one can also make the CLI send a placeholder."""
    skips: str = ""
    """The variable that turns off the signing of requests. Without it, and without a key, the CLI signs them as AWS
    requires."""


API = ("api.anthropic.com", 443)
PORTS = {"http": 80, "https": 443}
LOGIN = ""
"""Used in place of a variable's name for the CLI's login credential, which is passed by descriptor."""
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
"""The requests were observed by running both versions of the CLI. Those for Bedrock, Vertex and others were also
observed with the SDKs inside the CLI."""

CALL = b"X-Bridge-Call"
"""The header field that carries the placeholder if the operator has no secret for a gateway."""

REVEALING_HEADERS = frozenset(
    {b"alt-svc", b"content-location", b"link", b"location", b"refresh", b"set-cookie", b"via"}
)
"""Header fields of a gateway's answer that reveal addresses. The CLI needs none of them."""


@dataclasses.dataclass(frozen=True)
class Gateway:
    """A gateway, as the proxy of one call sees it."""

    host: str
    port: int
    tls: bool
    prefix: str = dataclasses.field(repr=False)
    rows: tuple[Row, ...]
    secrets: Mapping[bytes, bytes] = dataclasses.field(default_factory=dict, repr=False)
    """Placeholder -> secret."""
    headers: tuple[tuple[bytes, bytes], ...] = dataclasses.field(default=(), repr=False)
    """Header fields that the operator has set. They replace the CLI's."""
    basic: bytes = dataclasses.field(default=b"", repr=False)
    """The value of Authorization for the name and password in the URL. Used if a request has no secret in that
    field."""
    is_api: bool = False
    """Whether it is the API itself. The CLI knows it by its real name, and every request passes, as through a
    tunnel."""

    @property
    def title(self) -> str:
        """What messages to a container call it."""
        return "the API" if self.is_api else "the operator's gateway"

    def is_greeting(self, request: Request, path: str) -> bool:
        """Return whether the request only warms up a connection (CLI 2.1.197). It carries no data, and its answer
        is not used."""
        return request.method == "HEAD" and path == "/" and self.rows[0].path != "/"

    @property
    def is_collector(self) -> bool:
        """Whether it collects the CLI's telemetry. The CLI asks the proxy for a tunnel to such a one, also for http."""
        return self.rows in (COLLECTOR, ONE_SIGNAL)

    def is_work(self, request: Request, path: str) -> bool:
        """Return whether the model works for the request."""
        counts = re.search(r"/count[_-]tokens(?:\?|$)", path)
        if self.is_api and not path.startswith("/v1/messages"):
            return False
        return request.method == "POST" and not self.is_collector and not counts

    def judge(self, request: Request, path: str) -> tuple[str, list[tuple[bytes, bytes]]]:
        """Return the path and the header fields to send on. Raises RefusedError."""
        if not self.is_api and not any(
            row.method == request.method and re.fullmatch(row.path, path, re.ASCII) for row in self.rows
        ):
            raise RefusedError(f"{request.method} {path[:80]} is nothing that Claude asks its gateway for")
        fields, carriers = [], set()
        for name, value in request.passed():
            for placeholder, secret in self.secrets.items():
                if name.lower() in (b"x-api-key", b"authorization", CALL.lower()) and placeholder in value:
                    carriers.add(name.lower())
                    value = value.replace(placeholder, secret)
            fields.append((name, value))
        if not carriers and not self.is_api:
            raise RefusedError(f"{request.method} {path[:80]} did not come from Claude itself")
        own = dict(self.headers)
        if self.basic and b"authorization" not in carriers:
            own.setdefault(b"Authorization", self.basic)
        replaced = {CALL.lower(), *(name.lower() for name in own)}
        kept = [(name, value) for name, value in fields if name.lower() not in replaced]
        return (self.prefix.rstrip("/") + path if path != "/" else self.prefix or "/"), [*kept, *own.items()]


@dataclasses.dataclass(frozen=True)
class Disguise:
    """The operator's variables with names and placeholders for one call, and what the proxy needs to replace these."""

    environment: Mapping[str, str]
    gateways: Mapping[str, Gateway] = dataclasses.field(default_factory=dict)
    """By the host name that the CLI is given."""
    signed: frozenset[tuple[str, int]] = frozenset()
    """Addresses of gateways that the CLI must know by their real name, because it signs requests with it."""
    login: str = ""
    """The placeholder for the CLI's login credential; empty if the CLI needs the real one."""


def disguise(environment: Mapping[str, str], login: str) -> Disguise:
    """Make the names and placeholders for one call. `login` is the CLI's login credential, or an empty string."""
    given, gateways, signed = dict(environment), {}, set()
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
            given.pop(name, None)
        given[variable] = f"http://{alias}"
        pairs = {placeholder.encode(): "".join(secret.split()).encode() for placeholder, secret in known.items()}
        headers = _headers(environment, kind)
        gateways[alias] = Gateway(
            address.host, address.port, address.tls, address.prefix, kind.rows, pairs, headers, address.basic
        )
    login_placeholder = placeholders.pop(LOGIN, "")
    given |= {name: _value_with_placeholder(name, placeholder) for name, placeholder in placeholders.items()}
    return Disguise(given, gateways, frozenset(signed), login_placeholder)


def with_api(hidden: Disguise, login: str) -> Disguise:
    """Return the disguise for a call that asks the API itself: the CLI asks it without TLS, which the server's proxy
    adds. So the proxy sees the requests and the heads of the answers, and can put in a login that is good by then.
    `login` is the CLI's login credential, or an empty string.

    The CLI treats a URL with the API's name as the API, whatever its scheme.
    """
    secret = login.encode()
    gateway = Gateway(*API, True, "", MESSAGES, {secret: secret} if secret else {}, is_api=True)
    environment = {**hidden.environment, "ANTHROPIC_BASE_URL": f"http://{API[0]}"}
    return dataclasses.replace(hidden, environment=environment, gateways={**hidden.gateways, API[0]: gateway})


def _value_with_placeholder(variable: str, placeholder: str) -> str:
    """Return a value for the variable with which the CLI sends the placeholder."""
    if variable.endswith("_HEADERS"):
        return f"{CALL.decode()}{'=' if variable.startswith('OTEL') else ': '}{placeholder}"
    return placeholder


def _like(secret: str) -> str:
    """Return a placeholder that the CLI accepts as a secret of the same kind."""
    shape = re.match(r"sk-ant-[a-z]{3}\d\d-", secret)
    return (shape[0] if shape else "") + secrets.token_hex(32)


@dataclasses.dataclass(frozen=True)
class _Address:
    """The address of a gateway, parsed from its URL."""

    host: str
    port: int
    tls: bool
    prefix: str
    basic: bytes = dataclasses.field(repr=False)
    """The value of Authorization for the name and password in the URL; empty if there are none."""

    @classmethod
    def read(cls, url: str) -> _Address | None:
        """Parse an operator's URL. Returns None if it is not one."""
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
    """Return the value of Authorization for a URL's name and password; empty if there are none."""
    if not name:
        return b""
    return b"Basic " + base64.b64encode(f"{unquote(name)}:{unquote(password or '')}".encode())


def _headers(environment: Mapping[str, str], kind: Kind) -> tuple[tuple[bytes, bytes], ...]:
    """Return the header fields that the operator adds to each request to a gateway."""
    found: dict[str, str] = {}
    for variable in kind.headers:
        telemetry = variable.startswith("OTEL")
        for entry in environment.get(variable, "").split("," if telemetry else "\n"):
            name, _, value = entry.partition("=" if telemetry else ":")
            if re.fullmatch(r"[\w.-]{1,100}", name.strip(), re.ASCII) and value.strip().isprintable():
                found[name.strip().title()] = unquote(value.strip()) if telemetry else value.strip()
    return tuple((name.encode(), value.encode()) for name, value in found.items())
