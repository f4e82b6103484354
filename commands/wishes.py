"""What a person asks of `up` and `agents.up`: the options, and the agents that they mean."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from invoke import Exit

from pipeline import bridge
from pipeline.agents import names, protection, records, updating
from pipeline.agents import workspace as workspaces
from pipeline.agents.logs import plain
from pipeline.agents.settings import Lasting
from pipeline.agents.starting import Wanted
from pipeline.build import image
from pipeline.errors import Problem
from pipeline.files import ROOT

REPEATED = ["protect", "unprotect", "clone_with", "env"]
"""Options that may be given again."""
OPTIONAL = ["clone"]
"""Options whose value may be left out."""
MOST = 1000
"""Agents of one command. The engine's bridge has 1,023 ports."""


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass(frozen=True)
class Asked:
    """The options of `up` and `agents.up`, as a person gave them."""

    workspace: str | None = field(
        default=None, metadata=_help("folder that the agent works in; workspace/ beside compose.yaml when left out")
    )
    clone: str | bool | None = field(
        default=None,
        metadata=_help(
            "work in a clone of this folder's repository, or of --workspace's; agents.fetch brings its commits"
        ),
    )
    clone_with: list[str] | None = field(
        default=None,
        metadata=_help("copy this file, which is not in the repository, into a new clone; may be repeated"),
    )
    replace: bool = field(default=False, metadata=_help("end the agent of this name where it works on another folder"))
    variant: str | None = field(default=None, metadata=_help("prod or dev; prod when left out"))
    image: str | None = field(
        default=None, metadata=_help("run this image, made FROM magents/agent, as it is; nothing is built")
    )
    command: str | None = field(
        default=None, metadata=_help("what runs in the agent's first pane; kept until another is named, '' ends it")
    )
    cpus: str | None = field(
        default=None, metadata=_help("how many processors it may use, for example 1.5; kept, 0 ends it")
    )
    memory: str | None = field(
        default=None, metadata=_help("how much memory it may use, for example 4g; kept, 0 ends it")
    )
    env: list[str] | None = field(
        default=None, metadata=_help("pass this variable of your shell; may be repeated; kept, '' ends it")
    )
    count: str | None = field(
        default=None, metadata=_help("start so many agents NAME-1, NAME-2, ..., each in a folder or a clone of its own")
    )
    chown: bool = field(default=False, metadata=_help("give a workspace that belongs to root to uid 1000"))
    as_root: bool = field(default=False, metadata=_help("run the agent as root on a workspace that belongs to root"))
    protect: list[str] | None = field(
        default=None, metadata=_help("a further path of the workspace that the agent only reads; may be given again")
    )
    unprotect: list[str] | None = field(
        default=None, metadata=_help("a path of the workspace that the agent may change after all; may be given again")
    )
    ssh_agent: bool = field(
        default=False, metadata=_help("let the agent use the keys of your ssh agent (SSH_AUTH_SOCK)")
    )


def variant_named(name: str) -> image.Variant:
    """Return the variant with this name. Ends the task when there is none."""
    if name not in image.VARIANTS:
        raise Exit(f"there is no variant {name}; use one of {', '.join(image.VARIANTS)}", 64)
    return image.VARIANTS[name]


def refuse_unknown(asked: Asked, name: str) -> None:
    """Refuse a new agent without a folder: its name is more likely a known one's with a mistake in it."""
    has_place = asked.workspace is not None or isinstance(asked.clone, str)
    if name not in ("", names.DEFAULT_NAME) and not has_place and records.named(name) is None:
        known = ", ".join(sorted(each.name for each in records.every() if each.has_name)) or "none"
        raise Problem(
            f"there is no agent {plain(name)} (there are: {known}); for a new one, add --workspace FOLDER or "
            "--clone REPOSITORY",
            64,
        )


