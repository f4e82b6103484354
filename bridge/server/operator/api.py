"""What an operator can do with a bridge. The command line and this project's tasks use only this API.

Whoever lists agents imports this, and wants the answer at once. So the parts that load the whole server or the policy
are imported by the methods that need them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bridge
from bridge.policy import Scope
from bridge.protocol.errors import SERVE
from bridge.server.host import config, conversations, protected, usage
from bridge.server.host.budgets import Period, standings
from bridge.server.host.claude_cli import HostCli
from bridge.server.host.credentials import is_key
from bridge.server.host.files import own_directory, replace_file
from bridge.server.host.grants import SOCKET_NAME, Grant, StateError
from bridge.server.host.listeners import link
from bridge.server.host.places import Place, PlaceError
from bridge.server.host.protected import Choice, ProtectionError
from bridge.server.host.state_directory import StateDirectory, default_root
from bridge.server.host.usage import Row
from bridge.server.operator import admin_socket, report, systemd, usage_report

if TYPE_CHECKING:
    from bridge.policy.argv import Plan
    from bridge.server.operator import doctor

FAILED, USAGE = 1, 64

START_S = 40.0
"""Seconds until a started server must answer. The CLI on a cold disk is run twice, at most 20 s each; warm it takes
0.5 s."""

STOP_S = 20.0
"""Seconds until a server must have stopped. Running calls get limits.stop_grace, 5 s by default."""

WELL_KNOWN = Path("/var/run/claude-code-bridge.sock")
"""Path of the default grant's socket for programs on the host itself, if the server runs as root."""

_started: list[subprocess.Popen[bytes]] = []
"""Servers that outlive this process on purpose. Without this list, each would be reported as a leak."""


class OperatorError(Exception):
    """A command failed. Holds one line of text, and the exit code (USAGE if the request was wrong)."""

    def __init__(self, text: str, code: int = FAILED) -> None:
        super().__init__(text)
        self.code = code


@dataclasses.dataclass(frozen=True)
class RunningServer:
    """A server that answers."""

    pid: int
    root: Path
    """Its state directory."""
    cli: str
    """The version that the host's Claude Code prints, or why there is none."""
    login: str
    """Where the login comes from and how long it lasts, or why there is none."""


@contextmanager
def _as_operator_errors() -> Iterator[None]:
    try:
        yield
    except config.ConfigError as error:
        raise OperatorError(str(error), USAGE) from error
    except (StateError, PlaceError, ProtectionError, OSError) as error:
        raise OperatorError(str(error)) from error


