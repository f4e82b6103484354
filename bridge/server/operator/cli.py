"""`claude-bridge-server`: the operator's command."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bridge
from bridge import __version__
from bridge.client.project_files import project_files
from bridge.policy import PolicyError, Scope
from bridge.policy.argv import rewrite
from bridge.policy.terms import printable
from bridge.server.host import config
from bridge.server.host.cli import HostCli
from bridge.server.host.credentials import is_key
from bridge.server.host.grants import SOCKET_NAME, State, StateError, default_root, replace_file
from bridge.server.host.listeners import point
from bridge.server.host.log import LogFile
from bridge.server.operator import admin_socket, doctor, systemd
from bridge.server.sandbox import bubblewrap
from bridge.server.server import BridgeServer

OK, FAILED, REFUSED, USAGE = 0, 1, 126, 64

USER_HELP = "whom Claude runs as for it, a number or a name (default: the owner of DIR now; root by name alone)"

WELL_KNOWN = Path("/var/run/claude-code-bridge.sock")
"""Where a host's own programs find the default grant, when the server is root's."""


class UsageError(Exception):
    """The command cannot be carried out as it was given: one line."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    options = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except (UsageError, config.ConfigError) as error:
        print(f"bridge: {printable(error)}", file=sys.stderr)
        return USAGE
    except (StateError, bubblewrap.ConfinementError, OSError) as error:
        print(f"bridge: {printable(error)}", file=sys.stderr)
        return FAILED


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="claude-bridge-server", description="Let containers use this host's Claude Code."
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    top.add_argument("--state", type=Path, help=f"where grants and sessions are kept (default {default_root()})")
    top.add_argument("--config", type=Path, help=f"the operator's choices (default {config.default_path()})")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, help=text, description=text)
        parser.set_defaults(command=command)
        return parser

    serving = add("serve", serve, "Serve until TERM; HUP reads configuration and grants anew.")
    serving.add_argument("--workspace", type=Path, metavar="DIR", help="make a grant `default` for it")
    serving.add_argument("--user", metavar="UID[:GID]", help=USER_HELP)
    serving.add_argument("--log", type=Path, metavar="FILE", help="write there instead; moved aside when it has grown")
    granting = add("grant", grant, "Let containers use Claude on one workspace; prints the directory to mount.")
    granting.add_argument("name", metavar="NAME")
    granting.add_argument("--workspace", type=Path, required=True, metavar="DIR")
    granting.add_argument("--user", metavar="UID[:GID]", help=USER_HELP)
    granting.add_argument("--share", action="append", default=[], metavar="HOSTDIR:CONTAINERDIR[:ro]")
    revoking = add("revoke", revoke, "End a grant at once, its running calls included.")
    revoking.add_argument("name", metavar="NAME")
    showing = add("status", status, "Show what runs and what waits.")
    showing.add_argument("--json", action="store_true")
    explaining = add("explain", explain, "Show what would be run for these arguments, and why.")
    explaining.add_argument("--grant", metavar="NAME", help="with the shares of this grant")
    explaining.add_argument("--project", type=Path, metavar="DIR", help="with the settings of the project in DIR")
    explaining.add_argument("arguments", nargs=argparse.REMAINDER, metavar="-- ARGS")
    add(
        "login",
        login,
        "Store a long-lived token (of `claude setup-token`) or an API key, read from the terminal or stdin.",
    )
    add("doctor", diagnose, "Check everything that a call needs.")
    installing = add("install", set_up, "Write a systemd user unit with socket activation.")
    installing.add_argument("--workspace", type=Path, metavar="DIR", help="make a grant `default` for it")
    installing.add_argument("--user", metavar="UID[:GID]", help=USER_HELP)
    return top


def _state(options: argparse.Namespace) -> State:
    state = State((options.state or default_root()).absolute())
    state.prepare()
    return state


def _default_grant(state: State, options: argparse.Namespace) -> Path | None:
    if options.workspace is None:
        return None
    return state.add(state.renewed("default", options.workspace, user=options.user), own=own(options.config))


def own(chosen: Path | None = None) -> list[Path]:
    """What no container may write: the configuration (`chosen`, or the usual one), the CLI and this program."""
    cli = HostCli(config.load(chosen).claude).find()
    return [chosen or config.default_path(), Path(bridge.__file__).parent, *([cli] if cli else [])]


# Commands


def serve(options: argparse.Namespace) -> int:
    """Run the server."""
    state = _state(options)
    if config.load(options.config).confinement == "bubblewrap":
        bubblewrap.check()
    else:
        state.open_for_owners()
    state.lock()
    state.clean()
    directory = _default_grant(state, options)
    if directory and os.geteuid() == 0 and options.state is None:
        point(WELL_KNOWN, directory / SOCKET_NAME)
    service = BridgeServer(state, lambda: config.load(options.config))
    if options.log is not None:
        service.log = LogFile(options.log)
    return asyncio.run(_serve(service))


async def _serve(service: BridgeServer) -> int:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    operator = admin_socket.Control(service)
    await service.start()
    await operator.open()
    service.refresh()  # a grant that was made before anybody could tell this server of it
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: _say_problem(service.reload()))
    for line in _summary(service):
        print(f"bridge: {printable(line)}", flush=True)
    await ended.wait()
    operator.close()
    await service.stop()
    return OK


