"""How every task reports: an error as one line and an exit code, results as tables.

Rich takes long to load, and not every task prints a table. So it is imported where it is needed.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from invoke import Exit

from pipeline.agents.logs import plain
from pipeline.errors import Problem
from pipeline.files import ROOT, present_folder
from pipeline.reporting import Say, say_on_stderr

if TYPE_CHECKING:
    from rich.table import Table

UNLIMITED = 100_000
"""The width of a table for a file or a pipe, in letters. Rich takes no more than the rows need."""


@contextmanager
def problems_as_exit() -> Iterator[None]:
    """Report a `Problem` as Invoke reports an error: one line and the exit code."""
    try:
        yield
    except Problem as problem:
        raise Exit(str(problem), problem.code) from problem
    except KeyboardInterrupt:
        raise Exit("interrupted", 130) from None


@contextmanager
def progress(count: int, result: Say = say_on_stderr) -> Iterator[tuple[Say, Say]]:
    """Yield two functions: one says a line on standard error, the other says by `result` what came of an agent.

    On a terminal, a bar below the lines shows how many of `count` agents are done.
    """
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    if count < 2 or not console.is_terminal:
        yield say_on_stderr, result
        return
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console, transient=True) as bar:
        every = bar.add_task("agents", total=count)

        def done(line: str) -> None:
            bar.console.print(plain(line))
            bar.advance(every)

        yield (lambda line: bar.console.print(plain(line))), done


def exit_with(code: int) -> None:
    """End the task with the exit code of a program that it ran; do nothing when it is 0."""
    if code:
        raise Exit(code=code)


def launcher() -> str:
    """Return how a person starts Invoke from the present folder."""
    return "bin/invoke" if present_folder() == ROOT else shlex.quote(str(ROOT / "bin" / "invoke"))


def text(value: str) -> str:
    """Return a cell that shows a text as it is: rich finds no markup in it, and the terminal no control signs."""
    from rich.markup import escape

    return escape(" ".join(plain(value).splitlines()))


def table(*headings: str) -> Table:
    """Return an empty table."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False)
    for heading in headings:
        made.add_column(heading, overflow="fold")
    return made


def print_table(rows: Table) -> None:
    """Print a table: wrapped to the terminal's width, and without wrapping when the output is no terminal."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else UNLIMITED
    Console(width=width, emoji=False).print(rows)


def print_facts(*facts: tuple[str, str]) -> None:
    """Print names and values, one pair a line."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        print(plain(f"{name:<{width}}  {value}").replace("\n", "?"))
