"""Network access from the namespace: a real proxy on loopback, real connections, and false DNS answers."""

from __future__ import annotations

import http.client
import http.server
import ipaddress
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bridge.server.sandbox import addresses, proxy
from bridge.server.sandbox.addresses import MAX_LOOKUPS, Lookups, is_public
from bridge.server.sandbox.http_exchange import Pair
from bridge.server.sandbox.proxy import Rules
from tests.support.proxies import Serve, fetch, serve, tunnel
from tests.support.waiting import wait_until

__all__ = ["serve"]

PUBLIC = "93.184.216.34"


class Site(http.server.BaseHTTPRequestHandler):
    """Answers with the path, or redirects: /to/HOST:PORT."""

    def do_GET(self) -> None:
        leads = self.path.startswith("/to/")
        self.send_response(302 if leads else 200)
        if leads:
            self.send_header("Location", f"http://{self.path[4:]}/inside")
        self.end_headers()
        self.wfile.write(self.path.encode())

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def site() -> Iterator[tuple[str, int]]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield "127.0.0.1", server.server_address[1]
        server.shutdown()


INSIDE = ["127.0.0.1", "localhost", "0.0.0.0", "2130706433", "0x7f.1", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1",
          "10.0.0.1", "172.17.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "fd00:ec2::254", "fe80::1",
          "224.0.0.1", "255.255.255.255", "168.63.129.16", "192.0.0.192"]  # fmt: skip


@pytest.mark.parametrize("host", INSIDE)
def test_address_that_is_not_public_is_refused(serve: Serve, site: tuple[str, int], host: str) -> None:
    proxy = serve(Rules(web=True, web_ports=frozenset({site[1]})))
    name = f"[{host}]" if ":" in host else host
    code, text = fetch(proxy, f"http://{name}:{site[1]}/hello")
    assert code in (403, 502)  # 502: this machine cannot resolve the name at all
    assert "/hello" not in text
    assert tunnel(proxy, host, site[1]) in (403, 502)


@pytest.mark.parametrize("host", ["127.0.0.1", "169.254.169.254", "10.0.0.1"])
def test_refusal_is_a_sentence(serve: Serve, host: str) -> None:
    code, text = fetch(serve(Rules(web=True)), f"http://{host}/")
    assert (code, text) == (
        502,
        f"bridge: {host} is not on the public internet; the container can be asked to fetch it\n",
    )


def answers(monkeypatch: pytest.MonkeyPatch, *turns: list[str]) -> list[list[str]]:
    """Replace the resolver by one whose answers change with each question. Returns the addresses connected to."""
    connected: list[list[str]] = []
    left = list(turns)

    def resolve(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        addresses = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in addresses]

    async def connect(addresses: list[str], port: int, *_: object) -> Pair:
        connected.append(addresses)
        raise OSError(port)

    monkeypatch.setattr(addresses, "_resolve", resolve)
    monkeypatch.setattr(proxy, "first_of", connect)
    return connected


