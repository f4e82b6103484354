"""Everything from a bare machine to healthy agents, with all parts of the pipeline."""

from __future__ import annotations

from collections.abc import Sequence

import docker

from pipeline.agents import compose, starting
from pipeline.agents.starting import Checked, Wanted
from pipeline.bootstrap import engine, engine_setup
from pipeline.build import image
from pipeline.reporting import Say


def from_bare_machine(wanted: Sequence[Wanted], options: image.Options, say: Say, done: Say) -> list[compose.Running]:
    """Provide an engine, the image, the bridge and agents.

    The wishes differ in workspace and name alone. `done` is told one line for each of several agents.
    """
    kind = engine.kind()
    checked = [Checked.of(each, kind, say) for each in wanted]
    say(engine_setup.up(say))
    if engine.kind() != kind:  # it has started only now
        kind = engine.kind()
        checked = [Checked.of(each.wanted, kind, lambda _: None) for each in checked]

    def build(client: docker.DockerClient, variant: image.Variant) -> None:
        image.build(client, variant, options, say)

    with engine.connected() as client:
        claimed = starting.claim(client, checked, build, say)
    return starting.start(claimed, kind, say, done)


def with_what_is_there(wanted: Sequence[Wanted], say: Say, done: Say) -> list[compose.Running]:
    """Start agents on an engine that runs, of an image that is there. Raises a `Problem` where one is missing."""
    with engine.connected() as client:
        kind = engine.kind_of(client, engine.chosen().where)
        checked = [Checked.of(each, kind, say) for each in wanted]
        claimed = starting.claim(client, checked, image.require, say)
    return starting.start(claimed, kind, say, done)
