"""An account on loopback: its logins end after seconds, and are renewed as the real CLI asks for it.

internet    a proxy (HTTPS_PROXY) that leads every name to one of the two servers below, which have certificates
            for the real names (NODE_EXTRA_CA_CERTS)
OAuth       gives a new token for a refresh token, which is good for once
API         tests/support/fake_messages_api.py; a token that has ended, or that nobody was given, gets a 401
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support import certificate
from tests.support.fake_messages_api import Fail, FakeMessagesApi, Part, Reply, Request, _Handler, echo

ON_THE_WAY_S = 1.5
"""Seconds that a request may take from the proxy to the API on a busy machine. A real login has a minute for that."""

API_NAME = "api.anthropic.com"
NAMES = (API_NAME, "platform.claude.com", "console.anthropic.com", "claude.ai", "claude.com", "mcp-proxy.anthropic.com")


class FakeAccount:
    """The account, its servers and the way to them; use it as a context manager.

    `lasts` is how many seconds a new token is good. Nothing but `credentials` is a file of the host's.
    """

    def __init__(self, directory: Path, lasts: float, part: Part = echo) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.lasts = lasts
        self.part = part
        self.refuses = False
        """Whether a refresh token is refused, as after a logout elsewhere."""
        self.asked: list[tuple[float, int]] = []
        """When the OAuth server was asked for a token, and what it answered."""
        self.tokens: dict[str, float] = {}
        """Each token that was given out, and when it ends."""
        self.refresh = ""
        self.rejected: list[Request] = []
        """Requests for the model with a token that was not good."""
        self.authority = certificate.make(directory, ",DNS:".join([f"DNS:{NAMES[0]}", *NAMES[1:]]))
        self.authority.with_name("certificate.pem").chmod(0o644)  # the grant's user reads it
        context = certificate.context(self.authority)
        self.api = FakeMessagesApi(self._judge, context)
        self.api._server.RequestHandlerClass = _ApiHandler
        self.oauth = _Oauth(("127.0.0.1", 0), _OauthHandler)
        self.oauth.account = self
        self.oauth.socket = context.wrap_socket(self.oauth.socket, server_side=True, do_handshake_on_connect=False)
        self.internet = _Internet(("127.0.0.1", 0), _InternetHandler)
        self.internet.ways = {API_NAME: self.api._server.server_port}
        self.internet.otherwise = self.oauth.server_port
        self.lock = threading.Lock()

    @property
    def variables(self) -> dict[str, str]:
        """What leads a program here: for its environment, and for `environment` in bridge.yaml."""
        return {
            "HTTPS_PROXY": f"http://127.0.0.1:{self.internet.server_port}",
            "NODE_EXTRA_CA_CERTS": str(self.authority.with_name("certificate.pem")),
        }

    @property
    def renewals(self) -> int:
        """How many new tokens were given for a refresh token."""
        return sum(status == 200 for _, status in self.asked)

    def give(self, lasts: float | None = None) -> dict[str, Any]:
        """Return a new login, as it stands in the credentials file."""
        token, self.refresh = f"sk-ant-oat01-{secrets.token_hex(24)}", f"sk-ant-ort01-{secrets.token_hex(24)}"
        self.tokens[token] = time.time() + (self.lasts if lasts is None else lasts)
        return {
            "accessToken": token,
            "refreshToken": self.refresh,
            "expiresAt": int(self.tokens[token] * 1000),
            "scopes": ["user:inference", "user:profile", "user:sessions:claude_code"],
            "subscriptionType": "max",
        }

    def log_in(self, directory: Path, lasts: float | None = None) -> Path:
        """Write a login into a configuration directory of the CLI's. Returns the file."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / ".credentials.json"
        path.write_text(json.dumps({"claudeAiOauth": self.give(lasts)}))
        path.chmod(0o600)
        return path

    def grant(self) -> dict[str, Any]:
        """Return a new login, as the OAuth server answers."""
        login = self.give()
        return {
            "token_type": "Bearer",
            "access_token": login["accessToken"],
            "refresh_token": login["refreshToken"],
            "expires_in": self.lasts,
            "scope": " ".join(login["scopes"]),
        }

    def _judge(self, request: Request) -> Reply:
        if self.tokens.get(request.key, 0) + ON_THE_WAY_S < time.time():
            self.rejected.append(request)
            return Fail(401, "authentication_error")
        return self.part(request)

    def __enter__(self) -> FakeAccount:
        self.api.__enter__()
        for server in (self.oauth, self.internet):
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self.oauth, self.internet):
            server.shutdown()
            server.server_close()
        self.api.__exit__()


class _ApiHandler(_Handler):
    def _answer(self) -> None:
        """Say that there are no settings and no limits of an organisation. The CLI asks again for empty ones."""
        if self.path.startswith("/api/"):
            self._whole({}, 404)
        else:
            super()._answer()

    do_GET = do_HEAD = do_POST = do_PUT = _answer  # noqa: N815 - the names that http.server looks up


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: a client may leave at any time."""


class _Oauth(_Server):
    account: FakeAccount


class _OauthHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Oauth

    def log_message(self, *_: object) -> None:
        """Print nothing: the terminal is pytest's."""

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path != "/v1/oauth/token":
            self._answer(200, {})
            return
        account, body = self.server.account, json.loads(raw)
        with account.lock:
            good = body.get("grant_type") == "refresh_token" and body["refresh_token"] == account.refresh
            status: int
            value: dict[str, Any]
            if account.refuses or not good:
                status, value = 400, {"error": "invalid_grant", "error_description": "Refresh token not found"}
            else:
                status, value = 200, account.grant()
            account.asked.append((time.time(), status))
        self._answer(status, value)

    def do_GET(self) -> None:
        self._answer(200, {})

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class _Internet(_Server):
    ways: dict[str, int]
    otherwise: int


class _InternetHandler(BaseHTTPRequestHandler):
    server: _Internet

    def log_message(self, *_: object) -> None:
        """Print nothing: the terminal is pytest's."""

    def do_CONNECT(self) -> None:
        port = self.server.ways.get(self.path.partition(":")[0], self.server.otherwise)
        with socket.create_connection(("127.0.0.1", port), 10) as server:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=_copy, args=(server, self.connection), daemon=True)
            back.start()
            _copy(self.connection, server)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):  # ignored because either side may leave
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
