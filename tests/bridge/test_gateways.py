"""The operator's gateways behind the real proxy: which requests reach them, which secret is added, what is refused."""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bridge.server.host.credentials import Credential
from bridge.server.sandbox import addresses, proxy
from bridge.server.sandbox.proxy import Rules
from bridge.server.sandbox.upstream import Upstream
from tests.support import certificate
from tests.support.proxies import Serve, fetch, serve, tunnel
from tests.support.waiting import wait_until

__all__ = ["serve"]

KEY = "sk-ant-api03-the-operator-s"
LOGIN = Credential(KEY, "a test", is_key=True)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
POST = "POST {url}/v1/messages?beta=true HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\nContent-Length: 2\r\n\r\n{{}}"


class Gate:
    """A gateway: keeps every byte that it receives, and answers each connection with the same bytes."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.answer: bytes | Callable[[socket.socket], None] = OK
        self.heard: list[bytearray] = []
        self.open = 0
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def text(self) -> str:
        """Return what came over the only connection."""
        (heard,) = self.heard
        return heard.decode("latin-1")

    def close(self) -> None:
        with contextlib.suppress(OSError):  # ignored because it may have been closed before
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept()
        self._listener.close()

    @staticmethod
    def _finish(sock: socket.socket) -> None:
        """Send the end of the answer, and go on reading, to see whether anything follows the request."""
        if isinstance(sock, ssl.SSLSocket):
            sock.unwrap()
        else:
            sock.shutdown(socket.SHUT_WR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        self.open += 1
        with contextlib.suppress(OSError), sock:
            sock.settimeout(10)
            if self._tls:
                with self._tls.wrap_socket(sock, server_side=True) as inner:
                    self._talk(inner)
            else:
                self._talk(sock)
        self.open -= 1

    def _talk(self, sock: socket.socket) -> None:
        heard, answered = bytearray(), False
        self.heard.append(heard)
        while data := sock.recv(65536):
            heard += data
            is_whole = b"\r\n\r\n" in heard and (b"Length: 2\r\n" not in heard or b"\r\n\r\n{}" in heard)
            if is_whole and not answered:
                answered = True
                if isinstance(self.answer, bytes):
                    sock.sendall(self.answer)
                    self._finish(sock)
                else:
                    self.answer(sock)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a certificate for 127.0.0.1."""
    return certificate.make(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def safe_gate(authority: Path) -> Iterator[Gate]:
    made = Gate(certificate.context(authority))
    yield made
    made.close()


class Asked:
    """A proxy with a gateway, and the variables that the CLI is given."""

    def __init__(self, serve: Serve, environment: dict[str, str], login: Credential | None = LOGIN) -> None:
        self.rules = Rules.of(environment, True, credential=login)
        self.told = self.rules.disguise.environment
        self.url = self.told["ANTHROPIC_BASE_URL"]
        handed = self.rules.credential(login)
        self.key = handed.secret if handed else ""
        self.proxy = serve(self.rules)

    def say(self, text: bytes | str) -> bytes:
        """Send bytes and return everything that comes back."""
        with socket.create_connection(("127.0.0.1", self.proxy), 10) as sock:
            sock.sendall(text if isinstance(text, bytes) else text.encode())
            received = b""
            with contextlib.suppress(ConnectionResetError):
                while data := sock.recv(65536):
                    received += data
            return received

    def post(self, path: str = "/v1/messages", method: str = "POST", **fields: str) -> bytes:
        """Send a request with the placeholder and return the answer."""
        fields = {"X-Api-Key": self.key, **fields}
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items() if value)
        return self.say(f"{method} {self.url}{path} HTTP/1.1\r\nHost: x\r\n{lines}Content-Length: 2\r\n\r\n{{}}")


Ask = Callable[..., Asked]


@pytest.fixture
def ask(serve: Serve, gate: Gate) -> Ask:
    """Makes a proxy whose gateway is `gate`, with further variables."""

    def make(prefix: str = "", login: Credential | None = LOGIN, **environment: str) -> Asked:
        return Asked(serve, {"ANTHROPIC_BASE_URL": gate.url + prefix, **environment}, login)

    return make


# The variables that the CLI is given


