"""`network`: the certificates and proxies that the container has from its host can be used. Nothing is connected."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from healthcheck.check import PASS, WARN, Check, Finding
from healthcheck.probe import Probe
from healthcheck.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from healthcheck.facts import AgentFacts, Certificates

EVERY_S, DEADLINE_S = 30.0, 2.0

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
FILES = (
    "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT",
)  # fmt: skip


class NetworkCheck(Check):
    """Warns about certificates that cannot be read, and proxies that cannot be reached from a container."""

    name = "network"

    def __init__(self, certificates: Callable[[], Certificates]) -> None:
        look = partial(Worker().call, certificates)
        self._probe = Probe(self.name, look, every_s=EVERY_S, deadline_s=DEADLINE_S)
        self.probes = (self._probe,)

    def evaluate(self, agent: AgentFacts) -> Finding:
        """Return what the container has from its host, or what cannot work and what to do."""
        seen = self._probe.last
        if seen.value is None:
            return Finding(WARN, seen.why_missing, seen.age_s)
        problems = [*filter(None, [seen.value.problem]), *missing_files(os.environ), *proxy_problems(os.environ)]
        if problems:
            return Finding(WARN, "; ".join(problems), seen.age_s)
        used = {place(value): None for name, value in proxies(os.environ).items() if name != "NO_PROXY"}
        added = seen.value.added
        words = f"{added} certificate{'s' * (added != 1)} of the host's" if added else "the system's certificates"
        return Finding(PASS, f"{words}, {'proxy ' + ', '.join(used) if used else 'no proxy'}", seen.age_s)

    def details(self) -> dict[str, Any]:
        """Return the proxies, without names and passwords, and the number of the host's certificates."""
        seen = self._probe.last.value
        shown = {name: value if name == "NO_PROXY" else place(value) for name, value in proxies(os.environ).items()}
        return {"network": {"certificates": seen.added if seen else None, "proxies": shown}}


def proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of proxies that have a value, by their name in capitals."""
    found = {name: environ.get(name) or environ.get(name.lower()) or "" for name in (*PROXIES, "NO_PROXY")}
    return {name: value for name, value in found.items() if value}


def missing_files(environ: Mapping[str, str]) -> list[str]:
    """Return a sentence for each variable that names a file of certificates which is not there."""
    named = {name: environ[name] for name in FILES if environ.get(name)}
    return [
        f"{name} names {path}, which is no file in this container; mount it, or leave the variable out"
        for name, path in named.items()
        if not Path(path).is_file()
    ]


def proxy_problems(environ: Mapping[str, str]) -> list[str]:
    """Return what cannot work with the proxies, and what to do."""
    found = proxies(environ)
    excepted = {host.strip() for host in found.pop("NO_PROXY", "").split(",")}
    problems = [
        f"{name} is {place(value)}, which is this container and not the host; let the proxy listen on an address that "
        "containers reach, such as Docker's bridge, and name that"
        for name, value in found.items()
        if is_loopback(value)
    ]
    has_address = bool(excepted & {"127.0.0.1", "127.0.0.0/8", "127.0.0.1/32"})
    if found and not (has_address and "localhost" in excepted) and "*" not in excepted:
        words = (
            "NO_PROXY lacks localhost or 127.0.0.1, so the proxy is asked for this container's own servers; add both"
        )
        problems.append(words)
    return problems


def place(proxy: str) -> str:
    """Return the address of a proxy, without the name and the password that its URL may hold."""
    scheme, separator, rest = proxy.partition("://") if "://" in proxy else ("", "", proxy)
    return f"{scheme}{separator}{rest.rpartition('@')[2].partition('/')[0]}"


def is_loopback(proxy: str) -> bool:
    """Say whether a proxy's address means the container itself."""
    address = place(proxy).rpartition("://")[2].lower()
    host = address[1:].partition("]")[0] if address.startswith("[") else address.partition(":")[0]
    is_own = host.startswith("127.") and host.replace(".", "").isdigit()
    return is_own or host in ("localhost", "::1", "0.0.0.0")  # noqa: S104 - a name, not a listener
