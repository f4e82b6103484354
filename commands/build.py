"""`invoke build`: make the images. The options of a build are the fields of `image.Options`; `up` has them too."""

from __future__ import annotations

from collections.abc import Callable

from invoke import Collection, Context, Task

from commands.fields import help_of, with_fields
from commands.output import problems_as_exit
from pipeline.bootstrap import engine
from pipeline.build import image
from pipeline.reporting import say_on_stderr

EVERY_VARIANT = list(image.VARIANTS.values())
HELP = help_of(image.Options)


with_build_options = with_fields(image.Options, "options")
"""Gives a task the options of a build."""


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