def test_cli_is_told_neither_the_gateway_nor_a_secret(serve: Serve) -> None:
    environment = {
        "ANTHROPIC_BASE_URL": "https://someone:password-1@gateway.example/secret-path",
        "ANTHROPIC_AUTH_TOKEN": "token-2",
        "ANTHROPIC_CUSTOM_HEADERS": "X-Gateway-Key: header-3\nX-Team: header-4",
        "CLAUDE_CODE_USE_BEDROCK": "1",
        "CLAUDE_CODE_SKIP_BEDROCK_AUTH": "1",
        "ANTHROPIC_BEDROCK_BASE_URL": "http://bedrock.example",
        "AWS_BEARER_TOKEN_BEDROCK": "bearer-5",
        "ANTHROPIC_FOUNDRY_BASE_URL": "https://foundry.example",
        "ANTHROPIC_FOUNDRY_API_KEY": "foundry-6",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://telemetry.example",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20otel-7",
    }
    asked = Asked(serve, environment)
    told = repr(asked.told) + asked.key + repr(asked.rules)
    secrets = ("password-1", "secret-path", "someone", "token-2", "header-3", "bearer-5", "foundry-6", "otel-7", KEY)
    assert not [secret for secret in secrets if secret in told]
    for name in ("gateway.example", "bedrock.example", "foundry.example", "telemetry.example"):
        assert name not in repr(asked.told)
    assert asked.key.startswith("sk-ant-api03-")
    assert {name for name in environment if name not in asked.told} == {"ANTHROPIC_CUSTOM_HEADERS"}


def test_names_and_placeholders_are_those_of_one_call(serve: Serve, gate: Gate) -> None:
    one, other = (Asked(serve, {"ANTHROPIC_BASE_URL": gate.url}) for _ in range(2))
    assert one.url != other.url
    assert one.key != other.key
    assert b" 502 " in other.say(POST.format(url=one.url, key=one.key))
    assert b" 403 " in other.say(POST.format(url=other.url, key=one.key))
    assert not gate.heard


def test_api_itself_keeps_its_name_and_its_secret() -> None:
    """The proxy adds the TLS. A tunnel to the API stays for what the CLI asks its organisation for."""
    for environment in ({}, {"ANTHROPIC_BASE_URL": "https://api.anthropic.com/"}):
        rules = Rules.of(environment, True, credential=LOGIN)
        assert ("api.anthropic.com", 443) in rules.named
        assert rules.disguise.environment == {"ANTHROPIC_BASE_URL": "http://api.anthropic.com"}
        assert [(name, gateway.tls) for name, gateway in rules.disguise.gateways.items()] == [
            ("api.anthropic.com", True)
        ]
        assert rules.credential(LOGIN) == LOGIN


