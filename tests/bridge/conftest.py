"""Fixtures: one server per module for tests that do not change it, one server per test for those that do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import docker
import docker.errors
import pytest

from pipeline.build.image import REPOSITORY, VARIANTS
from tests.support import rows
from tests.support.bridge_cli import NEWEST, VERSIONS
from tests.support.bridge_host import BridgeHost, HostMaker, Place, bridge_host, need_bubblewrap
from tests.support.fake_messages_api import echo
from tests.support.real_host import NUMBERS, RealHost, real_server

pytest_plugins = ["tests.support.fixtures", "tests.support.attacks"]


@pytest.fixture(scope="module")
def shared_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BridgeHost]:
    """A server with the fake CLI. Tests make their own grants on it."""
    with bridge_host(tmp_path_factory.mktemp("bridge")) as host:
        yield host


@pytest.fixture
def place(shared_host: BridgeHost) -> Place:
    """A new grant on the shared server."""
    return shared_host.grant(f"grant-{next(NUMBERS)}")


@pytest.fixture
def host_per_test(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostMaker]:
    """Makes servers that the test may stop, kill and configure."""
    with ExitStack() as stack:

        def make(**config: object) -> BridgeHost:
            directory = tmp_path_factory.mktemp("host")  # not tmp_path: a socket's path has at most 107 bytes
            return stack.enter_context(bridge_host(directory, **config))

        yield make


@pytest.fixture(scope="module", params=VERSIONS)
def real_host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealHost]:
    """One server for each version of the CLI."""
    with real_server(tmp_path_factory.mktemp("real"), request.param) as host:
        yield host


@pytest.fixture(scope="module")
def newest_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealHost]:
    """One server with the newest CLI."""
    with real_server(tmp_path_factory.mktemp("newest"), NEWEST) as host:
        yield host


@pytest.fixture
def real(real_host: RealHost) -> RealHost:
    """The same server for one test. Its API has no recorded requests and repeats what it is sent."""
    real_host.api.part = echo
    real_host.api.requests.clear()
    return real_host


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--repository", default=REPOSITORY, help="test the images of this name")
    complete = "all rows with all versions and both images, ten renewals of a login, the use of 200 calls"
    parser.addoption("--complete", action="store_true", help=complete)


def pytest_configure(config: pytest.Config) -> None:
    need_bubblewrap(
        config, "the bridge's tests give workspaces to the image's user: run `sudo bin/nox -s bridge_tests`"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the rows that only a complete run has (tests/support/rows.py)."""
    if not config.getoption("--complete") and not any("::" in word for word in config.args):
        chosen = rows.sample(items)
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = [item for item in items if item in chosen]


@pytest.fixture(scope="module", params=list(VARIANTS))
def image(request: pytest.FixtureRequest) -> str:
    """The image of a variant. Without it no test can run."""
    reference = f"{request.config.getoption('--repository')}:{VARIANTS[request.param].tag}"
    client = docker.from_env()
    try:
        client.images.get(reference)
    except docker.errors.ImageNotFound:
        pytest.exit(f"image {reference} is missing; run `bin/invoke build.{request.param}`", 1)
    finally:
        client.close()
    return reference
