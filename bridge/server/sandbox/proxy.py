"""The HTTP proxy through which the CLI of one call reaches the network.

The namespace has only its own loopback. The launcher (bridge/server/sandbox/shim.py) listens on it and passes the
listener to the server, which answers there as an HTTP proxy. The proxy connects

- to the operator's gateways, each under a name that is valid for this call only, and only for requests to the API
  (bridge/policy/gateways.py), with its own TLS if they need it; or to the API, through a tunnel;
- to the API with its own TLS, if the login is the host's own: each request gets the login that is good by then
  (bridge/server/host/login.py). What the CLI asks its account's organisation for goes through a tunnel still;
- with `network: web`, to public addresses, on the ports of the web and those that the operator added.

The CLI's reports about its own use go to a name of their own, where the proxy itself answers (reports.py).

A name is resolved here, its addresses are checked, and the connection goes to a checked address. So it makes no
difference if the name server's answer changes a moment later. Each redirect is a separate request and is checked as
well. A connection carries one request; bytes after it are never passed on. Only one to the API is kept
for the next request, because a new one would cost three round trips.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import select
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, ClassVar

from bridge.policy import telemetry
from bridge.policy.gateways import API, CALL, TOKEN, Disguise, Gateway, RefusedError, disguise, with_api
from bridge.policy.http_head import Answer, HeadError, Request, split_authority, split_url
from bridge.server.gate import Gate, HeldTurnError, RefusedTurnError
from bridge.server.host.acceptor import Acceptor
from bridge.server.host.credentials import Credential, NoCredentialsError
from bridge.server.sandbox.addresses import Lookups, is_public
from bridge.server.sandbox.http_exchange import (
    CHUNK,
    MAX_HEAD,
    TEXT,
    FailedError,
    Pair,
    exchange,
    head_of,
    relay,
    say,
    send_whole,
)
from bridge.server.sandbox.reports import Reports
from bridge.server.sandbox.upstream import AUTHORITIES, CONNECT_LIMIT_S, Upstream, first_of, lead, named, tls_context

PORT = 3128
"""The proxy's port on the namespace's loopback."""

WEB_PORTS = frozenset({80, 443})

MAX_CONNECTIONS = 64
"""Connections of one call. The CLI opens a handful."""
HEAD_LIMIT_S = 20.0
LINGER_S = 1.0
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
PASSED_ON_S = 10.0
"""Seconds for a report on its way to the operator's own collector."""

KEPT_S = 20.0
"""Seconds for which a connection to the API is kept for the next request. Servers keep one at least as long."""

Target = tuple[str, int]
Present = Callable[[str], Awaitable[str]]
"""Returns the secret that is good now for the one that a call was given. Raises NoCredentialsError."""


@dataclasses.dataclass(frozen=True)
class Rules:
    """The addresses that the CLI of one call may connect to."""

    named: frozenset[Target] = frozenset({API})
    """Reached by a tunnel, even if their addresses are not public."""
    web: bool = True
    web_ports: frozenset[int] = WEB_PORTS
    upstream: Upstream | None = None
    disguise: Disguise = dataclasses.field(default_factory=lambda: Disguise({}))
    authorities: tuple[str, ...] = ()
    """Files with further certificate authorities for TLS."""
    lookups: Lookups = dataclasses.field(default_factory=Lookups)
    present: Present | None = None
    """The login that is good now, in place of the one that the CLI was given at its start."""
    collector: Gateway | None = None
    """The operator's own collector of the CLI's logs."""
    collector_path: str = "/"

    @classmethod
    def of(
        cls,
        environment: Mapping[str, str],
        web: bool,
        ports: Iterable[int] = (),
        credential: Credential | None = None,
        grant: str = "",
        present: Present | None = None,
    ) -> Rules:
        """Make the rules from the operator's variables and the CLI's login credential. `present` returns the login
        that is good by then, if the credential is the host's own login."""
        hidden = disguise(environment, credential.secret if credential else "")
        collector, path = _collector(environment, hidden)
        has_gateway = hidden.environment.get("ANTHROPIC_BASE_URL") != environment.get("ANTHROPIC_BASE_URL")
        is_renewed = credential is not None and credential.is_renewable and present is not None and not has_gateway
        if not has_gateway and (credential is not None or environment.get(TOKEN)):
            hidden = with_api(hidden, credential.secret if credential else "")
        return cls(
            hidden.signed if has_gateway else hidden.signed | {API},
            web,
            WEB_PORTS | set(ports),
            Upstream.of(environment),
            hidden,
            tuple(environment[name] for name in AUTHORITIES if environment.get(name)),
            Lookups.of(grant),
            present if is_renewed else None,
            collector,
            path,
        )

    def credential(self, credential: Credential | None) -> Credential | None:
        """Return the credential that is passed to the CLI: the real one, or one with a placeholder as its secret."""
        if credential and self.disguise.login:
            return dataclasses.replace(credential, secret=self.disguise.login)
        return credential


