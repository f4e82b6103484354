"""Lets a person name agents by a task's first words, or leave them out: `agents.attach shop`, `agents.attach`.

Invoke's parser gives a word to a positional argument only if that has no default. With one, it takes the word for the
name of a task, and an agent may be called `build`. An argument that is both positional and iterable gets every word
that is left: `agents.wait shop build`.

And Invoke takes `--help` for the first word of a task that needs one, so `agents.exec --help` ran a shell's `--help`.
"""

from __future__ import annotations

from invoke.parser.parser import ParseMachine

HELP = ("--help", "-h")

_handle = ParseMachine.handle


def _handle_word(machine: ParseMachine, token: str) -> None:
    arguments = machine.context.positional_args
    left_out = [each for each in arguments if each.default is not None and not each.got_value]
    open_ended = [each for each in arguments if each.kind is list]
    takers = [*left_out, *open_ended]
    if token in HELP and arguments and machine.context.name:
        machine.context.positional_args.clear()  # whoever asks for help need not give them
    if takers and not token.startswith("-") and not machine.waiting_for_flag_value:
        takers[0].value = token
    else:
        _handle(machine, token)


def allow() -> None:
    """Change Invoke's parser in this process."""
    ParseMachine.handle = _handle_word  # type: ignore[assignment, method-assign]
