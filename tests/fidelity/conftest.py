"""One bridge and one plain home for each version of the CLI; the rows of the table that were seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fidelity import differences
from tests.fidelity.projects import PROJECTS, Project
from tests.fidelity.sides import Bridged, Plain, bridge, give
from tests.support.bridge_cli import VERSIONS, installed
from tests.support.bridge_host import BridgeHost, need_bubblewrap, passable
from tests.support.fake_messages_api import FakeMessagesApi
from tests.support.real_host import NUMBERS

SEEN: set[str] = set()
PASSED: set[str] = set()
COMPARED: list[int] = []
"""The number of facts of each call."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cli", type=Path, help="compare with this CLI instead of both supported versions")


def pytest_configure(config: pytest.Config) -> None:
    need_bubblewrap(config, "both sides run as the image's user: run `sudo bin/nox -s fidelity_tests`")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cli" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--cli")
        metafunc.parametrize("cli", [chosen] if chosen else VERSIONS, ids=str, scope="module")
    if "project" in metafunc.fixturenames:
        metafunc.parametrize("project", PROJECTS, ids=lambda project: project.name)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collect the rows that were seen, from all workers."""
    SEEN.update(str(value) for name, value in report.user_properties if name == "seen")
    if report.when == "call":
        COMPARED.extend(int(str(value)) for name, value in report.user_properties if name == "facts")
        if report.passed:
            PASSED.add(report.nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how much was compared."""
    rows = f"{len(SEEN)} rows of the table of differences were seen"
    terminalreporter.write_line(f"{sum(COMPARED):,} facts of {len(COMPARED)} calls were compared; {rows}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A row that no project needs any more is a fault of the table."""
    is_whole = len(PASSED) >= len(PROJECTS) * len(VERSIONS)
    stale = [row.what for row in (*differences.DIFFERENCES, *differences.REFUSALS) if row.what not in SEEN]
    if exitstatus == 0 and is_whole and stale and not hasattr(session.config, "workerinput"):
        print(f"\nno project shows these rows of tests/fidelity/differences.py any more: {stale}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


class Pair:
    """Makes both sides of a project."""

    def __init__(self, directory: Path, cli: Path, host: BridgeHost, api: FakeMessagesApi) -> None:
        self._directory = directory
        self._cli = cli
        self._host = host
        self._api = api

    def sides(self, project: Project, plain_api: FakeMessagesApi) -> tuple[Plain, Bridged]:
        """Make the project twice, and return both sides."""
        number = next(NUMBERS)
        workspace, home = (self._directory / f"{name}-{number}" for name in ("workspace", "home"))
        granted = self._host.directory / "workspaces" / f"grant-{number}"
        for directory in (workspace, home, granted):
            directory.mkdir(parents=True)
            give(directory)
        for directory in (workspace, granted):
            project.make(directory)
        place = self._host.grant(f"grant-{number}")  # the project is there when it is granted
        return Plain(self._cli, workspace, home, plain_api), Bridged(place, self._api)


@pytest.fixture(scope="module")
def pair(cli: Path | str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A bridge with this version of the CLI."""
    program = cli if isinstance(cli, Path) else installed(cli)
    directory = passable(tmp_path_factory.mktemp("fidelity"))
    with bridge(directory, program) as (host, api):
        yield Pair(directory, program, host, api)


@pytest.fixture
def plain_api() -> Iterator[FakeMessagesApi]:
    with FakeMessagesApi() as api:
        yield api
