"""`invoke lifecycle`: check the life of a live agent."""

from __future__ import annotations

from collections.abc import Callable

from invoke import Collection, Context, Exit, Task

from commands.output import print_table, problems_as_exit, table
from pipeline.agents.lifecycle import run_lifecycle
from pipeline.bootstrap import engine
from pipeline.build import image
from pipeline.reporting import say_on_stderr


def _task(variant: image.Variant) -> Task[Callable[..., None]]:
    def run(_: Context) -> None:
        rows = table("step", "held", "seen", "seconds")
        all_passed = True
        with problems_as_exit(), engine.connected() as client:
            for step in run_lifecycle(client, variant, say_on_stderr):
                say_on_stderr(f"{step.name} ...")
                all_passed &= step.passed
                mark = "[green]yes[/]" if step.passed else "[red]NO[/]"
                rows.add_row(step.name, mark, step.seen, f"{step.took_s:.2f}")
        print_table(rows)
        if not all_passed:
            raise Exit(f"{variant.reference} does not live as it should; the table says where", 1)

    run.__name__ = variant.name
    run.__doc__ = f"Start, stop, restart, kill and recover a live {variant.reference}."
    return Task(run)


namespace = Collection("lifecycle", *(_task(variant) for variant in image.VARIANTS.values()))
