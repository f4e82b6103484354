"""The namespace's way out: a real proxy on loopback, real connections, and names that lie."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import http.server
import ipaddress
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bridge.server import network
from bridge.server.network import Proxy, Rules, is_public
from tests.support.waiting import wait_until

PUBLIC = "93.184.216.34"


class Site(http.server.BaseHTTPRequestHandler):
    """Answers with the path, or leads elsewhere: /to/HOST:PORT."""

    def do_GET(self) -> None:
        leads = self.path.startswith("/to/")
        self.send_response(302 if leads else 200)
        if leads:
            self.send_header("Location", f"http://{self.path[4:]}/inside")
        self.end_headers()
        self.wfile.write((self.headers["Host"] if self.path == "/host" else self.path).encode())

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def site() -> Iterator[tuple[str, int]]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield "127.0.0.1", server.server_address[1]
        server.shutdown()


Serve = Callable[[Rules], int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a proxy with rules; its port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    proxies: list[Proxy] = []

    def start(rules: Rules) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])

        async def begin() -> None:
            proxies.append(Proxy(listener, rules, lambda *_, **__: None))

        asyncio.run_coroutine_threadsafe(begin(), loop).result(5)
        return port

    async def end() -> None:
        for proxy in proxies:
            proxy.close()
        await asyncio.sleep(0.1)  # for the tasks that were cancelled

    yield start
    asyncio.run_coroutine_threadsafe(end(), loop).result(5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()


def serve_named(serve: Serve, site: tuple[str, int], web: bool = True) -> tuple[int, str]:
    """A proxy whose operator names the site as the API, and the address that the CLI is told for it."""
    environment = {"ANTHROPIC_BASE_URL": f"http://{site[0]}:{site[1]}"}
    rules = Rules.of(environment, web)
    return serve(rules), rules.disguised(environment)["ANTHROPIC_BASE_URL"]


def fetch(proxy: int, url: str, **headers: str) -> tuple[int, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": f"http://127.0.0.1:{proxy}"}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def tunnel(proxy: int, host: str, port: int) -> int:
    """The status that a CONNECT gets."""
    with socket.create_connection(("127.0.0.1", proxy), 10) as sock:
        name = f"[{host}]" if ":" in host else host
        sock.sendall(f"CONNECT {name}:{port} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        return answer.status


def test_address_that_the_operator_named_is_reached(serve: Serve, site: tuple[str, int]) -> None:
    proxy, url = serve_named(serve, site)
    assert fetch(proxy, f"{url}/hello?x=1") == (200, "/hello?x=1")
    assert tunnel(proxy, url.removeprefix("http://").removesuffix(":80"), 80) == 200


def test_address_that_the_operator_named_is_no_one_s_but_the_cli_s(serve: Serve, site: tuple[str, int]) -> None:
    """A container may know it, and have the CLI ask there: a remote MCP server, a redirect."""
    proxy, url = serve_named(serve, site)
    assert fetch(proxy, f"http://{site[0]}:{site[1]}/admin")[0] == 403
    assert fetch(proxy, f"{url}/to/{site[0]}:{site[1]}")[0] == 403


def test_name_of_the_server_is_its_own(serve: Serve, site: tuple[str, int]) -> None:
    """Also where the CLI was told another, and whatever it says itself."""
    proxy, url = serve_named(serve, site)
    assert fetch(proxy, f"{url}/host", Host="elsewhere.example") == (200, f"{site[0]}:{site[1]}")


INSIDE = ["127.0.0.1", "localhost", "0.0.0.0", "2130706433", "0x7f.1", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1",
          "10.0.0.1", "172.17.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "fd00:ec2::254", "fe80::1",
          "224.0.0.1", "255.255.255.255", "168.63.129.16", "192.0.0.192"]  # fmt: skip


@pytest.mark.parametrize("host", INSIDE)
def test_address_that_is_not_public_is_refused(serve: Serve, site: tuple[str, int], host: str) -> None:
    proxy = serve(Rules(web=True))
    name = f"[{host}]" if ":" in host else host
    code, text = fetch(proxy, f"http://{name}:{site[1]}/hello")
    assert code in (403, 502)  # 502: a name that this machine cannot resolve at all
    assert "/hello" not in text
    assert tunnel(proxy, host, site[1]) in (403, 502)


@pytest.mark.parametrize("host", ["127.0.0.1", "169.254.169.254", "10.0.0.1"])
def test_refusal_is_a_sentence(serve: Serve, host: str) -> None:
    code, text = fetch(serve(Rules(web=True)), f"http://{host}/")
    assert (code, text) == (
        403,
        f"bridge: {host} is not on the public internet; the container can be asked to fetch it\n",
    )


def test_redirect_does_not_lead_inside(serve: Serve, site: tuple[str, int]) -> None:
    proxy, url = serve_named(serve, site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        code, text = fetch(proxy, f"{url}/to/127.0.0.1:{other.server_address[1]}")
        other.shutdown()
    assert (code, "/inside" in text) == (403, False)


def answers(monkeypatch: pytest.MonkeyPatch, *turns: list[str]) -> list[list[str]]:
    """A resolver whose answers change from one question to the next; what is connected to."""
    connected: list[list[str]] = []
    left = list(turns)

    def resolve(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        addresses = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in addresses]

    async def connect(addresses: list[str], port: int) -> network.Pair:
        connected.append(addresses)
        raise OSError(port)

    monkeypatch.setattr(network, "_resolve", resolve)
    monkeypatch.setattr(network, "_first", connect)
    return connected


def test_name_that_changes_its_answer_is_connected_to_as_it_was_judged(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve(Rules(web=True))
    connected = answers(monkeypatch, [PUBLIC], ["127.0.0.1"])
    assert tunnel(proxy, "rebind.example", 443) == 502
    assert connected == [[PUBLIC]]


def test_name_with_one_address_inside_is_refused(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = serve(Rules(web=True))
    connected = answers(monkeypatch, [PUBLIC, "127.0.0.1"])
    assert tunnel(proxy, "mixed.example", 443) == 403
    assert not connected


@pytest.mark.parametrize(("web", "port"), [(False, 443), (True, 22), (True, 25)])
def test_public_address_is_refused_by_rule(serve: Serve, monkeypatch: pytest.MonkeyPatch, web: bool, port: int) -> None:
    proxy = serve(Rules(web=web))
    connected = answers(monkeypatch, [PUBLIC])
    assert tunnel(proxy, "public.example", port) == 403
    assert not connected


def test_operator_s_proxy_is_told_the_address_that_was_judged(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = serve(Rules.of({"HTTPS_PROXY": "http://proxy.example:8080"}, web=True))
    connected = answers(monkeypatch, [PUBLIC])
    tunnel(proxy, "public.example", 443)
    assert connected == [["proxy.example"]]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        (PUBLIC, True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        *((host, False) for host in INSIDE),
        ("2002:7f00:1::", False),
        ("2001:0:4136:e378::", False),
        ("fec0::1", False),
        ("", False),
    ],
)
def test_public(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_address_of_this_machine_s_own_is_not_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is public for everyone else: what listens there may count on a firewall."""
    assert network._is_own(ipaddress.ip_address("127.0.0.1"))
    assert not network._is_own(ipaddress.ip_address(PUBLIC))
    monkeypatch.setattr(network, "_is_own", lambda address: str(address) == PUBLIC)
    assert not is_public(PUBLIC)