def test_key_that_goes_to_no_gateway_stays() -> None:
    rules = Rules.of({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, True, credential=LOGIN)
    assert rules.credential(LOGIN) == LOGIN


def test_endpoint_that_the_cli_signs_for_is_known_by_its_name() -> None:
    """The signature of AWS covers the name of the server."""
    environment = {"ANTHROPIC_BEDROCK_BASE_URL": "https://vpce.example", "AWS_SECRET_ACCESS_KEY": "x"}
    rules = Rules.of(environment, True)
    assert rules.disguise.environment == environment
    assert ("vpce.example", 443) in rules.named


# What the proxy adds


def test_key_is_put_in_by_the_proxy(ask: Ask, gate: Gate) -> None:
    asked = ask()
    assert asked.post("/v1/messages?beta=true").endswith(b"ok")
    assert gate.text.startswith("POST /v1/messages?beta=true HTTP/1.1\r\n")
    assert f"\r\nX-Api-Key: {KEY}\r\n" in gate.text
    assert f"\r\nHost: 127.0.0.1:{gate.port}\r\n" in gate.text
    assert gate.text.endswith("\r\n\r\n{}")
    assert asked.key not in gate.text


def test_token_is_put_in_by_the_proxy(ask: Ask, gate: Gate) -> None:
    asked = ask(login=None, ANTHROPIC_AUTH_TOKEN="the-token")
    asked.post(Authorization=f"Bearer {asked.told['ANTHROPIC_AUTH_TOKEN']}")
    assert "\r\nAuthorization: Bearer the-token\r\n" in gate.text


def test_headers_of_the_operator_s_are_put_in_by_the_proxy(ask: Ask, gate: Gate) -> None:
    asked = ask(ANTHROPIC_CUSTOM_HEADERS="X-Team: blue\nAuthorization: Bearer other")
    asked.post(X_Team="red", Authorization="Bearer of-the-cli")
    assert gate.text.count("X-Team") == gate.text.count("uthorization") == 1
    assert "\r\nX-Team: blue\r\nAuthorization: Bearer other\r\n" in gate.text


def test_name_and_password_of_the_url_are_put_in_by_the_proxy(serve: Serve, gate: Gate) -> None:
    url = gate.url.replace("://", "://some%20one:pass%3Aword@")
    asked = Asked(serve, {"ANTHROPIC_BASE_URL": url})
    asked.post()
    login = base64.b64encode(b"some one:pass:word").decode()
    assert f"\r\nAuthorization: Basic {login}\r\n" in gate.text


def test_token_is_stronger_than_the_password_of_the_url(serve: Serve, gate: Gate) -> None:
    url = gate.url.replace("://", "://some:one@")
    asked = Asked(serve, {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_AUTH_TOKEN": "the-token"}, None)
    asked.post(Authorization=f"Bearer {asked.told['ANTHROPIC_AUTH_TOKEN']}")
    assert "\r\nAuthorization: Bearer the-token\r\n" in gate.text
    assert gate.text.count("uthorization") == 1


def test_path_of_the_operator_s_is_put_before_each_request(ask: Ask, gate: Gate) -> None:
    ask("/team/claude/").post()
    assert gate.text.startswith("POST /team/claude/v1/messages HTTP/1.1\r\n")


def test_gateway_without_a_secret_gets_a_placeholder(ask: Ask, gate: Gate) -> None:
    asked = ask(login=None)
    name, _, value = asked.told["ANTHROPIC_CUSTOM_HEADERS"].partition(": ")
    assert b" 403 " in asked.post()
    assert asked.post(**{name: value}).endswith(b"ok")
    assert value not in gate.text


# Which requests are allowed


BESIDE = ["/", "/v1", "/v1/", "/v1/messages/", "/v1/messages/batches", "/v1/files", "/admin/keys?all=1", "/V1/messages",
          "/v1/messages/../../admin", "/v1/messages/%2e%2e/%2e%2e/admin", "/v1/%6dessages", "//v1/messages",
          "/v1//messages", "/v1/messages;x=1", "/v1/messages?beta=true&x=1", "/v1/messages?x=/../admin",
          "/v1/messages%00", "/v1/messages%2f..", "/v1/messages\\..\\admin", "/admin?/v1/messages", "/v1/messages?",
          "/x/v1/messages", "/v1/models", "/api/event_logging/batch", "/key/generate", "/v1/messages?beta=true%0d%0a",
          "/v1/messages/count_tokens/x", "/.well-known/oauth-protected-resource"]  # fmt: skip


@pytest.mark.parametrize("path", BESIDE)
def test_gateway_is_asked_for_nothing_but_the_api(ask: Ask, gate: Gate, path: str) -> None:
    asked = ask("/pre")
    assert asked.post(path)[:13] in (b"HTTP/1.1 403 ", b"HTTP/1.1 400 ")
    assert not gate.heard


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "post"])
def test_api_is_asked_by_its_own_methods(ask: Ask, gate: Gate, method: str) -> None:
    assert ask().post(method=method)[:13] in (b"HTTP/1.1 403 ", b"HTTP/1.1 400 ")
    assert not gate.heard


PASSED = [("POST", "/v1/messages"), ("POST", "/v1/messages/count_tokens?beta=true"), ("GET", "/v1/models?limit=1000"),
          ("GET", "/v1/models/claude-opus-5-5")]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), PASSED)
def test_gateway_is_asked_for_what_the_cli_needs(ask: Ask, gate: Gate, method: str, path: str) -> None:
    assert ask().post(path, method).endswith(b"ok")
    assert gate.text.startswith(f"{method} {path} HTTP/1.1\r\n")


@pytest.mark.parametrize("variable", ["x-api-key", "Authorization", "x-other", ""])
def test_request_without_the_placeholder_is_refused(ask: Ask, gate: Gate, variable: str) -> None:
    """A remote MCP server, a helper or a redirect may learn the gateway's name. The name alone gives no access."""
    asked = ask()
    fields = {variable: asked.key if variable == "x-other" else f"Bearer {KEY}"} if variable else {}
    answer = asked.post(**{"X-Api-Key": "", **fields})
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert answer.endswith(b"bridge: POST /v1/messages did not come from Claude itself\n")
    assert not gate.heard


