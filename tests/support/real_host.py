"""A bridge server with a real CLI and our own Messages API."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.bridge_cli import installed
from tests.support.bridge_host import BridgeHost, Place, bridge_host
from tests.support.fake_messages_api import FakeMessagesApi

NUMBERS = itertools.count(1)


class RealHost:
    """A server with a real CLI and our own Messages API."""

    def __init__(self, host: BridgeHost, api: FakeMessagesApi, cli: str) -> None:
        self.host = host
        self.api = api
        self.cli = cli

    def place(self, *shares: str) -> Place:
        """Make a new grant."""
        return self.host.grant(f"grant-{next(NUMBERS)}", *shares)


@contextmanager
def real_server(directory: Path, version: str, **more: Any) -> Iterator[RealHost]:
    """Run a server with a real CLI and its API. `more` is for bridge.yaml."""
    with FakeMessagesApi() as api:
        environment = {"ANTHROPIC_BASE_URL": api.url, "CLAUDE_CODE_MAX_RETRIES": "0", **more.pop("environment", {})}
        config = {"claude": str(installed(version)), "environment": environment, **more}
        with bridge_host(directory, **config) as host:
            yield RealHost(host, api, str(installed(version)))
