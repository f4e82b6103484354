"""One bridge and one plain home for each version of the CLI; the rows of the table that were seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fidelity import differences, record
from tests.fidelity.projects import PROJECTS, Project
from tests.fidelity.sides import Bridged, Plain, bridge, give
from tests.support.bridge_cli import OLDEST, VERSIONS, installed, version_of
from tests.support.bridge_host import BridgeHost, need_bubblewrap, passable
from tests.support.fake_messages_api import FakeMessagesApi
from tests.support.real_host import NUMBERS

SEEN: set[str] = set()
PASSED: set[str] = set()
COMPARED: list[int] = []
"""The number of facts of each call."""
ROWS: dict[str, dict[str, record.Row]] = {}
"""The rows for the record, by version and project."""
PLAIN: list[str] = []
"""The tests in which the plain CLI ran."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cli", type=Path, help="compare with this CLI instead of both supported versions")
    parser.addoption(
        "--complete", action="store_true", help="run both CLIs and the plain one in all projects; write record.json"
    )


def pytest_configure(config: pytest.Config) -> None:
    need_bubblewrap(config, "both sides run as the image's user: run `sudo bin/nox -s fidelity_tests`")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cli" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--cli")
        metafunc.parametrize("cli", [chosen] if chosen else VERSIONS, ids=str, scope="module")
    if "project" in metafunc.fixturenames:
        metafunc.parametrize("project", PROJECTS, ids=lambda project: project.name)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only a complete run has: the oldest CLI in projects in which the plain one does not run either."""
    if not config.getoption("--complete") and not any("::" in word for word in config.args):
        left_out = [item for item in items if _is_for_a_complete_run(item)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _is_for_a_complete_run(item: pytest.Item) -> bool:
    values: dict[str, Any] = (
        item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    )
    return values.get("cli") == OLDEST and values["project"] in _left_out()


def _left_out() -> list[Project]:
    """Return the projects that the oldest CLI meets only in a complete run."""
    return [project for project in PROJECTS if not is_in_turn(project, OLDEST)]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collect the rows that were seen, from all workers."""
    SEEN.update(str(value) for name, value in report.user_properties if name == "seen")
    if report.when == "call":
        found: dict[str, Any] = dict(report.user_properties)
        if report.passed:
            PASSED.add(report.nodeid)
            COMPARED.extend(found["facts"])
            version, project, row = found["row"]
            ROWS.setdefault(version, {})[project] = row
            if found["plain"]:
                PLAIN.append(report.nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how much was compared."""
    rows = f"{len(SEEN)} rows of the table of differences were seen"
    terminalreporter.write_line(f"{sum(COMPARED):,} facts of {len(COMPARED)} calls were compared; {rows}")
    terminalreporter.write_line(f"the plain CLI ran in {len(PLAIN)} of {len(PASSED)} projects, the others are recorded")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A row that no project needs any more is a fault of the table. A complete run writes the record."""
    is_complete = session.config.getoption("--complete")
    recorded = {} if is_complete else {project.name: record.find(OLDEST, project.name) for project in _left_out()}
    is_whole = all(recorded.values()) and len(PASSED) >= len(PROJECTS) * len(VERSIONS) - len(recorded)
    known = SEEN.union(*(record.seen(row) for row in recorded.values() if row))
    stale = [row.what for row in (*differences.DIFFERENCES, *differences.REFUSALS) if row.what not in known]
    if exitstatus == 0 and is_whole and stale and not hasattr(session.config, "workerinput"):
        print(f"\nno project shows these rows of tests/fidelity/differences.py any more: {stale}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if exitstatus == 0 and is_whole and is_complete:
        record.write(ROWS)


def is_in_turn(project: Project, version: str) -> bool:
    """Say whether a project is of the fifth in which the plain CLI always runs. Each version has others."""
    return (PROJECTS.index(project) + sum(map(ord, version))) % record.EVERY == 0


class Pair:
    """Makes both sides of a project. `version` is the CLI's, and `is_complete` says that all projects run plain."""

    def __init__(self, directory: Path, cli: Path, host: BridgeHost, apis: tuple[FakeMessagesApi, FakeMessagesApi]):
        self.version = version_of(cli)
        self._directory = directory
        self._cli = cli
        self._host = host
        self._plain_api, self._api = apis
        self.is_complete = False

    def is_always_plain(self, project: Project) -> bool:
        """Return whether the plain CLI runs in a project whatever the record says."""
        return self.is_complete or is_in_turn(project, self.version)

    def plain(self, project: Project) -> Plain:
        """Make the project for the plain CLI, with a home of its own."""
        number = next(NUMBERS)
        workspace, home = (self._directory / f"{name}-{number}" for name in ("workspace", "home"))
        self._make(project, workspace, home)
        return Plain(self._cli, workspace, home, self._plain_api)

    def bridged(self, project: Project) -> Bridged:
        """Make the project, and grant it then."""
        number = next(NUMBERS)
        granted = self._host.directory / "workspaces" / f"grant-{number}"
        self._make(project, granted)
        return Bridged(self._host.grant(f"grant-{number}"), self._api)

    @staticmethod
    def _make(project: Project, workspace: Path, *others: Path) -> None:
        for directory in (workspace, *others):
            directory.mkdir(parents=True)
            give(directory)
        project.make(workspace)


@pytest.fixture(scope="module")
def pair(cli: Path | str, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Pair]:
    """A bridge with this version of the CLI."""
    program = cli if isinstance(cli, Path) else installed(cli)
    directory = passable(tmp_path_factory.mktemp("fidelity"))
    with bridge(directory, program) as (host, api), FakeMessagesApi() as plain_api:
        made = Pair(directory, program, host, (plain_api, api))
        made.is_complete = isinstance(cli, Path) or bool(pytestconfig.getoption("--complete"))
        yield made
