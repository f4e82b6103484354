"""Print every figure beside its limit; `nox -s bench`. Names as arguments select parts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import docker
from rich.console import Console
from rich.table import Table

from pipeline.bootstrap import engine
from pipeline.build.image import VARIANTS, require
from pipeline.errors import Problem
from tests.bench import bridge, clone, fleet, images, limits, peers, planning, sessions, starts, task_master
from tests.bench.figures import Figure

PARTS: dict[str, Callable[[docker.DockerClient], Iterator[Figure]]] = {
    "images": images.measure,
    "starts": starts.measure,
    "clone": clone.measure,
    "bridge": bridge.measure,
    "fleet": fleet.measure,
    "task_master": task_master.measure,
    "planning": planning.measure,
    "sessions": sessions.measure,
    "peers": peers.measure,
    "limits": limits.measure,
}


HEADINGS = ("figure", "value", "limit", "goal", "")
WIDTHS = (74, 13, 7, 7, 6)


def main(names: list[str]) -> int:
    """Measure the parts and print each figure at once. Returns 1 when a figure misses its limit or a part fails."""
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise Problem(f"bench has no part {unknown[0]}; there are {', '.join(PARTS)}", 64)
    console, good = Console(width=sum(WIDTHS) + 2 * len(WIDTHS)), True
    with engine.connected() as client:
        for variant in VARIANTS.values():
            require(client, variant)
        _print(console, HEADINGS)
        for name in names or PARTS:
            print(f"measuring {name} ...", file=sys.stderr)
            try:
                for figure in PARTS[name](client):
                    good &= figure.holds
                    _print(console, _cells(figure))
            except Exception as error:  # of any kind: the other parts are measured all the same
                good = False
                print(f"bench: {name} failed: {_line(error)}", file=sys.stderr)
    return 0 if good else 1


def _print(console: Console, cells: tuple[str, ...]) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    for width in WIDTHS:
        table.add_column(width=width)
    table.add_row(*cells)
    console.print(table)


def _line(error: Exception) -> str:
    """Return an exception as one line, with the last line that its command printed."""
    said = str(getattr(error, "stderr", None) or "").strip().splitlines()
    return " ".join([type(error).__name__, *str(error).split()[:40], *said[-1:]])


def _cells(figure: Figure) -> tuple[str, str, str, str, str]:
    sign = "≥" if figure.more_is_better else "≤"
    goal = f"{sign} {figure.goal:g}" if figure.goal is not None else ""
    verdict = "[green]holds[/]" if figure.holds else "[red]MISSED[/]"
    return figure.name, f"{figure.value:.2f} {figure.unit}", f"{sign} {figure.limit:g}", goal, verdict


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Problem as problem:
        print(f"bench: {problem}", file=sys.stderr)
        sys.exit(problem.code)