def test_rebinding_name_is_connected_to_as_judged(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = serve(Rules(web=True))
    connected = answers(monkeypatch, [PUBLIC], ["127.0.0.1"])
    assert tunnel(proxy, "rebind.example", 443) == 502
    assert connected == [[PUBLIC]]


def test_name_with_one_address_inside_is_refused(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = serve(Rules(web=True))
    connected = answers(monkeypatch, [PUBLIC, "127.0.0.1"])
    assert tunnel(proxy, "mixed.example", 443) == 403
    assert not connected


PORTS = [21, 22, 25, 53, 111, 389, 3306, 5432, 6379, 6667, 8080, 8443, 9200, 11211]


@pytest.mark.parametrize(("web", "port"), [(False, 443), *((True, port) for port in PORTS)])
def test_public_address_is_refused_by_rule(serve: Serve, monkeypatch: pytest.MonkeyPatch, web: bool, port: int) -> None:
    proxy = serve(Rules(web=web))
    connected = answers(monkeypatch, [PUBLIC])
    assert tunnel(proxy, "public.example", port) == 403
    assert not connected


def test_refused_port_says_what_the_operator_can_set(serve: Serve) -> None:
    code, text = fetch(serve(Rules(web=True)), "http://public.example:8080/")
    wanted = "port 8080 of public.example is none of the web's; the operator can add it to web_ports in bridge.yaml"
    assert (code, text) == (502, f"bridge: {wanted}\n")


def test_port_that_the_operator_added_is_open(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    connected = answers(monkeypatch, [PUBLIC])
    assert tunnel(serve(Rules.of({}, True, [8080])), "public.example", 8080) == 502
    assert connected == [[PUBLIC]]


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
    """The address may be public for everyone else. What listens there may rely on a firewall."""
    assert addresses._is_own(ipaddress.ip_address("127.0.0.1"))
    assert not addresses._is_own(ipaddress.ip_address(PUBLIC))
    monkeypatch.setattr(addresses, "_is_own", lambda address: str(address) == PUBLIC)
    assert not is_public(PUBLIC)


def test_names_that_nobody_answers_for_keep_few_threads(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, go = [], threading.Event()

    def resolve(host: str, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        go.wait(20)
        raise OSError(host)

    monkeypatch.setattr(addresses, "_resolve", resolve)
    proxy = serve(Rules(web=True))
    before = threading.active_count()
    requests = [socket.create_connection(("127.0.0.1", proxy), 10) for _ in range(20)]
    for number, sock in enumerate(requests):
        sock.sendall(f"CONNECT n{number}.example:443 HTTP/1.1\r\n\r\n".encode())
    wait_until(lambda: len(asked) == MAX_LOOKUPS, 5, "the first names")
    assert threading.active_count() - before <= MAX_LOOKUPS
    go.set()
    assert [sock.recv(12) for sock in requests] == [b"HTTP/1.1 502"] * 20
    for sock in requests:
        sock.close()
    assert len(asked) == 20


def test_unanswered_lookups_of_a_grant_delay_no_other(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four calls of one grant ask for more names than there are threads. Another grant's name is resolved at once."""
    asked, go = [], threading.Event()

    def resolve(host: str, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        if host == "quick.example":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))]
        asked.append(host)
        go.wait(20)
        raise OSError(host)

    monkeypatch.setattr(addresses, "_resolve", resolve)
    calls = [serve(Rules.of({}, True, grant="slow")) for _ in range(4)]
    requests = []
    for number in range(32):
        requests.append(socket.create_connection(("127.0.0.1", calls[number % 4]), 10))
        requests[-1].sendall(f"CONNECT n{number}.example:443 HTTP/1.1\r\n\r\n".encode())
    wait_until(lambda: len(asked) == MAX_LOOKUPS, 5, "the first names")
    other = serve(Rules.of({}, True, grant="other"))
    with socket.create_connection(("127.0.0.1", other), 1) as sock:
        sock.settimeout(1)
        sock.sendall(b"CONNECT quick.example:443 HTTP/1.1\r\n\r\n")
        assert sock.recv(12) == b"HTTP/1.1 403"
    assert len(asked) == MAX_LOOKUPS
    go.set()
    for sock in requests:
        sock.close()


def test_look_ups_of_a_grant_are_forgotten_with_its_last_call() -> None:
    kept = Lookups.of("one")
    assert Lookups.of("one") is kept
    del kept
    assert "one" not in Lookups._of


@pytest.mark.parametrize("name", ["x.invalid", "X.INVALID", "x.invalid."])
def test_name_in_invalid_leads_nowhere(serve: Serve, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    connected = answers(monkeypatch, [PUBLIC])
    proxy = serve(Rules(web=True))
    assert (tunnel(proxy, name, 443), fetch(proxy, f"http://{name}/")[0]) == (403, 502)
    assert not connected


TWO_WAYS = {
    "bare LF": b"GET http://public.example/ HTTP/1.1\nHost: x\r\n\r\n",
    "bare LF in a field": b"GET http://public.example/ HTTP/1.1\r\nA: b\nHost: x\r\n\r\n",
    "bare CR": b"GET http://public.example/ HTTP/1.1\r\nA: b\rHost: x\r\n\r\n",
    "NUL": b"GET http://public.example/ HTTP/1.1\r\nA: b\0\r\n\r\n",
    "folded": b"GET http://public.example/ HTTP/1.1\r\nA: b\r\n c: d\r\n\r\n",
    "space before colon": b"POST http://public.example/ HTTP/1.1\r\nContent-Length : 3\r\n\r\nabc",
    "two lengths": b"POST http://public.example/ HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "same length twice": b"POST http://public.example/ HTTP/1.1\r\nContent-Length: 3, 3\r\n\r\nabc",
    "signed length": b"POST http://public.example/ HTTP/1.1\r\nContent-Length: +3\r\n\r\nabc",
    "length and coding": b"POST http://public.example/ HTTP/1.1\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "other coding": b"POST http://public.example/ HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "two codings": b"POST http://public.example/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
    b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "no version": b"GET http://public.example/\r\n\r\n",
    "version 2": b"GET http://public.example/ HTTP/2.0\r\n\r\n",
    "two spaces": b"GET  http://public.example/ HTTP/1.1\r\n\r\n",
    "space in path": b"GET http://public.example/a b HTTP/1.1\r\n\r\n",
    "own path": b"GET / HTTP/1.1\r\nHost: public.example\r\n\r\n",
    "other scheme": b"GET https://public.example/ HTTP/1.1\r\n\r\n",
    "user": b"GET http://a:b@public.example/ HTTP/1.1\r\n\r\n",
    "backslash": b"GET http://public.example\\@inside/ HTTP/1.1\r\n\r\n",
    "fragment": b"GET http://public.example/#a HTTP/1.1\r\n\r\n",
    "port 0": b"GET http://public.example:0/ HTTP/1.1\r\n\r\n",
    "no port": b"CONNECT public.example HTTP/1.1\r\n\r\n",
    "arabic port": "CONNECT public.example:٤٤٣ HTTP/1.1\r\n\r\n".encode(),
}


@pytest.mark.parametrize("text", TWO_WAYS.values(), ids=TWO_WAYS.keys())
def test_request_that_can_be_read_in_two_ways_is_refused(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, text: bytes
) -> None:
    connected = answers(monkeypatch, [PUBLIC])
    with socket.create_connection(("127.0.0.1", serve(Rules(web=True))), 10) as sock:
        sock.sendall(text)
        assert sock.recv(12) == b"HTTP/1.1 400"
    assert not connected
