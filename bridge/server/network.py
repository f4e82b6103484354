"""The network of the CLI's namespace: one proxy of the server's, and what it connects to.

The namespace has a loopback of its own and nothing else. A listener made there is handed to the server
(bridge/server/inside.py), which answers on it as an HTTP proxy. It connects

- to the addresses that the operator named: the API, by default or in `environment`, wherever they are;
- with `network: web`, to public addresses, on any port but those of mail and remote shells.

A name is resolved here, its addresses are judged, and the connection goes to the very address that was judged: an
answer that changes a moment later changes nothing. Each redirect is a request of its own, so it is judged as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import secrets
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from bridge.server.accepting import Acceptor

PORT = 3128
"""Of the proxy, on the namespace's own loopback."""

API = ("api.anthropic.com", 443)
PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
CLOSED_PORTS = frozenset({22, 23, 25, 110, 143, 445, 465, 587, 993, 995, 2375, 2376, 3389, 6667})
"""Services that no web page is served by, and that a stranger's commands should not reach in the host's name."""

MAX_HEAD = 64 * 1024
"""Bytes of a request's head: cookies and a token, with room."""
MAX_CONNECTIONS = 64
"""Of one call: the CLI opens a handful."""
HEAD_LIMIT_S = 20.0
CONNECT_LIMIT_S = 15.0
LOOKUP_LIMIT_S = 10.0
MAX_LOOKUPS = 4
"""At once, of one call."""
MAX_INTERIM = 8
"""Heads of answers before the final one, such as 100 Continue."""
CHUNK = 64 * 1024

Target = tuple[str, int]
Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_LOOKUPS = ThreadPoolExecutor(16, thread_name_prefix="lookup")
"""Of names that nobody vouches for. The API's own are looked up elsewhere, by asyncio, and wait for none of these."""

_resolve = socket.getaddrinfo

_NOT_PUBLIC = tuple(map(ipaddress.ip_network, (
    "168.63.129.16/32",  # Azure's host, and its metadata
    "192.0.0.0/24", "192.88.99.0/24", "3fff::/20",  # special, but public to Python 3.11
)))  # fmt: skip

_TUNNELS = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))


class RefusedError(Exception):
    """The proxy does not connect there; the text is a sentence."""


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet; what hides another address inside does not."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped or found.sixtofour or found.teredo or any(found in net for net in _TUNNELS):
            return False
        if found.is_site_local:
            return False
    if any(found in net for net in _NOT_PUBLIC) or _is_own(found):
        return False
    return found.is_global and not found.is_multicast and not found.is_reserved


