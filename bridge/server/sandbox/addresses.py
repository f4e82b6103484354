"""Which addresses a name has, and which of them belong to the public internet."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
import weakref
from typing import Any, ClassVar

MAX_LOOKUPS = 4
"""At once, of one grant: a name server that never answers holds a thread, and nobody can take it back."""
LOOKUP_LIMIT_S = 10.0
"""Also for the wait for one of those."""
MAX_ADDRESSES = 16
"""Of one name: each is judged, on the one loop."""

_resolve = socket.getaddrinfo

_NOT_PUBLIC = tuple(map(ipaddress.ip_network, (
    "168.63.129.16/32",  # Azure's host, and its metadata
    "192.0.0.0/24", "192.88.99.0/24", "3fff::/20",  # special, but public to Python 3.11
)))  # fmt: skip

_TUNNELS = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))


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


class Lookups:
    """The look-ups of one grant's calls, in threads that no other grant needs.

    The names of the operator's own servers are looked up elsewhere, by asyncio, and wait for none of these.
    """

    _of: ClassVar[weakref.WeakValueDictionary[str, Lookups]] = weakref.WeakValueDictionary()

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(MAX_LOOKUPS)

    @classmethod
    def of(cls, grant: str) -> Lookups:
        """The grant's own, which lives as long as a call or a look-up of the grant's."""
        found = cls._of.get(grant)
        if found is None:
            found = cls._of[grant] = cls()
        return found

    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of a name; OSError or TimeoutError."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(LOOKUP_LIMIT_S):
            await self._turns.acquire()
            answer: asyncio.Future[list[Any]] = loop.create_future()
            # A daemon, as those of an executor are not: the server's end waits for no name server.
            thread = threading.Thread(target=self._look_up, args=(loop, answer, host, port), name="lookup", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self._turns.release()
                raise OSError(str(error)) from None
            found = await answer
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))[:MAX_ADDRESSES]

    def _look_up(
        self, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[list[Any]], host: str, port: int
    ) -> None:
        found: list[Any] | Exception
        try:
            found = _resolve(host, port, type=socket.SOCK_STREAM)
        except (OSError, ValueError) as error:
            found = error
        with contextlib.suppress(RuntimeError):  # ignored because the loop is closed: the server has ended
            loop.call_soon_threadsafe(self._answered, answer, found)

    def _answered(self, answer: asyncio.Future[list[Any]], found: list[Any] | Exception) -> None:
        """Its thread is free again, whether somebody still waits or not."""
        self._turns.release()
        if answer.done():
            return
        if isinstance(found, Exception):
            answer.set_exception(found)
        else:
            answer.set_result(found)