def wanted(config: Mapping[str, Any], asked: Asked, name: str, certificates: str | None = None) -> list[Wanted]:
    """Return the agents that a person asks for. Raises a `Problem` for words that do not fit together."""
    if asked.clone_with and not asked.clone:
        raise Problem("--clone-with counts with --clone only; add it", 64)
    if asked.clone and (asked.protect or asked.unprotect):
        raise Problem("--protect and --unprotect are for a folder of yours, not for a clone; leave them out", 64)
    if asked.workspace is not None and isinstance(asked.clone, str):
        raise Problem("--clone names a folder and --workspace another one; give the agent one of them", 64)
    lasting = Lasting.of(asked.command, asked.cpus, asked.memory, asked.env or [])
    place = asked.clone if isinstance(asked.clone, str) else asked.workspace
    count = None if asked.count is None else _count(asked.count)
    record = records.named(name) if name and place is None and count is None else None
    if record and not asked.clone:
        return [_again(config, asked, record, lasting, certificates)]
    if count is not None and place is None:
        raise Problem("--count needs a place for the agents: --workspace FOLDER, or --clone REPOSITORY", 64)
    protect, unprotect = tuple(asked.protect or ()), tuple(asked.unprotect or ())
    if record:
        folder = Path(record.folder)
    else:
        folder = workspaces.named(place) if place is not None else workspaces.default_workspace(ROOT)
    one = Wanted(
        folder,
        name or None,
        variant_named(asked.variant or "prod"),
        asked.image,
        replace=asked.replace,
        chown=asked.chown,
        as_root=asked.as_root,
        ssh_agent=asked.ssh_agent,
        certificates=certificates,
        choose=lambda agent: protection.chosen(config, agent, protect, unprotect),
        clone=bool(asked.clone),
        clone_with=asked.clone_with or (),
        protect=protect,
        unprotect=unprotect,
        lasting=lasting,
    )
    return [one] if count is None else _counted(one, count)


def _again(
    config: Mapping[str, Any], asked: Asked, record: records.Agent, lasting: Lasting, certificates: str | None
) -> Wanted:
    """Return an agent that goes on in its folder as it was started last, with what a person says now."""
    kept = updating.wanted_again(record, config)
    protect = tuple(asked.protect or ()) or kept.protect
    unprotect = tuple(asked.unprotect or ()) or kept.unprotect
    return dataclasses.replace(
        kept,
        variant=variant_named(asked.variant) if asked.variant else kept.variant,
        reference=asked.image or (None if asked.variant else kept.reference),
        replace=asked.replace,
        chown=asked.chown,
        as_root=asked.as_root or kept.as_root,
        ssh_agent=asked.ssh_agent or kept.ssh_agent,
        certificates=certificates or kept.certificates,
        choose=lambda agent: protection.chosen(config, agent, protect, unprotect),
        protect=protect,
        unprotect=unprotect,
        lasting=lasting,
    )


def _count(value: str) -> int:
    """Return how many agents a person asks for. 0 is refused as well: it is not one agent in the folder itself."""
    if not value.isascii() or not value.isdigit() or not 1 <= int(value[:9]) <= MOST:
        raise Problem(f"--count is {plain(value)!r}; give a whole number between 1 and {MOST:,}", 64)
    return int(value)


def _counted(one: Wanted, count: int) -> list[Wanted]:
    """Return so many agents: clones of one repository, or sub-folders of one folder, which are made where missing."""
    first = one.name or names.of_folder(one.workspace)
    each = [f"{first}-{number}" for number in range(1, count + 1)]
    names.check(each[-1])
    if not (one.clone or one.chown or one.as_root):
        workspaces.refuse_of_root(one.workspace)  # before folders of root's are made in it
    places = [one.workspace] * count if one.clone else [_below(one.workspace, name) for name in each]
    return [dataclasses.replace(one, name=name, workspace=place) for name, place in zip(each, places, strict=True)]


def _below(folder: Path, name: str) -> Path:
    """Return a folder's sub-folder. A new one belongs to whom the folder belongs to."""
    bridge.refuse_links_of_containers(folder)
    place = folder / name
    try:
        place.mkdir()
    except FileExistsError:
        return workspaces.named(str(place))
    except OSError as error:
        raise Problem(f"{plain(str(place))} cannot be made: {error.strerror}; name another --workspace", 64) from None
    found = folder.stat()
    if os.geteuid() == 0:
        os.chown(place, found.st_uid, found.st_gid, follow_symlinks=False)
    return workspaces.named(str(place))