def test_client_that_keeps_connections_is_told_that_this_one_ends(serve: Serve, site: tuple[str, int]) -> None:
    """A server need not say so. Without it the client's next request meets a connection that closes."""
    port, url = serve_named(serve, site, web=False)
    proxy = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for path in ("/first", "/second"):
        proxy.request("GET", url + path)
        answer = proxy.getresponse()
        assert (answer.read().decode(), answer.getheader("Connection")) == (path, "close")
    proxy.close()


def test_server_that_never_comes_to_an_answer_is_left(serve: Serve) -> None:
    """It could fill memory with heads that announce another one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy, url = serve_named(serve, listener.getsockname())
        with socket.create_connection(("127.0.0.1", proxy), 10) as sock:
            sock.sendall(f"GET {url}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            accepted, _ = listener.accept()
            with accepted, contextlib.suppress(OSError):
                for _ in range(10_000):
                    accepted.sendall(b"HTTP/1.1 100 Continue\r\nX: " + b"x" * 10_000 + b"\r\n\r\n")
            received = 0
            while data := sock.recv(65536):
                received += len(data)
    assert received < 20 * 10_000


def test_names_that_nobody_answers_for_keep_few_threads(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, go = [], threading.Event()

    def resolve(host: str, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        go.wait(20)
        raise OSError(host)

    monkeypatch.setattr(network, "_resolve", resolve)
    proxy = serve(Rules(web=True))
    before = threading.active_count()
    requests = [socket.create_connection(("127.0.0.1", proxy), 10) for _ in range(20)]
    for number, sock in enumerate(requests):
        sock.sendall(f"CONNECT n{number}.example:443 HTTP/1.1\r\n\r\n".encode())
    wait_until(lambda: len(asked) == network.MAX_LOOKUPS, 5, "the first names")
    assert threading.active_count() - before <= network.MAX_LOOKUPS
    go.set()
    assert [sock.recv(12) for sock in requests] == [b"HTTP/1.1 502"] * 20
    for sock in requests:
        sock.close()
    assert len(asked) == 20
