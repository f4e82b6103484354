"""The image under test, chosen on the command line, and one live container of it that tests do not change."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import docker
import docker.errors
import pytest
import testinfra
from docker.models.containers import Container
from testinfra.host import Host

from pipeline.bootstrap import engine
from pipeline.build.image import VARIANTS
from pipeline.errors import Problem
from tests.support.containers import compose_project

LONG = ("test_examples", "test_other_engines", "test_engine_restart", "test_clone", "test_fleet")
"""Modules with few tests that take a minute: they build or copy an image, or start several agents."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--variant", choices=list(VARIANTS), default="prod", help="which image to test")
    parser.addoption("--image", help="test this image instead of the variant's local one")
    parser.addoption(
        "--complete",
        action="store_true",
        help="ask a plain Task Master about all cases, and record it",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests of the other variant. Begin with the modules that take long, so that none is alone at the end."""
    chosen = config.getoption("--variant")
    foreign = [item for item in items if any(mark.args[0] != chosen for mark in item.iter_markers("variant"))]
    config.hook.pytest_deselected(items=foreign)
    items[:] = [item for item in items if item not in foreign]
    sizes = Counter(item.path.stem for item in items)

    def turn(item: pytest.Item) -> tuple[int, int, str]:
        name = item.path.stem
        return LONG.index(name) if name in LONG else len(LONG), -sizes[name], name

    items.sort(key=turn)


@pytest.fixture(scope="session")
def variant(pytestconfig: pytest.Config) -> str:
    return str(pytestconfig.getoption("--variant"))


@pytest.fixture(scope="session")
def client() -> Iterator[docker.DockerClient]:
    try:
        with engine.connected() as connected:
            yield connected
    except Problem as problem:
        pytest.exit(str(problem), 1)


@pytest.fixture(scope="session")
def image(pytestconfig: pytest.Config, client: docker.DockerClient, variant: str) -> str:
    """The reference of the image under test. Without it no test can run."""
    reference = str(pytestconfig.getoption("--image") or VARIANTS[variant].reference)
    try:
        client.images.get(reference)
    except docker.errors.ImageNotFound:
        pytest.exit(f"image {reference} is missing; run `bin/invoke build.{variant}`", 1)
    return reference


@pytest.fixture(scope="module")
def shared_agent(client: docker.DockerClient, image: str, variant: str) -> Iterator[Container]:
    """One healthy container of compose.yaml that a module's tests do not change."""
    project = compose_project(image, variant)
    try:
        project.up()
        container = project.container(client)
        assert container
        yield container
    finally:
        project.remove()


@pytest.fixture(scope="module")
def host(shared_agent: Container) -> Host:
    """The shared container as testinfra sees it, as the agent's user."""
    return testinfra.get_host(f"docker://{shared_agent.id}")


@pytest.fixture(scope="module")
def manifest(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.file("/usr/share/magents/manifest.json").content_string)
    return found
