"""Which rows of a table run in each gate, and which only in a complete run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import rows
from tests.support.bridge_cli import NEWEST, OLDEST

TESTS = f"""
import pytest
both = pytest.mark.parametrize("version", [{OLDEST!r}, {NEWEST!r}])
images = pytest.mark.parametrize("image", ["prod", "dev"])
table = pytest.mark.parametrize("row", [f"row{{n}}" for n in range(12)])

@both
def test_alone(version): pass

@both
@table
def test_table(version, row): pass

@both
@images
def test_square(version, image): pass

@both
@pytest.mark.every_row
@table
def test_marked(version, row): pass

@pytest.mark.parametrize("version", [{OLDEST!r}])
@table
def test_oldest_alone(version, row): pass
"""
PLUGIN = """
from tests.support import rows

def pytest_configure(config):
    config.addinivalue_line("markers", "every_row: x")

def pytest_collection_modifyitems(items):
    chosen = rows.sample(items)
    items[:] = [item for item in items if item in chosen]
"""


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The parameters of the tests that run, by function, as pytest itself collects them."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "test_x.py").write_text(TESTS)
    (folder / "conftest.py").write_text(PLUGIN)
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--rootdir", str(folder), str(folder)],
        cwd=Path(rows.__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        if "::" in line:
            name, _, values = line.partition("::")[2].rstrip("]").partition("[")
            found.setdefault(name, []).append(values)
    return found


def test_every_row_runs_with_the_newest_and_every_fifth_with_the_oldest(chosen: dict[str, list[str]]) -> None:
    newest = [values for values in chosen["test_table"] if NEWEST in values]
    oldest = [values for values in chosen["test_table"] if OLDEST in values]
    assert (len(newest), len(oldest)) == (12, 3)


def test_test_without_rows_meets_each_value(chosen: dict[str, list[str]]) -> None:
    assert sorted(chosen["test_alone"]) == sorted([OLDEST, NEWEST])
    assert sorted(map(sorted, (values.split("-") for values in chosen["test_square"]))) == sorted(
        [sorted([OLDEST, "dev"]), sorted([NEWEST, "prod"])]
    )


def test_marked_rows_and_tests_of_one_version_always_run(chosen: dict[str, list[str]]) -> None:
    assert (len(chosen["test_marked"]), len(chosen["test_oldest_alone"])) == (24, 12)