class Operator:
    """One bridge: its state directory and its configuration. Every method raises OperatorError."""

    def __init__(self, root: Path | None = None, config_path: Path | None = None) -> None:
        """Without `root` or `config_path`, the default paths are used."""
        self._state = StateDirectory((root or default_root()).absolute())
        self._config_path = config_path
        self._is_usual_place = root is None

    @property
    def root(self) -> Path:
        """The state directory."""
        return self._state.root

    # The server

    @_as_operator_errors()
    def start(self) -> RunningServer:
        """Start a server that outlives this process, unless one runs."""
        chosen = config.load(self._config_path)
        self._state.prepare()
        if self._state.server_pid() is None:
            self._spawn()
        answer = admin_socket.ask(self._state, "status")
        if answer is None:
            raise OperatorError(f"the server has ended again; see {self._log}")
        cli = answer["cli"] or f"no Claude Code; {_problem_of_cli(chosen)}"
        return RunningServer(answer["pid"], self.root, cli, report.login_line(answer["login"]))

    @_as_operator_errors()
    def stop(self) -> int | None:
        """Stop the server. Running calls get their grace time. Returns the server's pid, or None if none ran."""
        pid = self._state.server_pid() if self._exists() else None
        if pid is None:
            return None
        os.kill(pid, signal.SIGTERM)
        _wait(lambda: self._state.server_pid() is None, STOP_S, f"server {pid} does not stop")
        for process in [process for process in _started if process.pid == pid]:
            process.wait(STOP_S)
            _started.remove(process)
        return pid

    @_as_operator_errors()
    def serve(self, workspace: Path | None = None, user: str | None = None, log: Path | None = None) -> None:
        """Run the server in this process until TERM or INT. With `workspace`, a grant `default` is made for it."""
        from bridge.server.operator import foreground
        from bridge.server.sandbox import bubblewrap

        self._state.prepare()
        if config.load(self._config_path).confinement == "bubblewrap":
            self.check_bubblewrap()
        else:
            self._state.open_for_owners()
        self._state.lock()
        bubblewrap.kill_left(self._state.root / "scratch")
        self._state.clean()
        if workspace is not None:
            directory = self._add_default(workspace, user)
            if os.geteuid() == 0 and self._is_usual_place:
                link(WELL_KNOWN, directory / SOCKET_NAME)
        foreground.run(self._state, lambda: config.load(self._config_path), log)

    @_as_operator_errors()
    def reload(self, name: str | None = None) -> None:
        """Let a running server read configuration and grants again. Fails if it cannot serve grant `name`."""
        admin_socket.reload(self._state, name)

    @_as_operator_errors()
    def release(self) -> None:
        """Let new work start although the API told of a usage limit. Fails if nothing is held, or no server runs."""
        answer = admin_socket.ask(self._state, "release") if self._exists() else None
        if answer is None:
            raise OperatorError(f"no server runs in {self.root}; start one with {SERVE}")
        if answer["problem"]:
            raise OperatorError(answer["problem"])

    @_as_operator_errors()
    def status(self) -> dict[str, Any] | None:
        """Return what runs and what waits, as `BridgeServer.status` does; None if no server runs."""
        self._state.prepare()
        return admin_socket.ask(self._state, "status")

    def status_document(self) -> dict[str, Any]:
        """Return the status as the document of `status --json`. Without a server its `server` is None."""
        return report.status_document(self.status())

    def status_lines(self) -> list[str]:
        """Return the status as lines of text. Fails if no server runs."""
        answer = self.status()
        if answer is None:
            raise OperatorError(f"no server runs in {self.root}; start one with {SERVE}")
        return report.status_lines(answer)

    # Use

    @_as_operator_errors()
    def usage(self, since: str = "", names: Sequence[str] = ()) -> list[Row]:
        """Return what the grants used, or those of `names`, from a day on (UTC; an empty text: all that is kept).

        Also of grants that have ended.
        """
        if not self._exists():
            return []
        try:
            found = usage.rows(self._state.usage, since)
        except sqlite3.Error as error:
            raise OperatorError(f"{self._state.usage}: {error}; run it as the user that runs the server") from error
        return [row for row in found if not names or row.grant in names]

    def usage_report(
        self, since: str, names: Sequence[str] = (), form: str = "text", *, with_bars: bool = False
    ) -> str:
        """Return what the grants used, as `text`, `json` or `prometheus`. `since`: see `usage_report.first_day`."""
        for name in sorted({*names} - {*self.grant_names()} - {row.grant for row in self.usage(names=names)}):
            known = ", ".join(self.grant_names()) or "none"
            raise OperatorError(f"no grant {name!r} exists or has used anything; there are: {known}", USAGE)
        if form == "prometheus":
            return usage_report.prometheus(self.usage(names=names)).rstrip("\n")
        try:
            day = usage_report.first_day(since, usage.today(time.time()))
        except ValueError as error:
            raise OperatorError(str(error), USAGE) from None
        rows, budgets = self.usage(day, names), self.budgets(names)
        if form == "json":
            return json.dumps(usage_report.document(rows, day, budgets))
        return "\n".join(usage_report.text(rows, day, budgets, with_bars=with_bars))

    @_as_operator_errors()
    def budgets(self, names: Sequence[str] = ()) -> dict[str, list[dict[str, Any]]]:
        """Return the budgets of the grants, or of those of `names`, with what is used of them (`Standing.facts`)."""
        chosen, now = config.load(self._config_path).budgets, time.time()
        first = Period.WEEK.begins(now).date().isoformat()
        rows = self.usage(first)

        def used(grant: str, since: str) -> tuple[int, int]:
            mine = [row for row in rows if row.grant == grant and row.day >= since]
            return sum(row.tokens for row in mine), sum(row.micros for row in mine)

        wanted = names or self.grant_names()
        return {name: [each.facts() for each in standings(chosen, name, used, now)] for name in wanted}

    # Grants

    @_as_operator_errors()
    def grant(
        self,
        name: str,
        workspace: Path,
        *,
        shares: Sequence[str] | None = None,
        user: str | None = None,
        choice: Choice | None = None,
        of_agent: bool = False,
    ) -> Path:
        """Let containers that mount the returned directory use the host's Claude Code on `workspace`.

        Each of `shares` is HOSTDIR:CONTAINERDIR[:ro]. Claude runs as `user` (UID[:GID] or a name). Without `user`,
        a known grant keeps its user, and a new one uses the workspace's owner. A running server serves the grant
        when this returns. Without `shares` or `choice`, an earlier grant of the same workspace keeps its own, and a
        grant without changes is left alone. `of_agent`: what ends the agent's container also calls `tidy`.
        """
        self._state.prepare()
        if not workspace.is_dir():
            raise OperatorError(f"{workspace} is no directory; name the workspace that the container mounts", USAGE)
        known = self._state.grants().get(name)
        wanted = self._state.renewed(name, workspace, shares or (), user)
        before = known if known and known.workspace == wanted.workspace else None
        if choice is None:
            choice = before.choice if before else Choice()
        of_agent |= bool(before and before.of_agent)
        wanted = dataclasses.replace(wanted, choice=choice, of_agent=of_agent)
        if shares is None and before:
            wanted = dataclasses.replace(wanted, shares=before.shares)
        if shares is None and known == wanted:
            directory = self._state.prepare_mount(name)
            self._protect(wanted)
            return directory
        directory = self._state.add(wanted, protected=self._protected_paths())
        try:
            self._protect(wanted)
        except ProtectionError:
            if known is None:
                self._state.remove(name)
            raise
        if known and not before:
            self._tidy(known)
        admin_socket.reload(self._state, name)
        return directory

    @_as_operator_errors()
    def revoke(self, name: str) -> bool:
        """End a grant and its running calls at once. Returns whether there was one. Its conversations stay."""
        known = self._state.grants().get(name) if self._exists() else None
        is_known = self._exists() and self._state.remove(name)
        if is_known:
            admin_socket.reload(self._state)
        if known and not known.of_agent:
            self._tidy(known)
        return is_known

    @_as_operator_errors()
    def tidy(self, workspace: Path, others: Iterable[str] = ()) -> None:
        """Remove the stand-ins of protected paths from a workspace, unless a grant uses it. See `protected.clear`."""
        used = self._state.grants().values() if self._exists() else ()
        if all(grant.workspace != os.path.realpath(workspace) for grant in used):
            with contextlib.suppress(PlaceError):  # ignored because a folder that is gone holds none
                protected.clear(Place.pin(workspace), others)

    @_as_operator_errors()
    def forget(self, name: str) -> None:
        """End a grant and remove its data, including its conversations. No container may still mount it."""
        self.revoke(name)
        self._state.forget(name)

    @_as_operator_errors()
    def grant_names(self) -> list[str]:
        """Return the names of all grants."""
        return list(self._state.registered()) if self._exists() else []

    @_as_operator_errors()
    def workspaces(self) -> dict[str, str]:
        """Return the path of each grant's workspace, by the grant's name."""
        return self._state.workspaces() if self._exists() else {}

    @_as_operator_errors()
    def names_with_conversations(self, workspace: Path) -> list[str]:
        """Return the names of the grants, also of ended ones, that keep conversations on a workspace."""
        return conversations.names(self._state.kept, str(workspace)) if self._exists() else []

    @_as_operator_errors()
    def move_conversations(self, old: tuple[str, str], new: tuple[str, str]) -> None:
        """Give the conversations of a grant's name and workspace to another name and workspace, unless that has
        some."""
        if self._exists():
            conversations.move(self._state.kept, old, new)

    @_as_operator_errors()
    def own_directory(self, name: str) -> Path:
        """Return a directory of the state directory for records of the program that uses this API."""
        self._state.prepare()
        own_directory(self.root / name, 0o700)
        return self.root / name

    @_as_operator_errors()
    def refuse_links_of_containers(self, path: Path) -> None:
        """Refuse a folder whose path leads through a link that a container could have made."""
        if self._exists():
            self._state.refuse_links_of_containers(path)

    # The host

    @_as_operator_errors()
    def find_cli(self) -> Path | None:
        """Return the file of the host's Claude Code, if there is one."""
        return HostCli(config.load(self._config_path).claude).find()

    @_as_operator_errors()
    def needs_bubblewrap(self) -> bool:
        """Return whether a server must still be started and its calls run under bubblewrap."""
        is_running = self._exists() and self._state.server_pid() is not None
        return not is_running and config.load(self._config_path).confinement == "bubblewrap"

    def check_bubblewrap(self) -> None:
        """Check that bubblewrap is installed and works."""
        from bridge.server.sandbox import bubblewrap

        try:
            bubblewrap.check()
        except (bubblewrap.ConfinementError, OSError) as error:
            raise OperatorError(str(error)) from error

    @_as_operator_errors()
    def doctor(self) -> list[doctor.Result]:
        """Check everything that a call needs."""
        from bridge.server.operator import doctor

        self._state.prepare()
        return doctor.examine(self._state, config.load(self._config_path))

    @_as_operator_errors()
    def login(self, secret: str) -> str:
        """Store a token or key for later calls. Returns which of the two it is, as text."""
        if not secret or any(character.isspace() for character in secret):
            raise OperatorError("that is no token; `claude setup-token` on the host makes one", USAGE)
        self._state.prepare()
        replace_file(self._state.token, secret.encode() + b"\n")
        return "API key" if is_key(secret) else "token"

    @_as_operator_errors()
    def plan(self, words: list[str], grant: str | None = None, project: Path | None = None) -> Plan:
        """Return what would be run for these arguments, with the shares of `grant` and the settings of `project`.

        Raises PolicyError if they would be refused.
        """
        from bridge.client.flag_files import flag_files
        from bridge.client.project_files import project_files
        from bridge.policy.argv import rewrite

        chosen = config.load(self._config_path)
        web = chosen.confinement != "none" and chosen.network == "web"
        scope = Scope(self._share_targets(grant), chosen.allowed, chosen.refused, runs_commands=True, web=web)
        where = os.fsencode(project.resolve()) if project else b""
        files = [value for name, value in project_files(where, workspace=where) if name == "file"] if where else []
        texts = flag_files([os.fsencode(word) for word in words])
        env = [name + b"=" + value for name, value in os.environb.items()]
        return rewrite(words, scope, files=files, texts=texts, env=env)

    @_as_operator_errors()
    def install(self, workspace: Path | None = None, user: str | None = None) -> Path:
        """Write a systemd user unit for this bridge. With `workspace`, a grant `default` is made for it."""
        self._state.prepare()
        if workspace is not None:
            self._add_default(workspace, user)
        return systemd.write_unit(self.root, self._config_path)

    # Helpers

    @property
    def _log(self) -> Path:
        """The log file of a server that `start` started. The server moves it aside when it has grown too large."""
        return self.root / "server.log"

    def _exists(self) -> bool:
        """Return whether there is a state directory. A mere look-up must not create one."""
        if not self.root.is_dir():
            return False
        self._state.prepare()
        return True

    def _share_targets(self, grant: str | None) -> tuple[str, ...]:
        if grant is None:
            return ()
        self._state.prepare()
        grants = self._state.grants()
        if grant not in grants:
            raise OperatorError(f"there is no grant {grant!r} that can be read", USAGE)
        return tuple(share.target for share in grants[grant].shares)

    def _add_default(self, workspace: Path, user: str | None) -> Path:
        return self._state.add(self._state.renewed("default", workspace, user=user), protected=self._protected_paths())

    def _protect(self, grant: Grant) -> None:
        """Make the stand-ins of protected paths. Without a namespace nothing is protected."""
        if config.load(self._config_path).confinement != "none":
            protected.prepare(grant.place, grant.choice)

    def _tidy(self, grant: Grant) -> None:
        self.tidy(Path(grant.workspace), grant.choice.more)

    def _protected_paths(self) -> Iterable[Path]:
        """Return the paths that no container may write to: the configuration, the CLI and this program."""
        cli = HostCli(config.load(self._config_path).claude).find()
        configuration = self._config_path or config.default_path()
        return [configuration, Path(bridge.__file__).parent, *([cli] if cli else [])]

    def _spawn(self) -> None:
        """Start the server as a separate process, and wait until it answers."""
        command = [sys.executable, "-m", "bridge.server", "serve", "--state", str(self.root), "--log", str(self._log)]
        command += ["--config", str(self._config_path.absolute())] if self._config_path else []
        with self._log.open("wb") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=Path(bridge.__file__).parents[1],  # for a package that is not installed
                start_new_session=True,
            )
        _started.append(process)
        _wait(
            lambda: process.poll() is not None or admin_socket.ask(self._state, "status") is not None,
            START_S,
            f"the server does not answer; see {self._log}",
        )
        if process.poll() is not None:
            lines = self._log.read_text(errors="replace").strip().splitlines() or ["nothing in its log"]
            raise OperatorError(f"the server ended with {process.returncode}: {lines[-1].removeprefix('bridge: ')}")


def _problem_of_cli(chosen: config.Config) -> str:
    cli = HostCli(chosen.claude)
    cli.find()
    return cli.problem


def _wait(done: Callable[[], bool], limit_s: float, otherwise: str) -> None:
    deadline = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > deadline:
            raise OperatorError(otherwise)
        time.sleep(0.05)
