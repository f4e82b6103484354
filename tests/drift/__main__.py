"""Compares a CLI with the policy's tables: `python -m tests.drift [--cli PATH]`; without PATH, npm's newest.

Prints one line for what is new, gone or changed. Ends with 1 if there is any, and with 2 if a list cannot be found.
`--report FILE` compares nothing, and opens an issue with this text.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from bridge.policy import control_messages, flags
from bridge.policy.project_policy import CONVERSATION, OF_SERVERS, REFUSED, WITHOUT_EFFECT
from bridge.policy.terms import ALL_TOOLS
from tests.drift import reviewed
from tests.drift.cli_lists import CliLists, UnreadableError
from tests.drift.report import report
from tests.support.bridge_cli import NEWEST, OLDEST, installed

FLAGS = {name: flag.values for name, flag in flags.BY_NAME.items()} | {
    name: values for name, (values, _) in (flags.CLOSED | flags.LEFT_OUT).items()
}
JUDGED = CONVERSATION | WITHOUT_EFFECT.keys() | REFUSED.keys() | OF_SERVERS
SETTINGS = JUDGED | {"$schema", "env", "hooks", "permissions"} | reviewed.SETTINGS
REQUESTS = control_messages.REQUESTS.keys() | control_messages.REASONS.keys()

WHERE = {
    "flag": "a row in FLAGS or CLOSED of bridge/policy/flags.py",
    "subcommand": "SUBCOMMANDS of bridge/policy/flags.py",
    "tool": "one of the lists in bridge/policy/terms.py",
    "setting": "bridge/policy/project_policy.py or tests/drift/reviewed.py",
    "control request": "REQUESTS or CLOSED of bridge/policy/control_messages.py",
    "hook event": "tests/drift/reviewed.py",
}
"""Where a name of each kind has its place."""


def drift(cli: CliLists, oldest: Callable[[], CliLists]) -> list[str]:
    """Return a line for each difference. Raises UnreadableError."""
    found = [
        *_new("flag", cli.flags.keys() - FLAGS.keys()),
        *(
            f"changed: the flag {name} takes {values} values, not {FLAGS[name]}"
            for name, values in sorted(cli.flags.items())
            if FLAGS.get(name, values) != values
        ),
        *_new("subcommand", cli.subcommands - flags.SUBCOMMANDS),
        *_new("tool", cli.tools - set(ALL_TOOLS)),
        *_new("setting", cli.settings - SETTINGS),
        *_new("control request", cli.control_requests - REQUESTS),
        *_new("hook event", cli.hook_events - reviewed.EVENTS),
    ]
    if tuple(map(int, re.findall(r"\d+", cli.version)[:3])) >= reviewed.NEWEST:
        found += [line for line in _gone(cli) if line in set(_gone(oldest()))]
    return found


def _new(kind: str, names: set[str]) -> Iterator[str]:
    yield from (f"new: the {kind} {name}; it belongs in {WHERE[kind]}" for name in sorted(names))


def _gone(cli: CliLists) -> list[str]:
    """Return a line for each name of the tables that a CLI does not have. (SUBCOMMANDS may hold older words.)"""
    missing = {
        "flag": [name for name in FLAGS if name not in cli.flags and name not in cli.help_words],
        "tool": [name for name in ALL_TOOLS if not cli.mentions(f'"{name}"')],
        "setting": [name for name in SETTINGS - cli.settings if not cli.mentions(name)],
        "control request": [name for name in REQUESTS if not cli.mentions(f'"{name}"')],
        "hook event": reviewed.EVENTS - cli.hook_events,
    }
    return [f"gone: the {kind} {name}; {WHERE[kind]}" for kind, names in missing.items() for name in sorted(names)]


def main() -> int:
    """Compare, and print what is different. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Compare a CLI with the policy's tables.")
    parser.add_argument("--cli", type=Path, help="the program of another CLI than npm's newest")
    parser.add_argument("--report", type=Path, help="open an issue with the text of this file, unless one is open")
    chosen = parser.parse_args()
    if chosen.report:
        print(report(chosen.report))
        return 0
    cli = CliLists(chosen.cli or installed(NEWEST))
    try:
        lines = drift(cli, lambda: CliLists(installed(OLDEST)))
    except UnreadableError as error:
        print(f"drift: {error}; mend tests/drift/cli_lists.py", file=sys.stderr)
        return 2
    for line in lines:
        print(line)
    counts = f"{len(cli.flags)} flags, {len(cli.subcommands)} subcommands, {len(cli.tools)} tools"
    counts += f", {len(cli.settings)} settings, {len(cli.control_requests)} control requests"
    counts += f", {len(cli.hook_events)} hook events"
    print(f"Claude Code {cli.version}: {counts} compared, {len(lines)} differences")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
