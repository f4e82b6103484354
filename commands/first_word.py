"""Lets a person name an agent by a task's first word, or leave it out: `agents.attach shop`, `agents.attach`.

Invoke's parser gives a word to a positional argument only if that has no default. With one, it takes the word for the
name of a task, and an agent may be called `build`.
"""

from __future__ import annotations

from invoke.parser.parser import ParseMachine

_handle = ParseMachine.handle


def _handle_word(machine: ParseMachine, token: str) -> None:
    arguments = machine.context.positional_args
    left_out = [each for each in arguments if each.default is not None and not each.got_value]
    if left_out and not token.startswith("-") and not machine.waiting_for_flag_value:
        left_out[0].value = token
    else:
        _handle(machine, token)


def allow() -> None:
    """Change Invoke's parser in this process."""
    ParseMachine.handle = _handle_word  # type: ignore[assignment, method-assign]
