"""Looks up the addresses of a name, and decides which of them belong to the public internet."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
import weakref
from typing import Any, ClassVar

MAX_LOOKUPS = 4
"""Look-ups of one grant at the same time. A name server that never answers blocks a thread, which cannot be freed."""
LOOKUP_LIMIT_S = 10.0
"""Seconds for a look-up, including the wait for a free thread."""
MAX_ADDRESSES = 16
"""Addresses of one name that are used. Each is checked on the event loop."""

_resolve = socket.getaddrinfo

_NOT_PUBLIC = tuple(map(ipaddress.ip_network, (
    "168.63.129.16/32",  # Azure's host with its metadata
    "192.0.0.0/24", "192.88.99.0/24", "3fff::/20",  # special, but public for Python 3.11
)))  # fmt: skip

_TUNNELS = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))


def is_public(address: str) -> bool:
    """Return whether an address belongs to the public internet. Addresses that contain another address do not."""
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
    """Return whether the address is this machine's own. A service that listens there may rely on a firewall, which
    does not filter local connections."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((str(address), 9))  # sends nothing; the kernel chooses the source address
        return bool(ipaddress.ip_address(sock.getsockname()[0]) == address)
    return False


class Lookups:
    """The look-ups of one grant's calls, in threads that no other grant uses.

    The names of the operator's own servers are looked up by asyncio, and do not wait for these threads.
    """

    _of: ClassVar[weakref.WeakValueDictionary[str, Lookups]] = weakref.WeakValueDictionary()

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(MAX_LOOKUPS)

    @classmethod
    def of(cls, grant: str) -> Lookups:
        """Return the look-ups of a grant. The object lives as long as a call or a look-up of the grant."""
        found = cls._of.get(grant)
        if found is None:
            found = cls._of[grant] = cls()
        return found

    async def addresses(self, host: str, port: int) -> list[str]:
        """Return the addresses of a name. Raises OSError or TimeoutError."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(LOOKUP_LIMIT_S):
            await self._turns.acquire()
            answer: asyncio.Future[list[Any]] = loop.create_future()
            # A daemon thread, unlike an executor's: the server's exit does not wait for a name server.
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
        """Handle the end of a look-up. Its thread is free again, even if no one waits for the answer."""
        self._turns.release()
        if answer.done():
            return
        if isinstance(found, Exception):
            answer.set_exception(found)
        else:
            answer.set_result(found)
