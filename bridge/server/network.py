"""The network of the CLI's namespace: one proxy of the server's, and what it connects to.

The namespace has a loopback of its own and nothing else. A listener made there is handed to the server
(bridge/server/inside.py), which answers on it as an HTTP proxy. It connects

- to the gateways that the operator named, each by a name of this call's alone and for the API's requests alone
  (bridge/policy/gateways.py), with TLS of its own where they have it; or to the API, by a tunnel;
- with `network: web`, to public addresses, on the ports of the web and those that the operator added.

A name is resolved here, its addresses are judged, and the connection goes to the very address that was judged: an
answer that changes a moment later changes nothing. Each redirect is a request of its own, so it is judged as well.
A connection carries one request: what comes behind it is never passed on.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from bridge.policy.gateways import API, TELLING, Disguise, Gateway, RefusedError, basic, disguise
from bridge.policy.heads import Answer, HeadError, Request, chunk_size, split_authority, split_url, written
from bridge.server.accepting import Acceptor
from bridge.server.addresses import Lookups, is_public
from bridge.server.credentials import Credential

PORT = 3128
"""Of the proxy, on the namespace's own loopback."""

WEB_PORTS = frozenset({80, 443})

MAX_HEAD = 64 * 1024
"""Bytes of a request's head: cookies and a token, with room."""
MAX_CONNECTIONS = 64
"""Of one call: the CLI opens a handful."""
HEAD_LIMIT_S = 20.0
CONNECT_LIMIT_S = 15.0
LINGER_S = 1.0
MAX_INTERIM = 8
"""Heads of answers before the final one, such as 100 Continue."""
CHUNK = 64 * 1024

AUTHORITIES = ("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS")
"""Variables of the operator's that name files with further authorities of TLS."""

Target = tuple[str, int]
Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class FailedError(Exception):
    """A server that was asked for did not answer rightly; the text is a sentence without its name."""


@dataclasses.dataclass(frozen=True)
class Upstream:
    """The operator's own proxy, which knows the way out of here."""

    host: str
    port: int
    tls: bool = False
    authorization: bytes = dataclasses.field(default=b"", repr=False)
    direct: tuple[str, ...] = ()
    """What it is not used for, as NO_PROXY says it."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Upstream | None:
        """The proxy that the operator's variables name."""
        direct = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
        for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
            with contextlib.suppress(ValueError):
                parts = urlsplit(environment.get(name, ""))
                if parts.hostname and parts.scheme in ("http", "https"):
                    tls = parts.scheme == "https"
                    port = parts.port or (443 if tls else 80)
                    login = basic(parts.username, parts.password)
                    return cls(parts.hostname, port, tls, login, tuple(direct.replace(",", " ").split()))
        return None

    def leads_to(self, host: str, port: int) -> bool:
        """Whether it is used for a target."""
        is_local = host == "localhost" or host.startswith("127.") or host == "::1"
        return not is_local and not any(_covers(entry.lower(), host, port) for entry in self.direct)


