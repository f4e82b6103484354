"""Runs the server in this process, from its start to the signal that ends it."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from bridge.policy.terms import printable
from bridge.server.host.config import Config
from bridge.server.host.log import LogFile
from bridge.server.host.state_directory import StateDirectory
from bridge.server.operator.admin_socket import AdminSocket
from bridge.server.server import BridgeServer


def run(state: StateDirectory, load: Callable[[], Config], log: Path | None = None) -> None:
    """Serve until TERM or INT. HUP reads configuration and grants again. `log` is a file for the server's own
    output.

    Raises StateError, ConfigError or OSError if the server cannot start.
    """
    server = BridgeServer(state, load)
    if log is not None:
        server.log = LogFile(log)
    asyncio.run(_serve(server))


async def _serve(server: BridgeServer) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    admin_socket = AdminSocket(server, server.state.root)
    await server.start()
    await admin_socket.open()
    server.refresh()  # includes grants that were made before the socket was open
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: _report_reload(server.reload()))
    for line in _summary(server):
        print(f"bridge: {printable(line)}", flush=True)
    await ended.wait()
    admin_socket.close()
    await server.stop()


def _report_reload(problem: str) -> None:
    print(f"bridge: {printable(problem or 'configuration and grants read anew')}", file=sys.stderr, flush=True)


def _summary(server: BridgeServer) -> list[str]:
    grants = ", ".join(server.grants) or "none yet; make one with `claude-bridge-server grant`"
    cli = f"Claude Code {server.cli.version}" if server.cli.version else server.cli.problem
    return [f"serving {server.state.root} with {cli}", f"grants: {grants}", "ready"]
