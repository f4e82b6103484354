"""How the options of tasks are named, shown and refused, where Invoke's way has accidents.

- It invents a short form for each option from the letters that are free: `-o` for `--node`, and, out of letters, an
  empty one.
- Its help shows no value for an option that may be repeated.
- Words that it does not understand end with 1, as a task that failed, and a number that is none with a traceback.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

from invoke import Argument, Exit, Task
from invoke.parser.context import ParserContext
from invoke.parser.parser import ParseMachine

SHORT = {"follow": "f", "tail": "n"}
"""The short forms: those of `docker logs`."""

_arguments = Task.get_arguments
_help = ParserContext.help_for
_set = Argument.set_value


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


def _refuse(machine: ParseMachine, message: str) -> NoReturn:
    task = machine.context.name
    what = re.sub(r"<Argument: ([\w-]+).*?>", r"--\1", message.rstrip("!"))
    raise Exit(f"{what}; see `bin/invoke {f'{task} --help' if task else '--list'}`", 64)


def _set_number(argument: Argument, value: Any, cast: bool = True) -> None:
    try:
        _set(argument, value, cast)
    except ValueError:
        raise Exit(f"--{argument.names[0]} is {value!r}; give a whole number", 64) from None


def mend() -> None:
    """Change Invoke's tasks, its help and its parser in this process."""
    Task.get_arguments = _with_chosen_names  # type: ignore[assignment, method-assign]
    ParserContext.help_for = _with_value  # type: ignore[assignment, method-assign]
    ParseMachine.error = _refuse  # type: ignore[assignment, method-assign]
    Argument.set_value = _set_number  # type: ignore[assignment, method-assign]