def _covers(entry: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY means a target: `*`, a name and all below it, an address, a network."""
    if entry == "*":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    name, _, wanted = entry.partition(":")
    name = name.removeprefix("*").removeprefix(".")
    return wanted in ("", str(port)) and bool(name) and (host == name or host.endswith(f".{name}"))


@dataclasses.dataclass(frozen=True)
class Rules:
    """Where the CLI of one call may go."""

    named: frozenset[Target] = frozenset({API})
    """Reached by a tunnel, wherever they are."""
    web: bool = True
    web_ports: frozenset[int] = WEB_PORTS
    upstream: Upstream | None = None
    disguise: Disguise = dataclasses.field(default_factory=lambda: Disguise({}))
    authorities: tuple[str, ...] = ()
    """Files with further authorities of TLS."""
    lookups: Lookups = dataclasses.field(default_factory=Lookups)

    @classmethod
    def of(
        cls,
        environment: Mapping[str, str],
        web: bool,
        ports: Iterable[int] = (),
        credential: Credential | None = None,
        grant: str = "",
    ) -> Rules:
        """The rules by the operator's variables and what the CLI would log in with."""
        hidden = disguise(environment, credential.secret if credential else "")
        has_gateway = hidden.told.get("ANTHROPIC_BASE_URL") != environment.get("ANTHROPIC_BASE_URL")
        return cls(
            hidden.signed if has_gateway else hidden.signed | {API},
            web,
            WEB_PORTS | set(ports),
            Upstream.of(environment),
            hidden,
            tuple(environment[name] for name in AUTHORITIES if environment.get(name)),
            Lookups.of(grant),
        )

    def credential(self, credential: Credential | None) -> Credential | None:
        """What the CLI is handed in the place of what it would log in with."""
        if credential and self.disguise.login:
            return dataclasses.replace(credential, secret=self.disguise.login)
        return credential


class Proxy:
    """The proxy of one call. `note` is told what was connected to and what was refused, for the audit log."""

    def __init__(self, listener: socket.socket, rules: Rules, note: Callable[..., None]) -> None:
        """Serve on a listening TCP socket of the namespace's; ValueError when it is none."""
        if listener.family != socket.AF_INET or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ValueError("no listening socket was handed over")
        listener.setblocking(False)
        self._listener = listener
        self._rules = rules
        self._note = note
        self._tasks: set[asyncio.Task[None]] = set()
        self._acceptor = Acceptor(listener, self._take)

    def close(self) -> None:
        """End all connections."""
        self._acceptor.close()
        self._listener.close()
        for task in self._tasks:
            task.cancel()

    def _take(self, accepted: socket.socket) -> None:
        if len(self._tasks) >= MAX_CONNECTIONS:
            accepted.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(accepted))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, accepted: socket.socket) -> None:
        client = await asyncio.open_connection(sock=accepted, limit=MAX_HEAD)
        try:
            await self._answer(client)
        except HeadError as error:
            await self._refuse(client, b"400 Bad Request", f"a request is not understood: {error}")
        except RefusedError as refusal:
            await self._refuse(client, b"403 Forbidden", str(refusal))
        except FailedError as failure:
            await self._refuse(client, b"502 Bad Gateway", str(failure))
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            _say(client[1], b"502 Bad Gateway", b"bridge: the server does not answer\n")
        finally:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                client[1].close()

    async def _refuse(self, client: Pair, status: bytes, why: str) -> None:
        """Answer with a sentence. What still comes is read for a moment: closing at once would take the answer back."""
        self._note("refused", network=why)
        _say(client[1], status, f"bridge: {why}\n".encode())
        with contextlib.suppress(OSError, TimeoutError):
            client[1].write_eof()
            async with asyncio.timeout(LINGER_S):
                while await client[0].read(CHUNK):
                    continue

    async def _answer(self, client: Pair) -> None:
        async with asyncio.timeout(HEAD_LIMIT_S):
            head = await client[0].readuntil(b"\r\n\r\n")
        request = Request.parse(head)
        if request.method == "CONNECT":
            await self._tunnel(client, *split_authority(request.target))
            return
        host, port, path = split_url(request.target)
        gateway = self._rules.disguise.gateways.get(host) if port == 80 else None
        if gateway is None:
            server = await self._connect(host, port, vouched_for=False)
            await _exchange(client, server, request, _head(request, _named(host, port, 80), path, request.passed()))
        elif gateway.is_greeting(request, path):
            _say(client[1], b"200 OK", b"")
        else:
            await self._ask(gateway, client, request, path)

    async def _tunnel(self, client: Pair, host: str, port: int) -> None:
        server = await self._connect(host, port, vouched_for=(host, port) in self._rules.named)
        client[1].write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await _relay(client, server)
        finally:
            server[1].close()

    async def _ask(self, gateway: Gateway, client: Pair, request: Request, path: str) -> None:
        """Pass on what the API is asked for."""
        path, fields = gateway.judge(request, path)
        name = _named(gateway.host, gateway.port, 443 if gateway.tls else 80)
        try:
            server = await self._connect(gateway.host, gateway.port, vouched_for=True, tls=gateway.tls)
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", "") or error.reason
            self._note("failed", network=f"TLS of {gateway.host}:{gateway.port}: {reason}")
            raise FailedError(
                "the certificate of the operator's gateway is not valid; NODE_EXTRA_CA_CERTS in bridge.yaml can name "
                "the file of its authority"
            ) from None
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            self._note("failed", network=f"{gateway.host}:{gateway.port}: {str(error) or type(error).__name__}")
            raise FailedError("the operator's gateway does not answer") from None
        await _exchange(client, server, request, _head(request, name, path, fields), of_gateway=True)

    async def _connect(self, host: str, port: int, vouched_for: bool, tls: bool = False) -> Pair:
        """A connection to a target, through the operator's own proxy where there is one."""
        addresses = [host] if vouched_for else await self._judged(host, port)
        upstream, files = self._rules.upstream, self._rules.authorities
        context = await _context(files) if tls else None
        if upstream is None or not upstream.leads_to(host, port):
            pair = await _first(addresses, port, context, host)
        else:
            pair = await _first(
                [upstream.host], upstream.port, await _context(files) if upstream.tls else None, upstream.host
            )
            try:
                async with asyncio.timeout(CONNECT_LIMIT_S):
                    await _lead(pair, upstream, _named(addresses[0], port).encode())
                    if context is not None:
                        await pair[1].start_tls(context, server_hostname=host)
            except BaseException:
                pair[1].close()
                raise
        self._note("connected", host=_named(host, port))
        return pair

    async def _judged(self, host: str, port: int) -> list[str]:
        """The public addresses of a host that nobody named."""
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


def _say(writer: asyncio.StreamWriter, status: bytes, body: bytes) -> None:
    """Answer in place of a server."""
    fields = [(b"Connection", b"close"), (b"Content-Type", b"text/plain"), (b"Content-Length", b"%d" % len(body))]
    with contextlib.suppress(OSError):
        writer.write(written(b"HTTP/1.1 " + status, fields) + body)


def _named(host: str, port: int, usual: int = 0) -> str:
    """A target as one word, without the port that is usual."""
    name = f"[{host}]" if ":" in host else host
    return name if port == usual else f"{name}:{port}"


