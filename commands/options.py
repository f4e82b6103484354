"""How the options of tasks are named and shown. Two things that Invoke does are left out, and one is mended.

It would invent a short form for each option from the letters that are free: `-o` for `--node`, and, out of letters, an
empty one. And its help shows no value for an option that may be repeated.
"""

from __future__ import annotations

from typing import Any

from invoke import Argument, Task
from invoke.parser.context import ParserContext

SHORT = {"follow": "f", "tail": "n"}
"""The short forms: those of `docker logs`."""

_arguments = Task.get_arguments
_help = ParserContext.help_for


def _with_chosen_names(task: Task[Any], ignore_unknown_help: bool | None = None) -> list[Argument]:
    texts = task.help.copy()
    task.auto_shortflags = False
    found = _arguments(task, ignore_unknown_help)
    task.help = texts  # Invoke takes each text out as it uses it, so a second call would find none
    for argument in found:
        if argument.names[0] in SHORT:
            argument.names = (*argument.names, SHORT[argument.names[0]])
    return found


def _with_value(context: ParserContext, flag: str) -> tuple[str, str]:
    named, text = _help(context, flag)
    return (f"{named}=STRING" if context.flags[flag].kind is list else named), text


def mend() -> None:
    """Change Invoke's tasks and its help in this process."""
    Task.get_arguments = _with_chosen_names  # type: ignore[assignment, method-assign]
    ParserContext.help_for = _with_value  # type: ignore[assignment, method-assign]
