"""Outgoing connections: direct or through the operator's own proxy, with the server's own TLS if needed."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import ssl
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from bridge.policy.gateways import basic
from bridge.policy.http_head import Answer, HeadError, written
from bridge.server.sandbox.http_exchange import MAX_HEAD, FailedError, Pair

CONNECT_LIMIT_S = 15.0

AUTHORITIES = ("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS")
"""The operator's variables that name files with further certificate authorities for TLS."""


@dataclasses.dataclass(frozen=True)
class Upstream:
    """The operator's own proxy for outgoing connections."""

    host: str
    port: int
    tls: bool = False
    authorization: bytes = dataclasses.field(default=b"", repr=False)
    direct: tuple[str, ...] = ()
    """Targets for which it is not used, as in NO_PROXY."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Upstream | None:
        """Return the proxy that the operator's variables name; None if there is none."""
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
        """Return whether the proxy is used for a target."""
        is_local = host == "localhost" or host.startswith("127.") or host == "::1"
        return not is_local and not any(_covers(entry.lower(), host, port) for entry in self.direct)


def _covers(entry: str, host: str, port: int) -> bool:
    """Return whether an entry of NO_PROXY covers a target: `*`, a name with its subdomains, an address, or a
    network."""
    if entry == "*":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    name, _, wanted = entry.partition(":")
    name = name.removeprefix("*").removeprefix(".")
    return wanted in ("", str(port)) and bool(name) and (host == name or host.endswith(f".{name}"))


def named(host: str, port: int, usual: int = 0) -> str:
    """Return a target as one word, without its port if that is the usual one."""
    name = f"[{host}]" if ":" in host else host
    return name if port == usual else f"{name}:{port}"


async def lead(pair: Pair, upstream: Upstream, wanted: bytes) -> None:
    """Let the operator's proxy connect to a target. Raises FailedError, OSError."""
    login = [(b"Proxy-Authorization", upstream.authorization)] if upstream.authorization else []
    pair[1].write(written(b"CONNECT " + wanted + b" HTTP/1.1", [(b"Host", wanted), *login]))
    try:
        answer = Answer.parse(await pair[0].readuntil(b"\r\n\r\n"))
    except HeadError:
        raise FailedError("the operator's proxy is none") from None
    if answer.status != 200:
        raise FailedError(f"the operator's proxy does not connect there: it answers {answer.status}")


async def first_of(addresses: list[str], port: int, context: ssl.SSLContext | None = None, name: str = "") -> Pair:
    """Return a connection to the first of at most four addresses that answers. Raises OSError or TimeoutError."""
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


async def tls_context(files: tuple[str, ...]) -> ssl.SSLContext:
    """Return a TLS context with the system's authorities and those in some files. Raises FailedError if a file
    cannot be read."""
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
