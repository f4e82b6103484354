"""The fixture `agents`: live containers for one test. Modules that use it name this plugin in `pytest_plugins`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.cleanup import remove_orphans
from tests.support.containers import Agents

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember failures, so that fixtures can show logs."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture(scope="session")
def no_leftovers() -> None:
    """Remove what crashed runs left behind."""
    remove_orphans()


@pytest.fixture
def agents(image: str, no_leftovers: None, request: pytest.FixtureRequest) -> Iterator[Agents]:
    """Make containers for this test alone. Their logs are checked at the end."""
    made = Agents(image)
    yield made
    made.close(show=request.node.stash.get(FAILED, False))
