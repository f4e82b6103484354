"""Draws what the bench measured last: docs/plots/NAME.svg, and the rows beside it as NAME.json; `nox -s plots`.

The parts of the bench that have curves keep their rows in .cache/bench (`keep`). This module alone needs matplotlib,
so it has an environment of its own.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ROOT / ".cache" / "bench"
DRAWN = ROOT / "docs" / "plots"

Rows = list[dict[str, Any]]


def keep(name: str, rows: Sequence[Any]) -> None:
    """Keep the rows of a part, which are dataclasses, with the machine and the day."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    facts = {
        "machine": f"{os.cpu_count()} processors, {memory:.0f} GiB, Linux {platform.release().partition('-')[0]}",
        "day": datetime.datetime.now().astimezone().date().isoformat(),
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    MEASURED.mkdir(parents=True, exist_ok=True)
    (MEASURED / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")


@dataclasses.dataclass(frozen=True)
class Panel:
    """One set of axes: its title, the unit, and the columns to draw with a name for each."""

    title: str
    unit: str
    columns: dict[str, str]


PLOTS: dict[str, tuple[str, str, tuple[Panel, ...]]] = {
    "limits": (
        "seconds after the end of a usage limit",
        "after_s",
        (
            Panel("Starts of 30 calls of 20 grants", "calls", {"started": "started"}),
            Panel("Grants that had a turn", "grants", {"grants": "of 20"}),
        ),
    ),
    "fleet": (
        "agents",
        "agents",
        (
            Panel("Time of one command", "s", {"up_s": "agents.up", "down_s": "agents.down", "again_s": "up again"}),
            Panel("Memory of one agent", "MB", {"memory_mb": "its container", "helper_mb": "the engine's helper"}),
            Panel(
                "Processors while nobody works",
                "processors",
                {"probe_cores": "probes and the engine", "own_cores": "the agents"},
            ),
        ),
    ),
    "sessions": (
        "interactive sessions of Claude Code",
        "sessions",
        (
            Panel("Memory of all sessions", "MB", {"awake_mb": "awake", "asleep_mb": "asleep"}),
            Panel("Ten at work: seconds to an answer", "s", {"answer_s": "median", "slowest_s": "slowest"}),
        ),
    ),
}
"""By name: what is counted, its column, and the panels."""


def draw(name: str) -> Path:
    """Draw a plot from the rows that were measured last. Raises FileNotFoundError if there are none."""
    from matplotlib.figure import Figure

    facts = json.loads((MEASURED / f"{name}.json").read_text())
    what, column, panels = PLOTS[name]
    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for key, label in panel.columns.items():
            points = [(row[column], row[key]) for row in facts["rows"] if row[key] is not None]
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
        axes.set(title=panel.title, xlabel=what, ylabel=panel.unit, ylim=(0, None), xlim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.suptitle(f"{facts['machine']}; {facts['day']}", fontsize="small")
    DRAWN.mkdir(parents=True, exist_ok=True)
    (DRAWN / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
    path = DRAWN / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None})
    return path


if __name__ == "__main__":
    for asked in sys.argv[1:] or [found for found in PLOTS if (MEASURED / f"{found}.json").exists()]:
        print(draw(asked).relative_to(ROOT))
