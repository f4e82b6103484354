"""What a shell can offer for the words of a command: a table of the tasks, made from their signatures.

bin/complete answers a shell, and cannot wait until all tasks are loaded. So it keeps this table in a file.
"""

from __future__ import annotations

from typing import Any

from invoke import Argument, Collection
from invoke.parser import ParserContext

from pipeline.agents import wait
from pipeline.build import image

AGENTS = "agents"
"""Stands for the names of the agents."""

CHOICES = {"variant": [*image.VARIANTS], "until": [*wait.UNTIL], "progress": ["auto", "tty", "plain", "quiet"]}
"""The values of options that have few, by the option's name."""


def table(namespace: Collection) -> dict[str, Any]:
    """Return the tasks by name: the help, the options with their values, and what its plain words are.

    The values are a list, `agents`, "" for any (a shell offers files), or None for an option that takes none.
    """
    return {
        name: {
            "help": _first_line(namespace, context),
            "options": {
                flag: {"help": argument.help or "", "values": _values(context, argument)}
                for argument in context.args.values()
                for flag in _flags(argument)
            },
            "words": [_values(context, each) for each in context.positional_args],
            "any_number": any(each.kind is list for each in context.positional_args),
        }
        for context in namespace.to_contexts()
        for name in (str(context.name), *context.aliases)
    }


def _first_line(namespace: Collection, context: ParserContext) -> str:
    return str(namespace[context.name].__doc__ or "").strip().split("\n")[0]


def _flags(argument: Argument) -> list[str]:
    return [f"-{name}" if len(name) == 1 else f"--{name}" for name in argument.names]


def _values(context: ParserContext, argument: Argument) -> list[str] | str | None:
    name = argument.names[0]
    if argument.kind is bool:
        return None
    if name in CHOICES:
        return CHOICES[name]
    is_agent = name == "name" and (str(context.name).startswith("agents.") or context.name == "up")
    return AGENTS if is_agent else ""
