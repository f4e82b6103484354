"""Print every figure beside its limit; `nox -s bench`. With names as arguments, only those parts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import docker
from rich.console import Console
from rich.table import Table

from pipeline import engine
from pipeline.errors import Problem
from pipeline.image import VARIANTS, require
from tests.bench import bridge, images, planning, starts, task_master
from tests.bench.figures import Figure

PARTS: dict[str, Callable[[docker.DockerClient], Iterator[Figure]]] = {
    "images": images.measure,
    "starts": starts.measure,
    "bridge": bridge.measure,
    "task_master": task_master.measure,
    "planning": planning.measure,
}


def main(names: list[str]) -> int:
    """Measure the parts; returns 1 where a figure misses its limit."""
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise Problem(f"bench has no part {unknown[0]}; there are {', '.join(PARTS)}", 64)
    table = Table(box=None, pad_edge=False)
    for heading in ("figure", "value", "limit", "goal", ""):
        table.add_column(heading)
    missed = 0
    with engine.connected() as client:
        for variant in VARIANTS.values():
            require(client, variant)
        for name in names or PARTS:
            print(f"measuring {name} ...", file=sys.stderr)
            for figure in PARTS[name](client):
                missed += not figure.holds
                table.add_row(*_cells(figure))
    Console(width=110).print(table)
    return 1 if missed else 0


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
