"""Checks everything that a call needs, one thing at a time, and says how to fix it."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from bridge.policy.gateways import KINDS
from bridge.policy.terms import printable
from bridge.protocol.errors import SERVE
from bridge.server.host import credentials
from bridge.server.host.claude_cli import HostCli
from bridge.server.host.config import Config
from bridge.server.host.grants import SOCKET_NAME, StateError
from bridge.server.host.state_directory import StateDirectory
from bridge.server.operator import admin_socket
from bridge.server.sandbox import bubblewrap, proxy


class Result(NamedTuple):
    """The result of one check."""

    what: str
    good: bool
    detail: str

    @property
    def line(self) -> str:
        """The result as a line of text."""
        return f"{'ok  ' if self.good else 'FAIL'} {printable(self.what)}: {printable(self.detail)}"


def examine(state: StateDirectory, chosen: Config) -> list[Result]:
    """Run all checks. A check that fails does not stop the others."""
    checks: list[Callable[[StateDirectory, Config], Iterator[Result]]] = [
        _python,
        _cli,
        _login,
        _confinement,
        _network,
        _server,
        _grants,
    ]
    results: list[Result] = []
    for check in checks:
        try:
            results += check(state, chosen)
        except (OSError, StateError) as error:
            results.append(Result(check.__name__.strip("_"), False, str(error)))
    return results


def _python(_state: StateDirectory, _chosen: Config) -> Iterator[Result]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Result("python", sys.version_info >= (3, 11), f"{version}; 3.11 or newer is needed")


def _cli(_state: StateDirectory, chosen: Config) -> Iterator[Result]:
    cli = HostCli(chosen.claude)
    asyncio.run(cli.ask())
    yield Result("claude", bool(cli.version), f"{cli.version} at {cli.find()}" if cli.version else cli.problem)


def _login(state: StateDirectory, chosen: Config) -> Iterator[Result]:
    try:
        found = credentials.find(chosen.credentials, state.token, os.environ, chosen.environment)
    except credentials.NoCredentialsError as error:
        yield Result("credentials", False, str(error))
    else:
        if found is None:
            yield Result("credentials", True, "from the environment in bridge.yaml")
        elif found.is_over and not found.is_renewable:
            yield Result("credentials", False, str(credentials.over(found)))
        else:
            problem = _renewal_problem(state)
            yield Result("credentials", not problem, f"from {found.source}; {found.lasts}{problem}")


def _renewal_problem(state: StateDirectory) -> str:
    """Return why a running server could not renew the login, as the end of a line."""
    problem = (admin_socket.ask(state, "status") or {}).get("login", {}).get("problem")
    return f"; {problem}" if problem else ""


def _confinement(_state: StateDirectory, chosen: Config) -> Iterator[Result]:
    if chosen.confinement == "none":
        text = "none, as bridge.yaml wants it: containers reach what the grant's user can reach"
        yield Result("confinement", True, text)
        return
    try:
        bubblewrap.check()
    except bubblewrap.ConfinementError as error:
        yield Result("confinement", False, str(error))
    else:
        landlock = "and Landlock closes /proc" if bubblewrap.has_landlock() else "but this kernel has no Landlock"
        yield Result("confinement", True, f"bubblewrap works, {landlock}")
        asyncio.run((cli := HostCli(chosen.claude)).ask())
        try:
            bubblewrap.refuse_what_could_be_read(chosen.environment, cli.version)
        except bubblewrap.ConfinementError as error:
            yield Result("secrets", False, str(error))


def _network(_state: StateDirectory, chosen: Config) -> Iterator[Result]:
    if chosen.confinement == "none":
        yield Result("network", True, "the host's own, since confinement is none")
        return
    rules = proxy.Rules.of(chosen.environment, chosen.network == "web", chosen.web_ports)
    if chosen.network == "web":
        ports = ", ".join(map(str, sorted(rules.web_ports)))
        yield Result(
            "network", True, f"the API, and public servers at ports {ports}; web_ports in bridge.yaml adds some"
        )
    else:
        yield Result("network", True, "the API alone; `network: web` in bridge.yaml adds public servers")
    for name in sorted(
        name for name, value in rules.disguise.environment.items() if name in KINDS and value.endswith(".invalid")
    ):
        yield Result(f"gateway {name}", True, "asked by the server; the CLI has another name for it, and no secret")
    for name in rules.authorities:
        if not os.access(name, os.R_OK):
            yield Result("certificates", False, f"{name} cannot be read; SSL_CERT_FILE or NODE_EXTRA_CA_CERTS names it")


def _server(state: StateDirectory, _chosen: Config) -> Iterator[Result]:
    answer = admin_socket.ask(state, "status")
    if answer is None:
        yield Result("server", False, f"none runs in {state.root}; start one with {SERVE}")
    else:
        yield Result("server", True, f"process {answer['pid']}, {answer['running']} running, {answer['queued']} queued")


def _grants(state: StateDirectory, _chosen: Config) -> Iterator[Result]:
    for name, grant in state.registered().items():
        if isinstance(grant, StateError):
            yield Result(f"grant {name}", False, str(grant))
            continue
        path = state.directory(name) / SOCKET_NAME
        problem = grant.problem or _unreachable(str(path))
        yield Result(f"grant {name}", not problem, problem or f"{grant.workspace}; mount {path.parent} at /host")


def _unreachable(path: str) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(path)
        except OSError as error:
            return f"{path}: {error.strerror or error}"
    return ""
