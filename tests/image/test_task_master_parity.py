"""The image's Task Master does what a plain install does: the same output, exit code and files."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.support import parity, task_master
from tests.support.task_master import Outcome, Side
from tests.support.task_master_cases import Case

Pair = tuple[Future[Outcome], Future[Outcome]]

OUTCOMES = task_master.ROOT / ".cache" / "task-master-outcomes"

NORMALISED: list[tuple[str, str]] = [
    # The time of the run, which Task Master writes into files. Times given by the test are of 2026-01-01 and stay.
    (r"(?!2026-01-01)20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<now>"),
    # The same in texts for people: "aliases added on 11/24/2026". The date given by the test is 1/1/2026.
    (r"\b(?!1/1/2026)\d\d?/\d\d?/20\d\d\b", "<today>"),
    # The program's own path, in the message about a package that neither side has.
    (
        r"/opt/upstream/node_modules/task-master-ai/dist/[\w.-]+|/usr/local/lib/task-master/lib/task-master\.cjs",
        "<program>",
    ),
]


@pytest.fixture(scope="session")
def upstream_task_master(image: str) -> Path:
    return task_master.install_upstream(image)


@pytest.fixture(scope="module")
def pairs(image: str, upstream_task_master: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[Case], Pair]]:
    """Return the outcomes of a case on both sides. All chosen cases start at once, one for each processor."""
    items = [item for item in request.session.items if item.path == request.node.path]
    chosen = [item.callspec.params["case"] for item in items if hasattr(item, "callspec")]
    forget_other_locks()
    with (
        # Both sides get the same defaults for a project without a configuration, and none that is broken.
        # tests/bridge/test_task_master.py tests the image's own defaults.
        task_master.side(image, shared=task_master.DEFAULTS) as bundled,
        task_master.side(image, upstream_task_master) as upstream,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        node = upstream.say("node", "--version")
        under_way = {
            case.name: (pool.submit(remembered, upstream, case, node), pool.submit(outcome, bundled, case))
            for case in chosen
        }
        yield lambda case: under_way[case.name]
        pool.shutdown(cancel_futures=True)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Compare all cases for a new lock or edit, and otherwise one case of each command."""
    if "case" in metafunc.fixturenames:
        cases = parity.chosen(bool(metafunc.config.getoption("--complete")))
        metafunc.parametrize("case", cases, ids=lambda case: case.name)


def test_does_what_upstream_does(pairs: Callable[[Case], Pair], case: Case) -> None:
    upstream, bundled = (future.result() for future in pairs(case))
    difference = list(difflib.unified_diff(shown(upstream), shown(bundled), "upstream", "bundled", lineterm=""))
    assert not difference, "\n".join(difference)


def outcome(side: Side, case: Case) -> Outcome:
    """Run a case and normalise its outcome."""
    found = side.run(case)
    if case.dialogue:
        found = replace(found, stdout=answers_first(found.stdout))
    text = json.dumps(asdict(found))
    for pattern, replacement in NORMALISED:
        text = re.sub(pattern, replacement, text)
    return Outcome(**json.loads(text))


def answers_first(dialogue: str) -> str:
    """Put an MCP server's answers first and sort the rest: a timer sends some notifications at random moments."""
    lines = dialogue.splitlines()
    answers = [line for line in lines if "id" in json.loads(line)]
    return "\n".join([*answers, *sorted(set(lines) - set(answers))])


def remembered(upstream: Side, case: Case, node: str) -> Outcome:
    """Return upstream's outcome of a case, from the cache where possible.

    A run costs 6 s a case, and an installed version never changes. The cache is removed with the lock. Its key holds
    Node's version, the runner and the case.
    """
    key = [node, task_master.RUNNER, case.order(), NORMALISED]
    kept = OUTCOMES / task_master.lock_hash() / hashlib.sha256(json.dumps(key).encode()).hexdigest()
    if kept.exists():
        return Outcome(**json.loads(kept.read_text()))
    found = outcome(upstream, case)
    half_made = kept.with_suffix(f".{os.getpid()}")
    half_made.write_text(json.dumps(asdict(found)))
    half_made.rename(kept)
    return found


def forget_other_locks() -> None:
    (OUTCOMES / task_master.lock_hash()).mkdir(parents=True, exist_ok=True)
    for path in OUTCOMES.iterdir():
        if path.name != task_master.lock_hash():
            shutil.rmtree(path, ignore_errors=True)  # ignored because a parallel run may be removing it too


def shown(outcome: Outcome) -> list[str]:
    """Return an outcome as lines, for people to compare."""
    files = [f"{name}: {content}" for name, content in outcome.files.items()]
    text = [
        f"exit code {outcome.code}",
        "--- stdout",
        outcome.stdout,
        "--- stderr",
        outcome.stderr,
        "--- files",
        *files,
    ]
    return "\n".join(text).splitlines()