def test_refused_request_is_in_the_audit_log_and_gets_a_sentence(ask: Ask) -> None:
    answer = ask().post("/admin")
    assert answer.endswith(b"bridge: POST /admin is nothing that Claude asks its gateway for\n")


def test_cli_s_greeting_is_answered_by_the_proxy(ask: Ask, gate: Gate) -> None:
    """2.1.197 sends `HEAD /` before the first request, without any secret."""
    asked = ask("/pre")
    assert asked.say(f"HEAD {asked.url}/ HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    assert not gate.heard


@pytest.mark.parametrize("spelling", [str, str.upper, lambda name: name + "."])
def test_gateway_s_name_is_good_for_no_tunnel(ask: Ask, gate: Gate, spelling: Callable[[str], str]) -> None:
    asked = ask()
    name = spelling(asked.url.removeprefix("http://"))
    assert (
        tunnel(asked.proxy, name, 80) == tunnel(asked.proxy, name, 443) == tunnel(asked.proxy, name, gate.port) == 403
    )
    assert not gate.heard


@pytest.mark.parametrize("port", ["443", "8080", "{gate}"])
def test_gateway_s_name_has_one_port(ask: Ask, gate: Gate, port: str) -> None:
    asked = ask()
    url = f"{asked.url}:{port.format(gate=gate.port)}"
    assert b" 502 " in asked.say(POST.format(url=url, key=asked.key))
    assert not gate.heard


def test_gateway_s_own_address_is_no_way_around(ask: Ask, gate: Gate) -> None:
    asked = ask()
    assert b" 502 " in asked.say(POST.format(url=gate.url, key=asked.key))
    assert tunnel(asked.proxy, "127.0.0.1", gate.port) == 403
    assert not gate.heard


def test_redirect_of_a_public_server_leads_to_no_gateway(
    serve: Serve, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = Gate()
    rules = Rules.of({"ANTHROPIC_BASE_URL": gate.url}, True, [public.port], LOGIN)
    monkeypatch.setattr(proxy, "is_public", lambda _: True)
    alias = rules.disguise.environment["ANTHROPIC_BASE_URL"]
    location = f"HTTP/1.1 307 x\r\nLocation: {alias}/v1/models\r\nContent-Length: 0\r\n\r\n"
    public.answer = location.encode()
    assert fetch(serve(rules), f"{public.url}/start")[0] == 403
    assert len(public.heard) == 1
    assert not gate.heard
    public.close()


# The gateway's answers


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 300, 101])
def test_redirect_of_a_gateway_is_followed_by_nobody(ask: Ask, gate: Gate, status: int) -> None:
    gate.answer = f"HTTP/1.1 {status} x\r\nLocation: http://inside/\r\nContent-Length: 0\r\n\r\n".encode()
    answer = ask().post()
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"inside" not in answer


def test_answer_of_a_gateway_names_no_place(ask: Ask, gate: Gate) -> None:
    names = [b"Content-Location", b"Via", b"Set-Cookie", b"Link", b"Refresh", b"Alt-Svc", b"X-Of-Hop", b"Keep-Alive"]
    fields = b"".join(name + b": gateway.example\r\n" for name in names)
    gate.answer = (
        b"HTTP/1.1 200 OK\r\n" + fields + b"Connection: X-Of-Hop\r\nRequest-Id: 7\r\nContent-Length: 0\r\n\r\n"
    )
    answer = ask().post()
    assert b"gateway.example" not in answer
    assert b"\r\nRequest-Id: 7\r\n" in answer


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\nA: b\r\n\r\n", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\n a\r\n\r\n"]
)
def test_answer_that_is_none_is_told_in_a_sentence(ask: Ask, gate: Gate, answer: bytes) -> None:
    gate.answer = answer + b"\r\n\r\n"
    assert ask().post().endswith(b"bridge: the server's answer is not understood\n")


def test_gateway_that_is_away_is_told_without_its_name(ask: Ask, gate: Gate) -> None:
    asked = ask()
    gate.close()
    answer = asked.post()
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"127.0.0.1" not in answer


def test_keep_alive_client_is_told_that_the_connection_ends(ask: Ask) -> None:
    """Servers may omit the header. Without it, the client sends its next request on a connection that is closing."""
    assert b"\r\nConnection: close\r\n" in ask().post()


