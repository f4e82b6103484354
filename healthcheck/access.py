"""Who may read details: this container itself and its host, when they ask by one of its own names.

A Host header alone proves nothing, because a program can write anything into it. But it stops pages in a browser: they
cannot choose it, although their own name may resolve to this address. The peer's address alone does not stop them. So
both are needed:

    peer      loopback; the address that it connected to (this container asks itself); the default gateway, which is
              the host on Docker's networks: connections to a port mapped to 127.0.0.1 of the host come from there
    Host      loopback, the container's own name, AGENT_NAME, the address that the peer connected to

A name in HEALTH_ALLOWED_HOSTS was allowed by the operator, and is enough for any peer.
"""

from __future__ import annotations

import contextlib
import re
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?")
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
IPV4_MAPPED = b"\0" * 10 + b"\xff\xff"
IPV6_ANY = "0" * 32


@dataclass(frozen=True)
class Client:
    """Both ends of a connection, as addresses in their usual form."""

    peer: str
    own: str


NOBODY = Client("", "")


class Access:
    """Decides who may read details."""

    def __init__(self, own_names: tuple[str, ...], allowed: frozenset[str], proc: Path = Path("/proc/net")) -> None:
        self._own = LOOPBACK | {host_name(name) for name in own_names}
        self._allowed = allowed
        self._proc = proc

    def may_see(self, host: str, client: Client) -> bool:
        """Say whether a request with this Host header (empty: it has none) gets more than the bare state."""
        name = host_name(without_port(host))
        if not name:
            return False
        if name in self._allowed:
            return True
        if name not in self._own and name != client.own:
            return False
        return is_inside(client) or client.peer in gateways(self._proc, ipv6=":" in client.peer)


def ends(peer: tuple[Any, ...] | None, own: tuple[Any, ...] | None) -> Client:
    """Return both ends of a connection from its two socket addresses; NOBODY when it is closed already."""
    return Client(host_name(peer[0]), host_name(own[0])) if peer and own else NOBODY


def is_inside(client: Client) -> bool:
    """Say whether the peer shares this container's network."""
    return bool(client.peer) and (client.peer in (client.own, "::1") or client.peer.startswith("127."))


def without_port(host: str) -> str:
    """Return the name in a Host header."""
    found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(:[0-9]*)?", host.strip())
    return found[1] if found else ""


def host_name(text: str) -> str:
    """Return a name or address in the form used for comparison; empty when it is neither."""
    text = text.lower().removesuffix(".")
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, ValueError):  # ignored because it is no address of this family
            return _address(socket.inet_pton(family, bare))
    return text if NAME.fullmatch(text) else ""


def _address(packed: bytes) -> str:
    """Return an address as text. An IPv4 address that a dual-stack socket shows as IPv6 becomes plain IPv4."""
    if len(packed) == 16 and packed.startswith(IPV4_MAPPED):
        packed = packed[len(IPV4_MAPPED) :]
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def gateways(proc: Path = Path("/proc/net"), *, ipv6: bool = False) -> set[str]:
    """Return the addresses of the default gateways. They are read for each request, because networks may change."""
    return _ipv6_gateways(proc) if ipv6 else _ipv4_gateways(proc)


def _ipv4_gateways(proc: Path) -> set[str]:
    found = set()
    for fields in _rows(proc / "route")[1:]:
        if fields[1] == "00000000" and fields[7] == "00000000" and fields[2] != "00000000":
            found.add(_address(int(fields[2], 16).to_bytes(4, sys.byteorder)))  # printed in this machine's byte order
    return found


def _ipv6_gateways(proc: Path) -> set[str]:
    found = set()
    for fields in _rows(proc / "ipv6_route"):
        if fields[0] == IPV6_ANY and fields[1] == "00" and fields[4] != IPV6_ANY:
            found.add(_address(bytes.fromhex(fields[4])))
    return found


def _rows(path: Path) -> list[list[str]]:
    try:
        return [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return []  # ignored because this network does not exist here