def _head(request: Request, name: str, path: str, fields: list[tuple[bytes, bytes]]) -> bytes:
    """A request as it goes to a server, which is named by us and not by the client."""
    coding = [(b"Transfer-Encoding", b"chunked")] if request.length is None else []
    own = [(b"Host", name.encode()), *fields, *coding, (b"Connection", b"close")]
    return written(f"{request.method} {path} HTTP/1.1".encode(), own)


async def _lead(pair: Pair, upstream: Upstream, wanted: bytes) -> None:
    """Have the operator's proxy connect to a target; FailedError."""
    login = [(b"Proxy-Authorization", upstream.authorization)] if upstream.authorization else []
    pair[1].write(written(b"CONNECT " + wanted + b" HTTP/1.1", [(b"Host", wanted), *login]))
    try:
        answer = Answer.parse(await pair[0].readuntil(b"\r\n\r\n"))
    except HeadError:
        raise FailedError("the operator's proxy is none") from None
    if answer.status != 200:
        raise FailedError(f"the operator's proxy does not connect there: it answers {answer.status}")


async def _first(addresses: list[str], port: int, context: ssl.SSLContext | None = None, name: str = "") -> Pair:
    """A connection to the first address that answers; OSError when none does."""
    failed: Exception = OSError("no address")
    for address in addresses[:4]:
        try:
            async with asyncio.timeout(CONNECT_LIMIT_S):
                return await asyncio.open_connection(
                    address, port, limit=MAX_HEAD, ssl=context, server_hostname=name if context else None
                )
        except (OSError, TimeoutError) as error:
            failed = error
    raise failed


async def _context(files: tuple[str, ...]) -> ssl.SSLContext:
    """TLS with the system's authorities and those in some files; FailedError when one cannot be read."""
    try:
        return await asyncio.to_thread(_context_of, files)
    except OSError:
        raise FailedError(f"a file that {' or '.join(AUTHORITIES)} in bridge.yaml names cannot be used") from None


def _context_of(files: tuple[str, ...]) -> ssl.SSLContext:
    return _made_context(tuple((name, Path(name).stat().st_mtime_ns) for name in files))


@lru_cache(4)
def _made_context(files: tuple[tuple[str, int], ...]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    for name, _ in files:
        context.load_verify_locations(name)
    return context


async def _exchange(client: Pair, server: Pair, request: Request, head: bytes, of_gateway: bool = False) -> None:
    """Move one request and its answer. A client that goes away ends it, whether the server speaks or not."""
    server[1].write(head)
    asking = asyncio.create_task(_send_body(client[0], server[1], request.length))
    answering = asyncio.create_task(_bring_answer(server[0], client[1], of_gateway))
    try:
        await asyncio.wait({asking, answering}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done() or asking.result():
            await answering
    finally:
        asking.cancel()
        answering.cancel()
        server[1].close()


async def _send_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int | None) -> bool:
    """Pass on exactly the body; False when the client breaks off, then or later, and what it says more goes nowhere."""
    try:
        if length is None:
            await _send_chunks(reader, writer)
        else:
            await _send_exactly(reader, writer, length)
        return bool(await reader.read(1))
    except (OSError, ValueError, HeadError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return False


async def _send_exactly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int) -> None:
    while length:
        data = await reader.read(min(length, CHUNK))
        if not data:
            raise asyncio.IncompleteReadError(b"", length)
        length -= len(data)
        writer.write(data)
        await writer.drain()


async def _send_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while size := chunk_size(await reader.readuntil(b"\r\n")):
        writer.write(b"%x\r\n" % size)
        await _send_exactly(reader, writer, size)
        if await reader.readexactly(2) != b"\r\n":
            raise HeadError("a chunk has another length")
        writer.write(b"\r\n")
    if await reader.readexactly(2) != b"\r\n":
        raise HeadError("fields behind the body")
    writer.write(b"0\r\n\r\n")
    await writer.drain()


async def _bring_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, of_gateway: bool) -> None:
    """Bring the answer, and say in its head that the connection ends with it: not every server does. FailedError."""
    for _ in range(MAX_INTERIM):
        try:
            answer = Answer.parse(await reader.readuntil(b"\r\n\r\n"))
        except HeadError:
            raise FailedError("the server's answer is not understood") from None
        if answer.status == 100:
            writer.write(written(answer.line, []))
        elif answer.status == 101 or (of_gateway and answer.status // 100 == 3 and answer.status != 304):
            raise FailedError(f"the server leads elsewhere with status {answer.status}, and nobody follows")
        elif answer.status >= 200:
            fields = [(k, v) for k, v in answer.passed() if not (of_gateway and k.lower() in TELLING)]
            writer.write(written(answer.line, [*fields, (b"Connection", b"close")]))
            await _pump(reader, writer)
            return
    raise FailedError("the server comes to no answer")


async def _relay(one: Pair, other: Pair) -> None:
    """Move bytes both ways until either side has had enough."""
    tasks = [asyncio.create_task(_pump(one[0], other[1])), asyncio.create_task(_pump(other[0], one[1]))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.ALL_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.close()  # nobody listens: let the other direction end as well
