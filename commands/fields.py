"""Options that several tasks share: the fields of a dataclass, each with its help text as metadata."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

from invoke import Context


def help_of(cls: type[Any]) -> dict[str, str]:
    """Return the help text of each option, by the option's name."""
    return {each.name.replace("_", "-"): each.metadata["help"] for each in dataclasses.fields(cls)}


def with_fields(cls: type[Any], name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a task the fields of `cls` as options. The task's body gets them as one argument, `name`."""

    def decorate(body: Callable[..., None]) -> Callable[..., None]:
        found = dataclasses.fields(cls)

        @functools.wraps(body)
        def run(context: Context, **given: Any) -> None:
            chosen = cls(**{each.name: given.pop(each.name) for each in found})
            body(context, **given, **{name: chosen})

        own = [each for each in inspect.signature(body).parameters.values() if each.name != name]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        added = [inspect.Parameter(each.name, kind, default=each.default) for each in found]
        run.__dict__["__signature__"] = inspect.signature(body).replace(parameters=[*own, *added])
        return run

    return decorate
