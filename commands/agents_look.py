"""`invoke agents`: the tasks that look at agents and change nothing."""

from __future__ import annotations

from invoke import Context, task

from commands.output import print_table, problems_as_exit, table, text
from pipeline.agents import protection, ps
from pipeline.bootstrap import engine


@task(name="ps")
def list_all(_: Context) -> None:
    """List the agents of this machine."""
    with problems_as_exit(), engine.connected() as client:
        found = list(zip(ps.listing(client), map(protection.mode, ps.every(client)), strict=False))
    if not found:
        print("no agents; run `bin/invoke up`")
        return
    rows = table("agent", "state", "image", "user", "workspace", "mode", "health")
    for each, mode in found:
        rows.add_row(each.name, each.state, each.image, each.user, text(each.workspace), text(mode), each.health)
    print_table(rows)
