"""The namespace's proxy on loopback, and requests through it. Test modules import `serve`, a fixture."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from bridge.server.activity import Activity
from bridge.server.gate import Gate
from bridge.server.sandbox.proxy import Proxy, Rules

Serve = Callable[[Rules], int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a proxy with rules. Returns its port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    proxies: list[Proxy] = []

    def start(rules: Rules) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])

        async def begin() -> None:
            proxies.append(Proxy(listener, rules, lambda *_, **__: None, Gate(Activity())))

        asyncio.run_coroutine_threadsafe(begin(), loop).result(5)
        return port

    async def end() -> None:
        for each in proxies:
            each.close()
        cancelled = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*cancelled, return_exceptions=True)

    yield start
    asyncio.run_coroutine_threadsafe(end(), loop).result(5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()


def fetch(proxy: int, url: str, **headers: str) -> tuple[int, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": f"http://127.0.0.1:{proxy}"}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def tunnel(proxy: int, host: str, port: int) -> int:
    """Return the status code that a CONNECT gets."""
    with socket.create_connection(("127.0.0.1", proxy), 10) as sock:
        name = f"[{host}]" if ":" in host else host
        sock.sendall(f"CONNECT {name}:{port} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        return answer.status
