"""`invoke engine`: the Docker engine of this machine."""

from __future__ import annotations

from invoke import Context, Exit, task

from commands.output import print_table, problems_as_exit, table, text
from pipeline.agents import audit, protection
from pipeline.agents import host as hosts
from pipeline.bootstrap import doctor, engine, engine_setup
from pipeline.reporting import say_on_stderr

COLOURS = {"ok": "green", "warning": "yellow", "missing": "red"}


@task
def up(_: Context) -> None:
    """Use the Docker engine that answers, or install and start one."""
    with problems_as_exit():
        print(engine_setup.up(say_on_stderr))


@task
def down(_: Context) -> None:
    """Stop the Docker engine that engine.up started."""
    with problems_as_exit():
        engine_setup.down(print)


@task(name="doctor")
def examine(_: Context) -> None:
    """Say what is there, what is missing, and what to type."""
    with problems_as_exit():
        findings = doctor.examine()
        if not any(finding.state == "missing" for finding in findings):
            with engine.connected() as client:
                findings += [*hosts.findings(client), *protection.findings(client), *audit.findings(client)]
    rows = table("part", "state", "detail", "type this")
    for finding in findings:
        colour = COLOURS[finding.state]
        rows.add_row(finding.what, f"[{colour}]{finding.state}[/]", text(finding.detail), text(finding.remedy))
    print_table(rows)
    if any(finding.state == "missing" for finding in findings):
        raise Exit(code=1)
