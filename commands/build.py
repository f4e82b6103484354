"""`invoke build`: make the images. The options of a build are the fields of `image.Options`; `up` has them too."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from invoke import Collection, Context, Exit, Task

from commands.output import problems_as_exit
from pipeline.bootstrap import engine
from pipeline.build import image
from pipeline.reporting import say_on_stderr

EVERY_VARIANT = list(image.VARIANTS.values())
HELP = {each.name.replace("_", "-"): each.metadata["help"] for each in fields(image.Options)}


def with_build_options(body: Callable[..., None]) -> Callable[..., None]:
    """Give a task the options of a build. `body` gets them as its argument `options`."""

    @functools.wraps(body)
    def run(context: Context, **given: Any) -> None:
        options = image.Options(**{each.name: given.pop(each.name) for each in fields(image.Options)})
        body(context, **given, options=options)

    signature = inspect.signature(body)
    own = [each for each in signature.parameters.values() if each.name != "options"]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    added = [inspect.Parameter(each.name, kind, default=each.default) for each in fields(image.Options)]
    run.__dict__["__signature__"] = signature.replace(parameters=[*own, *added])
    return run


def variant_named(name: str) -> image.Variant:
    """Return the variant with this name. Ends the task when there is none."""
    if name not in image.VARIANTS:
        raise Exit(f"there is no variant {name}; use one of {', '.join(image.VARIANTS)}", 64)
    return image.VARIANTS[name]


def _task(variants: list[image.Variant], name: str, text: str) -> Task[Callable[..., None]]:
    def run(_: Context, options: image.Options) -> None:
        with problems_as_exit(), engine.connected() as client:
            for variant in variants:
                print(f"{variant.reference} {image.build(client, variant, options, say_on_stderr)}")

    run.__name__ = name
    run.__doc__ = text
    return Task(with_build_options(run), help=HELP)


namespace = Collection("build")
namespace.add_task(_task(EVERY_VARIANT, "all", "Build both images."), default=True)
for _name, _variant in image.VARIANTS.items():
    namespace.add_task(_task([_variant], _name, f"Build {_variant.reference}."))
