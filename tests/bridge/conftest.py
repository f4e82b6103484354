"""Fixtures: a server per module for tests that leave it as it is, a server per test for those that do not."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.bridge_host import BridgeHost, Place, bridge_host

HostMaker = Callable[..., BridgeHost]

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def shared_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BridgeHost]:
    """A server with the fake CLI; tests make grants of their own on it."""
    with bridge_host(tmp_path_factory.mktemp("bridge")) as host:
        yield host


@pytest.fixture
def place(shared_host: BridgeHost) -> Place:
    """A fresh grant on the shared server."""
    return shared_host.grant(f"grant-{next(_NUMBERS)}")


@pytest.fixture
def host_per_test(tmp_path: Path) -> Iterator[HostMaker]:
    """Makes servers that the test may stop, kill and configure."""
    with ExitStack() as stack:

        def make(**config: object) -> BridgeHost:
            directory = tmp_path / f"host-{next(_NUMBERS)}"
            directory.mkdir()
            return stack.enter_context(bridge_host(directory, **config))

        yield make