def _is_own(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether it is this machine's own: what listens there counts on a firewall that does not see us."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((str(address), 9))  # sends nothing; the kernel chooses the address to send from
        return bool(ipaddress.ip_address(sock.getsockname()[0]) == address)
    return False


@dataclasses.dataclass(frozen=True)
class Rules:
    """Where the CLI may go. `upstream` is the operator's own proxy, which knows the way out of here."""

    named: frozenset[Target] = frozenset({API})
    web: bool = True
    upstream: Target | None = None
    aliases: Mapping[str, Target] = dataclasses.field(default_factory=dict)
    """Names that exist for this call alone, of servers without TLS that are not public."""

    @classmethod
    def of(cls, environment: Mapping[str, str], web: bool) -> Rules:
        """The operator's variables: every one that holds an address opens this address to the CLI.

        A container can have the CLI speak to any address (a remote MCP server, a redirect). So that this leads to no
        gateway of the operator's, the CLI is told another name for it, which nobody else knows. With TLS it needs the
        real one.
        """
        proxies = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")
        urls = [value for name, value in environment.items() if name not in proxies]
        named, aliases = set(), {}
        for url in urls:
            if target := _target_of(url):
                if url.startswith("http://"):
                    aliases[f"{secrets.token_hex(16)}.invalid"] = target
                else:
                    named.add(target)
        if "ANTHROPIC_BASE_URL" not in environment:
            named.add(API)
        upstream = next((target for name in proxies if (target := _target_of(environment.get(name, "")))), None)
        return cls(frozenset(named), web, upstream, aliases)

    def disguised(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The operator's variables, with those names in the place of what they stand for."""
        names = {target: name for name, target in self.aliases.items()}
        told = {}
        for variable, value in environment.items():
            alias = names.get(_target_of(value) or ("", 0)) if value.startswith("http://") else None
            parts = urlsplit(value)
            user = parts.netloc.rpartition("@")[:2]
            told[variable] = parts._replace(netloc="".join(user) + f"{alias}:80").geturl() if alias else value
        return told


def _target_of(url: str) -> Target | None:
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        if parts.hostname and parts.scheme in PORTS:
            return parts.hostname.lower(), parts.port or PORTS[parts.scheme]
    return None


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
        self._asking = asyncio.Semaphore(MAX_LOOKUPS)
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
        reader, writer = await asyncio.open_connection(sock=accepted, limit=MAX_HEAD)
        try:
            async with asyncio.timeout(HEAD_LIMIT_S):
                head = await reader.readuntil(b"\r\n\r\n")
            await self._answer(head, reader, writer)
        except RefusedError as refusal:
            self._note("refused", network=str(refusal))
            body = f"bridge: {refusal}\n".encode()
            writer.write(b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Type: text/plain\r\n")
            writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            with contextlib.suppress(OSError):
                writer.write(b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        finally:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                writer.close()

    async def _answer(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, _, rest = head.partition(b"\r\n")
        method, _, tail = line.decode("latin-1").partition(" ")
        where, _, version = tail.rpartition(" ")
        tunnel = method == "CONNECT"
        asked = _authority(where) if tunnel else _target_of(where)
        if asked is None:
            raise RefusedError(f"{where[:80]!r} is no address")
        target = self._rules.aliases.get(asked[0], asked)
        upstream = await self._connect(target, vouched_for=target is not asked or asked in self._rules.named)
        self._note("connected", host=f"{target[0]}:{target[1]}")
        try:
            if tunnel:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                parts = urlsplit(where)
                path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                kept = [field for field in rest.split(b"\r\n") if field and not _is_of_hop(field)]
                own = [f"{method} {path} {version}".encode("latin-1"), b"Host: " + _host(*target)]
                lines = [*own, *kept, b"Connection: close", b"", b""]
                upstream[1].write(b"\r\n".join(lines))
            await (_relay if tunnel else _exchange)((reader, writer), upstream)
        finally:
            upstream[1].close()

    async def _connect(self, target: Target, vouched_for: bool) -> Pair:
        """A connection to the target, through the operator's own proxy where there is one."""
        host, port = target
        addresses = [host] if vouched_for else await self._judged(host, port)
        if self._rules.upstream is None or _is_local(host):
            return await _first(addresses, port)
        pair = await _first([self._rules.upstream[0]], self._rules.upstream[1])
        wanted = f"[{addresses[0]}]:{port}" if ":" in addresses[0] else f"{addresses[0]}:{port}"
        pair[1].write(f"CONNECT {wanted} HTTP/1.1\r\nHost: {wanted}\r\n\r\n".encode())
        answer = await pair[0].readuntil(b"\r\n\r\n")
        if b" 200" not in answer.split(b"\r\n")[0]:
            pair[1].close()
            raise RefusedError(f"the operator's proxy does not connect to {host}")
        return pair

    async def _judged(self, host: str, port: int) -> list[str]:
        """The public addresses of a host that nobody named."""
        if not self._rules.web:
            raise RefusedError(f"{host} is not the API, and this bridge's operator allows nothing else")
        if port in CLOSED_PORTS:
            raise RefusedError(f"port {port} of {host} is no service of the web")
        addresses = await self._looked_up(host, port)
        if not all(map(is_public, addresses)):
            raise RefusedError(f"{host} is not on the public internet; the container can be asked to fetch it")
        return addresses

    async def _looked_up(self, host: str, port: int) -> list[str]:
        """The addresses of a name. A name server that never answers holds a thread, so each call has but a few."""
        async with asyncio.timeout(LOOKUP_LIMIT_S):
            await self._asking.acquire()
            look_up = partial(_resolve, host, port, type=socket.SOCK_STREAM)
            answer = asyncio.get_running_loop().run_in_executor(_LOOKUPS, look_up)
            answer.add_done_callback(self._answered)
            found = await asyncio.shield(answer)
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    def _answered(self, answer: asyncio.Future[Any]) -> None:
        """Its thread is free again, whether somebody still waits or not."""
        self._asking.release()
        if not answer.cancelled():
            answer.exception()


def _authority(text: str) -> Target | None:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 0xFFFF:
        return None
    return host.strip("[]").lower(), int(port)


def _is_local(host: str) -> bool:
    return host == "localhost" or host.startswith("127.") or host == "::1"


def _is_of_hop(field: bytes) -> bool:
    name = field.partition(b":")[0].strip().lower()
    return name in (b"connection", b"host", b"keep-alive") or name.startswith(b"proxy-")


def _host(host: str, port: int) -> bytes:
    """A target as the field `Host` names it."""
    name = f"[{host}]" if ":" in host else host
    return name.encode() if port == PORTS["http"] else f"{name}:{port}".encode()


async def _first(addresses: list[str], port: int) -> Pair:
    """A connection to the first address that answers; OSError when none does."""
    failed: Exception = OSError("no address")
    for address in addresses[:4]:
        try:
            async with asyncio.timeout(CONNECT_LIMIT_S):
                return await asyncio.open_connection(address, port, limit=MAX_HEAD)
        except (OSError, TimeoutError) as error:
            failed = error
    raise failed


async def _exchange(client: Pair, server: Pair) -> None:
    """Move one request and its answer, and say in its head that the connection ends with it: not every server does."""
    request = asyncio.create_task(_pump(client[0], server[1]))
    try:
        for _ in range(MAX_INTERIM):
            status, *fields = (await server[0].readuntil(b"\r\n\r\n")).split(b"\r\n")
            is_final = status[9:10] != b"1"  # HTTP/1.1 100 Continue
            kept = [field for field in fields if field and not _is_of_hop(field)]
            closing = [b"Connection: close"] if is_final else []
            client[1].write(b"\r\n".join([status, *kept, *closing, b"", b""]))
            await client[1].drain()
            if is_final:
                await _pump(server[0], client[1])
                return
    finally:
        request.cancel()


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
