"""What every test of publishing needs: the engine, the built images, and a registry."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from pipeline.bootstrap import engine
from pipeline.build.image import VARIANTS
from pipeline.errors import Problem
from pipeline.files import ROOT
from pipeline.release import test_records
from tests.support.registry import Registry, registry

Invoke = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def client() -> Iterator[docker.DockerClient]:
    try:
        with engine.connected() as connected:
            yield connected
    except Problem as problem:
        pytest.exit(str(problem), 1)


@pytest.fixture(scope="session")
def images(client: docker.DockerClient) -> dict[str, str]:
    """The ids of the built images by variant. They must have passed their tests."""
    found = {}
    for name, variant in VARIANTS.items():
        try:
            found[name] = test_records.identity(client, variant)
        except Problem as problem:
            pytest.exit(str(problem), 1)
        if not test_records.passed(variant, found[name]):
            pytest.exit(f"{variant.reference} has not passed its tests; run `bin/nox -s image_tests` first", 1)
    return found


@pytest.fixture
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty configuration of Docker's command, so that logins of a test stay in the test."""
    folder = tmp_path / "docker-config"
    folder.mkdir()
    plugins = Path(os.environ.get("DOCKER_CONFIG", Path.home() / ".docker")) / "cli-plugins"
    if plugins.is_dir():
        (folder / "cli-plugins").symlink_to(plugins)
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    return folder


@pytest.fixture(scope="session")
def shared_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry without a password. It keeps what earlier tests pushed."""
    with registry(tmp_path_factory.mktemp("shared-registry")) as running:
        yield running


@pytest.fixture
def private_registry(tmp_path: Path) -> Iterator[Registry]:
    """An empty registry with basic authentication."""
    with registry(tmp_path / "registry", password=True) as running:
        yield running


@pytest.fixture
def no_names_left(client: docker.DockerClient) -> Iterator[None]:
    """Remove every name that a test gave an image."""
    yield
    for image in client.images.list():
        for name in image.tags:
            if name.startswith("localhost:"):
                client.images.remove(name, noprune=True)


@pytest.fixture
def invoke(docker_config: Path, no_names_left: None) -> Invoke:
    """Run `bin/invoke …` as a person does. Returns the completed process."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(ROOT / "bin" / "invoke"), *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)

    return run