class PassedOn:
    """Reports on their way to the operator's collector. They outlive the call."""

    tasks: ClassVar[set[asyncio.Task[None]]] = set()

    @classmethod
    def start(cls, passing: Coroutine[Any, Any, None]) -> None:
        """Start one. Beyond MAX_CONNECTIONS it is dropped: the collector does not answer."""
        if len(cls.tasks) >= MAX_CONNECTIONS:
            passing.close()
            return
        task = asyncio.get_running_loop().create_task(passing)
        cls.tasks.add(task)
        task.add_done_callback(cls.tasks.discard)


def _collector(environment: Mapping[str, str], hidden: Disguise) -> tuple[Gateway | None, str]:
    """Return the gateway to which the operator has the CLI's logs sent by HTTP, and the path there."""
    if telemetry.wants_logs(environment):
        for name, path in ((telemetry.LOGS_ENDPOINT, "/"), ("OTEL_EXPORTER_OTLP_ENDPOINT", telemetry.PATH)):
            alias = hidden.environment.get(name, "").removeprefix("http://")
            if alias in hidden.gateways:
                return hidden.gateways[alias], path
    return None, "/"


class Proxy:
    """The proxy of one call. `note` writes connections and refusals to the audit log. Requests to the API wait at
    the `gate` for the call's place. `reports` gets what the CLI says of its use."""

    def __init__(
        self,
        listener: socket.socket,
        rules: Rules,
        note: Callable[..., None],
        gate: Gate,
        reports: Reports | None = None,
    ) -> None:
        """Serve on a listening TCP socket of the namespace. Raises ValueError if it is not one."""
        if listener.family != socket.AF_INET or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ValueError("no listening socket was handed over")
        listener.setblocking(False)
        self._listener = listener
        self._rules = rules
        self._note = note
        self._gate = gate
        self._reports = reports
        self._is_cut = False
        self._networking: set[asyncio.Task[None]] = set()
        """The tasks whose requests go to the network."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._kept: list[tuple[Pair, float]] = []
        """Connections to the API that wait for the next request, and since when."""
        self._acceptor = Acceptor(listener, self._take)

    def cut(self) -> None:
        """End all connections to the network. What the CLI reports while it ends still counts."""
        self._is_cut = True
        for task in self._networking:
            task.cancel()

    def close(self) -> None:
        """End all connections."""
        self._acceptor.close()
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        for pair, _ in self._kept:
            pair[1].close()

    def _take(self, accepted: socket.socket) -> None:
        if len(self._tasks) >= MAX_CONNECTIONS:
            accepted.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(accepted))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self._networking.discard)

    async def _serve(self, accepted: socket.socket) -> None:
        client = await asyncio.open_connection(sock=accepted, limit=MAX_HEAD)
        try:
            await self._answer(client)
        except HeadError as error:
            await self._refuse(client, b"400 Bad Request", f"a request is not understood: {error}")
        except RefusedError as refusal:
            await self._refuse(client, b"403 Forbidden", str(refusal))
        except HeldTurnError as held:
            await self._refuse(client, held.status, str(held), held.body, held.fields)
        except RefusedTurnError as refusal:
            await self._refuse(client, refusal.status, str(refusal))
        except NoCredentialsError as error:
            await self._refuse(client, b"401 Unauthorized", error.public_text)
        except FailedError as failure:
            await self._refuse(client, b"502 Bad Gateway", str(failure))
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            say(client[1], b"502 Bad Gateway", b"bridge: the server does not answer\n")
        finally:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                client[1].close()

    async def _refuse(
        self, client: Pair, status: bytes, why: str, body: bytes = b"", fields: Iterable[tuple[bytes, bytes]] = TEXT
    ) -> None:
        """Answer with a sentence, or another body. Then read and drop input for a moment: closing at once could
        discard the answer."""
        self._note("refused", network=why)
        say(client[1], status, body or f"bridge: {why}\n".encode(), fields)
        with contextlib.suppress(OSError, TimeoutError):
            client[1].write_eof()
            async with asyncio.timeout(LINGER_S):
                while await client[0].read(CHUNK):
                    continue

    async def _answer(self, client: Pair) -> None:
        request = await _head(client)
        if request.method == "CONNECT":
            host, port = split_authority(request.target)
            if not self._takes_telemetry(host, port):
                self._go_out()
                await self._tunnel(client, host, port)
                return
            client[1].write(ESTABLISHED)  # the CLI's OpenTelemetry asks for a tunnel, also for http
            request = await _head(client)
            path = request.target
        elif request.target == telemetry.PATH and self._reports is not None:
            host, port, path = self._reports.name, 80, request.target
        else:
            host, port, path = split_url(request.target)
        await self._serve_request(client, request, host, port, path)

    def _takes_telemetry(self, host: str, port: int) -> bool:
        """Return whether a name of this call is that of the CLI's reports, or of the operator's collector."""
        gateway = self._rules.disguise.gateways.get(host) if port == 80 else None
        is_reports = self._reports is not None and self._reports.is_meant(host, port)
        return is_reports or (gateway is not None and gateway.is_collector)

    async def _serve_request(self, client: Pair, request: Request, host: str, port: int, path: str) -> None:
        if self._reports is not None and self._reports.is_meant(host, port):
            body = await self._reports.receive(client, request, path)
            if body and self._rules.collector is not None:
                PassedOn.start(self._pass_on(self._rules.collector, body))
            return
        self._go_out()
        gateway = self._rules.disguise.gateways.get(host) if port == 80 else None
        if gateway is None:
            try:
                server = await self._connect(host, port, vouched_for=False)
            except RefusedError as refusal:
                # After a 403, the CLI would say that an MCP server at this address wants a login.
                raise FailedError(str(refusal)) from None
            await exchange(client, server, request, head_of(request, named(host, port, 80), path, request.passed()))
        elif gateway.is_greeting(request, path):
            say(client[1], b"200 OK", b"")
        else:
            await self._ask(gateway, client, request, path)

    def _go_out(self) -> None:
        """Count the present request as one to the network. Raises RefusedError if the call is ending."""
        if self._is_cut:
            raise RefusedError("the call is over")
        if task := asyncio.current_task():
            self._networking.add(task)

    async def _pass_on(self, gateway: Gateway, body: bytes) -> None:
        """Send a report to the operator's own collector, once. The CLI does not wait for it."""
        placeholder = next(iter(gateway.secrets))
        fields = ((b"Content-Type", b"application/json"), (CALL, placeholder))
        copy = Request("POST", self._rules.collector_path, fields, len(body))
        to, judged = gateway.judge(copy, copy.target)
        judged = [*judged, (b"Content-Length", b"%d" % len(body))]
        with contextlib.suppress(FailedError, OSError, TimeoutError):  # `_reach` has noted it in the audit log
            async with asyncio.timeout(PASSED_ON_S):
                server = await self._reach(gateway)
                await send_whole(server, head_of(copy, _name(gateway), to, judged), body)

    async def _tunnel(self, client: Pair, host: str, port: int) -> None:
        is_api = (host, port) in self._rules.named
        server = await self._connect(host, port, vouched_for=is_api)
        client[1].write(ESTABLISHED)
        watch = self._gate.tunnel(functools.partial(_has_left, client)) if is_api else None
        try:
            await relay(client, server, watch)
        finally:
            server[1].close()

    async def _ask(self, gateway: Gateway, client: Pair, request: Request, path: str) -> None:
        """Send a request to a gateway, in the call's turn if it is work. Raises RefusedError, RefusedTurnError,
        NoCredentialsError or FailedError."""
        judged = gateway.judge(request, path)
        if gateway.is_work(request, path):
            async with self._gate.request(functools.partial(_has_left, client)):
                await self._send(gateway, client, request, *judged, heard=self._gate.hear_answer)
        else:
            await self._send(gateway, client, request, *judged)

    async def _send(
        self,
        gateway: Gateway,
        client: Pair,
        request: Request,
        path: str,
        fields: list[tuple[bytes, bytes]],
        heard: Callable[[Answer], None] | None = None,
    ) -> None:
        """Send a request to a gateway, with the gateway's real name and secrets. `heard` gets the head of the answer.
        Raises FailedError and NoCredentialsError."""
        if self._rules.present is not None and gateway.is_api:
            ((given, _),) = gateway.secrets.items()
            present = await self._rules.present(given.decode())
            path, fields = dataclasses.replace(gateway, secrets={given: present.encode()}).judge(request, path)
        keeps = gateway.is_api
        server = (keeps and self._kept_one()) or await self._reach(gateway)
        head = head_of(request, _name(gateway), path, fields, keeps=keeps)
        if await exchange(client, server, request, head, of_gateway=True, keeps=keeps, heard=heard):
            self._kept.append((server, asyncio.get_running_loop().time()))

    def _kept_one(self) -> Pair | None:
        """Return a connection to the API that is still open."""
        while self._kept:
            pair, since = self._kept.pop()
            if asyncio.get_running_loop().time() - since < KEPT_S and not pair[0].at_eof() and not pair[1].is_closing():
                return pair
            pair[1].close()
        return None

    async def _reach(self, gateway: Gateway) -> Pair:
        """Return a connection to a gateway. Raises FailedError."""
        try:
            return await self._connect(gateway.host, gateway.port, vouched_for=True, tls=gateway.tls)
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", "") or error.reason
            self._note("failed", network=f"TLS of {gateway.host}:{gateway.port}: {reason}")
            raise FailedError(
                f"the certificate of {gateway.title} is not valid; NODE_EXTRA_CA_CERTS in bridge.yaml can name the "
                "file of its authority"
            ) from None
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            self._note("failed", network=f"{gateway.host}:{gateway.port}: {str(error) or type(error).__name__}")
            raise FailedError(f"{gateway.title} does not answer") from None

    async def _connect(self, host: str, port: int, vouched_for: bool, tls: bool = False) -> Pair:
        """Return a connection to a target, through the operator's own proxy if there is one.

        `vouched_for` says that the operator named the target, so that its addresses are not checked.
        """
        addresses = [host] if vouched_for else await self._judged(host, port)
        upstream, files = self._rules.upstream, self._rules.authorities
        context = await tls_context(files) if tls else None
        if upstream is None or not upstream.leads_to(host, port):
            pair = await first_of(addresses, port, context, host)
        else:
            pair = await first_of(
                [upstream.host], upstream.port, await tls_context(files) if upstream.tls else None, upstream.host
            )
            try:
                async with asyncio.timeout(CONNECT_LIMIT_S):
                    await lead(pair, upstream, named(addresses[0], port).encode())
                    if context is not None:
                        await pair[1].start_tls(context, server_hostname=host)
            except BaseException:
                pair[1].close()
                raise
        self._note("connected", host=named(host, port))
        return pair

    async def _judged(self, host: str, port: int) -> list[str]:
        """Return the public addresses of a host that the operator did not name. Raises RefusedError, OSError or
        TimeoutError."""
        if host.rstrip(".").endswith(".invalid"):
            raise RefusedError(f"{host} is no server")
        if not self._rules.web:
            raise RefusedError(f"{host} is not the API, and this bridge's operator allows nothing else")
        if port not in self._rules.web_ports:
            raise RefusedError(
                f"port {port} of {host} is none of the web's; the operator can add it to web_ports in bridge.yaml"
            )
        addresses = await self._rules.lookups.addresses(host, port)
        if not all(map(is_public, addresses)):
            raise RefusedError(f"{host} is not on the public internet; the container can be asked to fetch it")
        return addresses


async def _head(client: Pair) -> Request:
    """Read the head of a request. Raises HeadError, TimeoutError and the errors of asyncio's streams."""
    async with asyncio.timeout(HEAD_LIMIT_S):
        return Request.parse(await client[0].readuntil(b"\r\n\r\n"))


def _name(gateway: Gateway) -> str:
    """Return a gateway's real name, as the field Host holds it."""
    return named(gateway.host, gateway.port, 443 if gateway.tls else 80)


def _has_left(client: Pair) -> bool:
    """Return whether the client has closed its connection, also if bytes of it are not read yet."""
    sock = client[1].get_extra_info("socket")
    if client[1].is_closing() or sock is None or sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))
