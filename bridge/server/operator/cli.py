"""`claude-bridge-server`: the operator's command."""

from __future__ import annotations

import argparse
import getpass
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bridge import __version__
from bridge.policy import PolicyError
from bridge.policy.terms import printable
from bridge.server.host import config
from bridge.server.host.protected import Choice, ProtectionError
from bridge.server.host.state_directory import default_root
from bridge.server.operator.api import FAILED, USAGE, Operator, OperatorError

OK, REFUSED = 0, 126

USER_HELP = "whom Claude runs as for it, a number or a name (default: the owner of DIR now; root by name alone)"

SINCE_HELP = "the first day, in UTC: 2026-11-28, today, yesterday, or 7d for seven days, which is the default"

Command = Callable[[Operator, argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code."""
    options = _parser().parse_args(argv)
    command: Command = options.command
    try:
        return command(Operator(options.state, options.config), options)
    except OperatorError as error:
        print(f"bridge: {printable(error)}", file=sys.stderr)
        return error.code


def _common(default: object) -> argparse.ArgumentParser:
    """Return a parser for the options that are accepted before and after the command; the last one is used.

    After the command the default must be argparse.SUPPRESS. Otherwise it would override an option before the
    command.
    """
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("options of every command, before or after it; the last one counts")
    group.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        default=default,
        help=f"where grants and conversations are kept (default {default_root()})",
    )
    group.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        default=default,
        help=f"the operator's choices (default {config.default_path()})",
    )
    group.add_argument("--version", action="version", version=f"claude-bridge-server {__version__}")
    return parser


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="claude-bridge-server",
        description="Let containers use this host's Claude Code.",
        parents=[_common(None)],
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    common = _common(argparse.SUPPRESS)

    def add(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, help=text, description=text, parents=[common])
        parser.set_defaults(command=command)
        return parser

    serving = add("serve", serve, "Serve until TERM; HUP reads configuration and grants anew.")
    _add_default_grant(serving)
    serving.add_argument("--log", type=Path, metavar="FILE", help="write there instead; moved aside when it has grown")
    granting = add("grant", grant, "Let containers use Claude on one workspace; prints the directory to mount.")
    granting.add_argument("name", metavar="NAME")
    granting.add_argument("--workspace", type=Path, required=True, metavar="DIR")
    granting.add_argument("--user", metavar="UID[:GID]", help=USER_HELP)
    granting.add_argument("--share", action="append", default=[], metavar="HOSTDIR:CONTAINERDIR[:ro]")
    granting.add_argument(
        "--protect", action="append", default=[], metavar="PATH", help="a further path of DIR that Claude only reads"
    )
    granting.add_argument(
        "--unprotect", action="append", default=[], metavar="PATH", help="a path of DIR that Claude may write after all"
    )
    revoking = add("revoke", revoke, "End a grant at once, its running calls included.")
    revoking.add_argument("name", metavar="NAME")
    showing = add("status", status, "Show what runs and what waits.")
    showing.add_argument("--json", action="store_true", help="print one JSON document; exit code 1 when no server runs")
    using = add("usage", usage, "Show what the grants used: tokens, cost and failed requests, by day.")
    using.add_argument("names", nargs="*", metavar="NAME", help="of these grants only")
    using.add_argument("--since", metavar="DAY", default="7d", help=SINCE_HELP)
    form = using.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON document")
    form.add_argument("--prometheus", action="store_true", help="print counters of all days, for a textfile collector")
    add("release", release, "Let new work start although the API told of a usage limit.")
    explaining = add("explain", explain, "Show what would be run for these arguments, and why.")
    explaining.add_argument("--grant", metavar="NAME", help="with the shares of this grant")
    explaining.add_argument("--project", type=Path, metavar="DIR", help="with the settings of the project in DIR")
    explaining.add_argument("arguments", nargs=argparse.REMAINDER, metavar="-- ARGS")
    text = "Store a long-lived token (of `claude setup-token`) or an API key, read from the terminal or stdin."
    add("login", login, text)
    add("doctor", diagnose, "Check everything that a call needs.")
    installing = add("install", install, "Write a systemd user unit that runs the server from login on.")
    _add_default_grant(installing)
    return top


def _add_default_grant(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workspace", type=Path, metavar="DIR", help="make a grant `default` for it")
    parser.add_argument("--user", metavar="UID[:GID]", help=USER_HELP)


# Commands


def serve(operator: Operator, options: argparse.Namespace) -> int:
    """Run the server."""
    operator.serve(options.workspace, options.user, options.log)
    return OK


def grant(operator: Operator, options: argparse.Namespace) -> int:
    """Make or change a grant."""
    try:
        choice = Choice.of(options.protect, options.unprotect)
    except ProtectionError as error:
        raise OperatorError(str(error), USAGE) from None
    print(operator.grant(options.name, options.workspace, shares=options.share, user=options.user, choice=choice))
    return OK


def revoke(operator: Operator, options: argparse.Namespace) -> int:
    """End a grant."""
    if not operator.revoke(options.name):
        known = ", ".join(operator.grant_names()) or "none"
        raise OperatorError(f"there is no grant {options.name!r}; there are: {known}", USAGE)
    return OK


def status(operator: Operator, options: argparse.Namespace) -> int:
    """Show the state of the running server."""
    if not options.json:
        print("\n".join(operator.status_lines()))
        return OK
    document = operator.status_document()
    print(json.dumps(document))
    return OK if document["server"] else FAILED


def usage(operator: Operator, options: argparse.Namespace) -> int:
    """Show what was used."""
    form = "json" if options.json else "prometheus" if options.prometheus else "text"
    print(operator.usage_report(options.since, options.names, form, with_bars=sys.stdout.isatty()))
    return OK


def release(operator: Operator, _options: argparse.Namespace) -> int:
    """End what holds new work."""
    operator.release()
    print("bridge: new work starts again, one call after another")
    return OK


def explain(operator: Operator, options: argparse.Namespace) -> int:
    """Show what the policy decides for some arguments."""
    words = options.arguments[1:] if options.arguments[:1] == ["--"] else options.arguments
    try:
        plan = operator.plan(words, options.grant, options.project)
    except PolicyError as refusal:
        print(f"refuse   {refusal}")
        return REFUSED
    for decision in plan.decisions:
        print(f"{decision.verdict:<8} {printable(decision.what)}\n         {printable(decision.why)}")
    print("runs     claude " + " ".join(printable(json.dumps(word), 1 << 20) for word in plan.argv))
    if plan.controls:
        print("stdin    control messages, each judged and written anew")
    return OK


def login(operator: Operator, _options: argparse.Namespace) -> int:
    """Store the host's credential."""
    secret = getpass.getpass("Token or key: ") if sys.stdin.isatty() else sys.stdin.readline()
    print(f"bridge: stored the {operator.login(secret.strip())}; it counts from the next call on")
    return OK


def diagnose(operator: Operator, _options: argparse.Namespace) -> int:
    """Show what works, and how to fix what does not."""
    results = operator.doctor()
    print("\n".join(result.line for result in results))
    return OK if all(result.good for result in results) else FAILED


def install(operator: Operator, options: argparse.Namespace) -> int:
    """Write the systemd unit."""
    unit = operator.install(options.workspace, options.user)
    print(f"bridge: wrote {unit}")
    print(f"bridge: now type `systemctl --user daemon-reload && systemctl --user enable --now {unit.name}`")
    return OK