def _say_problem(problem: str) -> None:
    print(f"bridge: {printable(problem or 'configuration and grants read anew')}", file=sys.stderr, flush=True)


def _summary(service: BridgeServer) -> list[str]:
    grants = ", ".join(service.grants) or "none yet; make one with `claude-bridge-server grant`"
    cli = f"Claude Code {service.cli.version}" if service.cli.version else service.cli.problem
    return [f"serving {service.state.root} with {cli}", f"grants: {grants}", "ready"]


def grant(options: argparse.Namespace) -> int:
    """Make or change a grant."""
    state = _state(options)
    if not options.workspace.is_dir():
        raise UsageError(f"{options.workspace} is no directory; name the workspace that the container mounts")
    wanted = state.renewed(options.name, options.workspace, options.share, options.user)
    directory = state.add(wanted, own=own(options.config))
    admin_socket.reload(state, options.name)
    print(directory)
    return OK


def revoke(options: argparse.Namespace) -> int:
    """End a grant."""
    state = _state(options)
    if not state.remove(options.name):
        known = ", ".join(state.registered()) or "none"
        raise UsageError(f"there is no grant {options.name!r}; there are: {known}")
    admin_socket.reload(state)
    return OK


def status(options: argparse.Namespace) -> int:
    """Show the running server."""
    state = _state(options)
    answer = admin_socket.ask(state, "status")
    if options.json:
        print(json.dumps(answer or {"pid": None, "grants": {}}))
    elif answer is None:
        print(f"bridge: no server runs in {state.root}; start one with `invoke bridge.up`", file=sys.stderr)
    else:
        print("\n".join(_table(answer)))
    return OK if answer else FAILED


def _table(answer: dict[str, Any]) -> list[str]:
    lines = [
        f"Claude Code {answer['cli'] or 'missing'}; up {answer['uptime_s']:.0f} s",
        f"{answer['running']} running, {answer['queued']} queued, {answer['served']} served",
        f"{'GRANT':<20} {'RUNNING':>7} {'QUEUED':>6} {'CONNECTIONS':>11} {'OLDEST':>8}  WORKSPACE",
    ]
    for name, one in answer["grants"].items():
        oldest = max((call["age_s"] for call in one["calls"]), default=None)
        age = "-" if oldest is None else f"{oldest:.0f} s"
        note = f"  ({one['problem']})" if one["problem"] else ""
        counts = f"{one['running']:>7} {one['queued']:>6} {one['connections']:>11} {age:>8}"
        lines.append(f"{name:<20} {counts}  {one['workspace']}{note}")
    return [printable(line) for line in lines]


def explain(options: argparse.Namespace) -> int:
    """Show the policy at work."""
    words = options.arguments[1:] if options.arguments[:1] == ["--"] else options.arguments
    chosen = config.load(options.config)
    shares: tuple[str, ...] = ()
    if options.grant:
        grants = _state(options).grants()
        if options.grant not in grants:
            raise UsageError(f"there is no grant {options.grant!r} that can be read")
        shares = tuple(share.target for share in grants[options.grant].shares)
    try:
        web = chosen.confinement != "none" and chosen.network == "web"
        scope = Scope(shares, chosen.allowed, chosen.refused, hands=True, web=web)
        where = os.fsencode(options.project.resolve()) if options.project else b""
        files = project_files(where, where) if where else []
        plan = rewrite(words, scope, files=files, env=[name + b"=" + v for name, v in os.environb.items()])
    except PolicyError as refusal:
        print(f"refuse   {refusal}")
        return REFUSED
    for decision in plan.decisions:
        print(f"{decision.verdict:<8} {printable(decision.what)}\n         {printable(decision.why)}")
    print("runs     claude " + " ".join(printable(json.dumps(word), 1 << 20) for word in plan.argv))
    if plan.controls:
        print("stdin    control messages, each judged and written anew")
    return OK


def login(options: argparse.Namespace) -> int:
    """Store the host's credential."""
    state = _state(options)
    secret = getpass.getpass("Token or key: ") if sys.stdin.isatty() else sys.stdin.readline()
    secret = secret.strip()
    if not secret or any(character.isspace() for character in secret):
        raise UsageError("that is no token; `claude setup-token` on the host makes one")
    replace_file(state.token, secret.encode() + b"\n")
    print(f"bridge: stored the {'API key' if is_key(secret) else 'token'}; it counts from the next call on")
    return OK


def diagnose(options: argparse.Namespace) -> int:
    """Say what works, and how to mend what does not."""
    results = doctor.examine(_state(options), config.load(options.config))
    for result in results:
        print(f"{'ok  ' if result.good else 'FAIL'} {printable(result.what)}: {printable(result.detail)}")
    return OK if all(result.good for result in results) else FAILED


def set_up(options: argparse.Namespace) -> int:
    """Write the units."""
    state = _state(options)
    _default_grant(state, options)
    for line in systemd.write_units(state, options.config):
        print(line)
    return OK
