"""What a person can do: `bin/invoke --list`. The table of the tasks in commands/, which call pipeline/.

A command loads only the modules of its own tasks: all together take longer to load than `agents.ps` needs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from invoke import Collection, Exit

TASKS = {
    "agents_run": {
        "up": "up", "agents.up": "start", "agents.restart": "restart", "agents.update": "update", "agents.down": "down",
    },
    "agents_look": {"agents.ps": "list_all", "agents.wait": "wait"},
    "agents": {
        "agents.attach": "attach", "agents.logs": "show_logs", "agents.exec": "execute", "agents.send": "send",
        "agents.audit": "audit", "agents.fetch": "fetch", "agents.diff": "diff", "agents.push": "push",
    },
    "bridge": {
        "bridge.up": "up", "bridge.down": "down", "bridge.status": "status", "bridge.usage": "usage",
        "bridge.doctor": "doctor",
    },
    "engine": {"engine.up": "up", "engine.down": "down", "engine.doctor": "examine"},
    "release": {
        "version": "version", "tag": "give_names", "push": "push_images", "join": "join", "sbom": "write_bills",
        "diff": "diff", "attest": "sign", "describe": "describe",
    },
    "build": {"build": "namespace"},
    "lifecycle": {"lifecycle": "namespace"},
}  # fmt: skip
"""For each module of commands/: the tasks by the names that people type, and what they are called there. A name that
stands for several tasks (`build.prod`) is that of their collection."""


def typed(argv: Sequence[str]) -> set[str]:
    """Return the modules of the tasks on a command line; all where it does not begin with a task, or wants a list."""
    words = [*argv[1:]]
    while words[:1] == ["--search-root"] or words[:1] == ["--write-pyc"]:  # from bin/invoke
        del words[: 2 if words[0] == "--search-root" else 1]
    by_name = {name: module for module, names in TASKS.items() for name in names}
    found = [by_name.get(word) or by_name.get(word.split(".")[0]) for word in words]
    is_plain = found and found[0] and not {"--list", "-l"} & {*words}
    return {module for module in found if module} if is_plain else {*TASKS}


def table(modules: set[str]) -> Collection:
    """Return the tasks of some modules. Raises an `Exit` where a library is missing."""
    try:
        from commands import first_word, options

        loaded = {name: import_module(f"commands.{name}") for name in TASKS if name in modules}
    except ModuleNotFoundError as error:
        raise Exit(
            f"this Python lacks {error.name}; run `bin/invoke` instead of `invoke`, "
            "or `pip install -r requirements/tests.txt`",
            1,
        ) from None
    first_word.allow()
    options.mend()
    made, nouns = Collection(), dict[str, Collection]()
    for module, found in loaded.items():
        for name, called in TASKS[module].items():
            noun, _, verb = name.rpartition(".")
            what = getattr(found, called)
            if isinstance(what, Collection):
                made.add_collection(what)
            elif noun:
                nouns.setdefault(noun, Collection(noun)).add_task(what, name=verb)
            else:
                made.add_task(what, name=verb)
    for collection in nouns.values():
        made.add_collection(collection)
    return made


namespace = table(typed(sys.argv))
