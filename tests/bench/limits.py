"""Twenty grants at the account's usage limit: what waits starts again one by one, in fair order, and nothing is lost.

With the real CLI. The rows are the starts over time, for whoever draws them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import docker

from bridge.server.holds import GAP_S
from tests.bench import plots
from tests.bench.figures import Figure
from tests.support.bridge_cli import NEWEST
from tests.support.real_host import real_server
from tests.support.usage_limits import Account
from tests.support.waiting import wait_until

GRANTS = 20
TWICE = 10
"""So many of the grants have two calls."""
LASTS_S = 60.0
"""Seconds of the limit. All calls wait by then."""
ENDS_WITHIN_S = 300


@dataclass(frozen=True)
class Row:
    """One start after the limit."""

    after_s: float
    """Seconds since the end of the limit that the API told."""
    started: int
    """Calls that had started by then."""
    grants: int
    """Grants that had had a turn by then."""
    grant: str
    lost: int = 0
    """Calls that failed, of all."""


def measure(_client: docker.DockerClient) -> Iterator[Figure]:
    """Yield how the starts are spread, and what was lost."""
    found = rows()
    plots.keep("limits", found)
    calls = GRANTS + TWICE
    yield Figure(f"limit: starts after it, {calls} calls of {GRANTS} grants", len(found), "", calls, calls, True)
    yield Figure("limit: calls that failed", found[0].lost, "", 0)
    between = (found[-1].after_s - found[1].after_s) / (len(found) - 2)
    yield Figure("limit: time between two starts, mean", between, "s", 0.9 * GAP_S, more_is_better=True)
    yield Figure("limit: starts before its end", sum(row.after_s < 0 for row in found), "", 0)
    first = [row.grant for row in found[:GRANTS]]
    yield Figure("limit: grants that were twice before another", len(first) - len(set(first)), "", 0)


def rows() -> list[Row]:
    """Let twenty grants wait at a limit, and return their starts after it."""
    account = Account()
    with tempfile.TemporaryDirectory() as directory, real_server(Path(directory), NEWEST) as real, ExitStack() as stack:
        real.api.part = account
        places = [real.place() for _ in range(GRANTS)]
        account.reach(LASTS_S)
        places[0].run("-p", "first")
        waiting = [stack.enter_context(place.start("-p", "hi")) for place in [*places, *places[:TWICE]]]
        wait_until(lambda: real.host.status()["queued"] == len(waiting), LASTS_S, "all calls to wait")
        lost = sum(call.end(timeout=ENDS_WITHIN_S)[0] != 0 for call in waiting)
        starts = [entry for entry in real.host.audit() if entry["event"] == "started"][1:]
    return [
        Row(
            round(entry["time"] - account.until, 3),
            number,
            len({each["grant"] for each in starts[:number]}),
            entry["grant"],
            lost,
        )
        for number, entry in enumerate(starts, 1)
    ]
