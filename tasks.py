"""What a person can do: `bin/invoke --list`. The table of the tasks in commands/, which call pipeline/."""

from __future__ import annotations

from invoke import Collection, Exit

try:
    from commands import agents, agents_look, agents_run, bridge, build, engine, first_word, lifecycle, options, release
except ModuleNotFoundError as error:
    raise Exit(
        f"this Python lacks {error.name}; run `bin/invoke` instead of `invoke`, "
        "or `pip install -r requirements/tests.txt`",
        1,
    ) from None

first_word.allow()
options.mend()

namespace = Collection(
    agents_run.up,
    release.version,
    release.give_names,
    release.push_images,
    release.join,
    release.write_bills,
    release.diff,
    release.sign,
    release.describe,
    build.namespace,
    lifecycle.namespace,
    Collection(
        "engine",
        engine.up,
        engine.down,
        engine.examine,
    ),
    Collection(
        "bridge",
        bridge.up,
        bridge.down,
        bridge.status,
        bridge.usage,
        bridge.doctor,
    ),
    Collection(
        "agents",
        agents_run.start,
        agents_look.list_all,
        agents_look.wait,
        agents.attach,
        agents.show_logs,
        agents.execute,
        agents.send,
        agents.audit,
        agents.fetch,
        agents.diff,
        agents.push,
        agents_run.restart,
        agents_run.update,
        agents_run.down,
    ),
)