def test_server_that_never_comes_to_an_answer_is_left(ask: Ask, gate: Gate) -> None:
    """The server could fill the memory with endless interim responses."""

    def go_on(sock: socket.socket) -> None:
        for _ in range(10_000):
            sock.sendall(b"HTTP/1.1 100 Continue\r\nX: " + b"x" * 10_000 + b"\r\n\r\n")

    gate.answer = go_on
    assert len(ask().post()) < 20 * 10_000


# Exactly one request, as it was checked


LENGTH = "Content-Length: 2\r\n\r\n{}"
BEHIND = "GET {url}/v1/models HTTP/1.1\r\nX-Api-Key: {key}\r\n\r\n"


def test_request_behind_the_first_is_never_passed_on(ask: Ask, gate: Gate) -> None:
    asked = ask()
    both = (POST + BEHIND).format(url=asked.url, key=asked.key)
    assert asked.say(both).count(b"HTTP/1.1 ") == 1
    assert "models" not in gate.text


CHUNKS = {
    "size": "zz\r\n{}\r\n0\r\n\r\n", "sign": "+2\r\n{}\r\n0\r\n\r\n", "extension": "2;a=b\r\n{}\r\n0\r\n\r\n",
    "longer": "2\r\n{}xx\r\n0\r\n\r\n", "bare LF": "2\n{}\n0\n\n", "trailer": "2\r\n{}\r\n0\r\nX-Api-Key: x\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS.keys())
def test_body_in_chunks_that_are_none_ends_the_connection(ask: Ask, gate: Gate, chunks: str) -> None:
    gate.answer = lambda _: None
    asked = ask()
    head = POST.format(url=asked.url, key=asked.key).replace(
        "Content-Length: 2\r\n\r\n{}", "Transfer-Encoding: chunked"
    )
    asked.say(f"{head}\r\n\r\n{chunks}{BEHIND.format(url=asked.url, key=asked.key)}")
    wait_until(lambda: gate.heard and not gate.open, 5, "the end of the connection")
    assert "models" not in gate.text
    assert "X-Api-Key: x" not in gate.text


def test_body_in_chunks_is_passed_on_and_nothing_behind_it(ask: Ask, gate: Gate) -> None:
    asked = ask()
    head = POST.format(url=asked.url, key=asked.key).replace(
        "Content-Length: 2\r\n\r\n{}", "Transfer-Encoding: chunked"
    )
    body = "2\r\n{}\r\n0\r\n\r\n"
    assert asked.say(f"{head}\r\n\r\n{body}{BEHIND.format(url=asked.url, key=asked.key)}").endswith(b"ok")
    assert "models" not in gate.text


def test_answer_flows_as_it_comes(ask: Ask, gate: Gate) -> None:
    """Server-sent events: the first one arrives before the second one is sent."""
    seen = threading.Event()

    def stream(sock: socket.socket) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        assert seen.wait(5)
        sock.sendall(b"data: 2\n\n")
        sock.shutdown(socket.SHUT_WR)

    gate.answer = stream
    asked = ask()
    with socket.create_connection(("127.0.0.1", asked.proxy), 5) as sock:
        sock.sendall(POST.format(url=asked.url, key=asked.key).encode())
        received = b""
        while b"data: 1\n\n" not in received:
            received += sock.recv(65536)
        assert b"data: 2" not in received
        seen.set()
        while data := sock.recv(65536):
            received += data
    assert received.endswith(b"data: 2\n\n")


def test_client_that_goes_away_ends_the_request(ask: Ask, gate: Gate) -> None:
    gate.answer = lambda _: None
    asked = ask()
    with socket.create_connection(("127.0.0.1", asked.proxy), 5) as sock:
        sock.sendall(POST.format(url=asked.url, key=asked.key).encode())
        wait_until(lambda: gate.heard and b"{}" in gate.heard[0], 5, "the request")
    wait_until(lambda: not gate.open, 5, "the end of the connection")


# TLS, and the operator's own proxy


def test_gateway_with_tls_is_asked_by_the_proxy(serve: Serve, safe_gate: Gate, authority: Path) -> None:
    environment = {"ANTHROPIC_BASE_URL": safe_gate.url, "NODE_EXTRA_CA_CERTS": str(authority)}
    asked = Asked(serve, environment)
    assert re.fullmatch(r"http://[0-9a-f]{32}\.invalid", asked.url)
    assert asked.post().endswith(b"ok")
    assert KEY in safe_gate.text
    assert tunnel(asked.proxy, "127.0.0.1", safe_gate.port) == 403


def test_unknown_certificate_is_refused_with_a_sentence(serve: Serve, safe_gate: Gate) -> None:
    answer = Asked(serve, {"ANTHROPIC_BASE_URL": safe_gate.url}).post()
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"NODE_EXTRA_CA_CERTS in bridge.yaml" in answer
    assert b"127.0.0.1" not in answer
    assert not safe_gate.heard


def test_certificate_of_another_name_is_refused(serve: Serve, safe_gate: Gate, authority: Path) -> None:
    url = safe_gate.url.replace("127.0.0.1", "localhost")
    answer = Asked(serve, {"ANTHROPIC_BASE_URL": url, "SSL_CERT_FILE": str(authority)}).post()
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert not safe_gate.heard


def test_authority_that_cannot_be_read_is_told_without_its_path(serve: Serve, safe_gate: Gate) -> None:
    answer = Asked(serve, {"ANTHROPIC_BASE_URL": safe_gate.url, "SSL_CERT_FILE": "/nonexistent/file"}).post()
    assert b"SSL_CERT_FILE" in answer
    assert b"/nonexistent" not in answer


class Proxied(Gate):
    """The operator's own proxy: connects every request to one port on loopback."""

    def __init__(self, target: int, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.answer = self._connect
        self._target = target

    def _connect(self, sock: socket.socket) -> None:
        other = socket.create_connection(("127.0.0.1", self._target), 10)
        threading.Thread(target=self._copy, args=(other, sock), daemon=True).start()
        sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        self._copy(sock, other)

    @staticmethod
    def _copy(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError), other:
            while data := one.recv(65536):
                other.sendall(data)


def through(target: Gate, authority: Path, **more: str) -> tuple[dict[str, str], Proxied]:
    """Return the variables of an operator whose gateway, called gateway.example, is behind the operator's own proxy."""
    proxy = Proxied(target.port)
    url = target.url.replace("127.0.0.1", "gateway.example")
    upstream = f"http://some:one@127.0.0.1:{proxy.port}"
    return {"ANTHROPIC_BASE_URL": url, "HTTPS_PROXY": upstream, "NODE_EXTRA_CA_CERTS": str(authority), **more}, proxy


def test_operator_s_proxy_is_told_its_password(serve: Serve, tmp_path: Path) -> None:
    both = certificate.make(tmp_path, "DNS:gateway.example")
    safe = Gate(certificate.context(both))
    environment, proxy = through(safe, both)
    asked = Asked(serve, environment)
    assert asked.post().endswith(b"ok")
    assert proxy.text.startswith(f"CONNECT gateway.example:{safe.port} HTTP/1.1\r\n")
    assert f"\r\nProxy-Authorization: Basic {base64.b64encode(b'some:one').decode()}\r\n" in proxy.text
    assert "Proxy-Authorization" not in safe.text
    safe.close()
    proxy.close()


NO_PROXY = [("*", True), ("gateway.example", True), (".example", True), ("example", True),
            ("a, gateway.example ,b", True), ("other.example", False), ("ample", False), ("", False)]  # fmt: skip


@pytest.mark.parametrize(("value", "direct"), NO_PROXY)
def test_no_proxy_of_the_operator_s_is_obeyed(value: str, direct: bool) -> None:
    upstream = Upstream.of({"HTTPS_PROXY": "http://proxy.example:8080", "NO_PROXY": value})
    assert upstream is not None
    assert upstream.leads_to("gateway.example", 443) is not direct


@pytest.mark.parametrize(("value", "direct"), [("10.0.0.0/8", True), ("10.1.2.3", True), ("10.1.2.3:80", False)])
def test_no_proxy_knows_addresses(value: str, direct: bool) -> None:
    upstream = Upstream.of({"HTTPS_PROXY": "http://proxy.example:8080", "no_proxy": value})
    assert upstream is not None
    assert upstream.leads_to("10.1.2.3", 443) is not direct
    assert not upstream.leads_to("127.0.0.1", 443)


def test_private_address_is_not_vouched_for_by_being_a_gateway(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway with TLS was once allowed by its name, so a container could reach it at any address."""
    monkeypatch.setattr(addresses, "_resolve", lambda *_, **__: [(0, 0, 0, "", ("10.0.0.7", 443))])
    asked = Asked(serve, {"ANTHROPIC_BASE_URL": "https://gateway.example"})
    assert tunnel(asked.proxy, "gateway.example", 443) == 403
