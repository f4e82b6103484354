"""The image's Task Master does what a plain install does: the same output, exit code and files."""

from __future__ import annotations

import contextlib
import difflib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

import pytest

from tests.support import parity, task_master
from tests.support.task_master import Outcome, Side
from tests.support.task_master_cases import CASES, Case


class Pair:
    """What the bundle answered to a case, and the record's row of it; or what upstream answered now."""

    def __init__(self, case: Case, bundled: Outcome, node: str, upstream: Callable[[], Side], complete: bool) -> None:
        self.bundled = bundled
        self.row = parity.row(case, node, bundled)
        self.upstream: Outcome | None = None
        if complete or self.row != parity.recorded().get(case.name):
            self.upstream = parity.outcome(upstream(), case)
            self.row = parity.row(case, node, self.upstream)

    def difference(self) -> list[str]:
        """Return how the bundle's answer differs from upstream's. Upstream is not asked for a recorded answer."""
        if self.upstream is None:
            return []
        upstream, bundled = parity.lines(self.upstream), parity.lines(self.bundled)
        return list(difflib.unified_diff(upstream, bundled, "upstream", "bundled", lineterm=""))


@pytest.fixture(scope="module")
def pairs(image: str, pytestconfig: pytest.Config, request: pytest.FixtureRequest) -> Iterator[Callable[[Case], Pair]]:
    """Return a case's pair. All chosen cases run before the first test. `--complete` writes the record.

    They run one for each processor. No thread may run while pytest goes from test to test: pytest changes the
    environment then, and the SDK reads the environment for each request.
    """
    items = [item for item in request.session.items if item.path == request.node.path]
    chosen = [item.callspec.params["case"] for item in items if hasattr(item, "callspec")]
    complete = bool(pytestconfig.getoption("--complete"))
    with contextlib.ExitStack() as stack:
        # The bundle gets upstream's defaults for a project without a configuration.
        # tests/bridge/test_task_master.py tests the image's own defaults.
        bundled = stack.enter_context(task_master.side(image, shared=task_master.DEFAULTS))
        node = bundled.say("node", "--version")
        lock = threading.Lock()
        made: list[Side] = []

        def upstream() -> Side:
            with lock:
                if not made:
                    install = task_master.install_upstream(image)
                    made.append(stack.enter_context(task_master.side(image, install)))
                return made[0]

        def compared(case: Case) -> Pair:
            return Pair(case, parity.outcome(bundled, case), node, upstream, complete)

        pool = ThreadPoolExecutor(os.cpu_count())
        answers: dict[str, Future[Pair]] = {case.name: pool.submit(compared, case) for case in chosen}
        stack.callback(pool.shutdown, cancel_futures=True)
        wait(answers.values())
        yield lambda case: answers[case.name].result()
        if complete and len(chosen) == len(CASES):
            found = {name: future.result() for name, future in answers.items()}
            if not any(pair.difference() for pair in found.values()):
                parity.write({name: pair.row for name, pair in found.items()})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_does_what_upstream_does(pairs: Callable[[Case], Pair], case: Case) -> None:
    difference = pairs(case).difference()
    assert not difference, "\n".join(difference)
