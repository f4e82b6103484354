"""What an operator can do with a bridge. The command line and this project's tasks come in by this door alone."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bridge
from bridge.client.project_files import project_files
from bridge.policy import Scope
from bridge.policy.argv import Plan, rewrite
from bridge.protocol.errors import SERVE
from bridge.server.host import config
from bridge.server.host.cli import HostCli
from bridge.server.host.credentials import is_key
from bridge.server.host.files import replace_file
from bridge.server.host.grants import SOCKET_NAME, StateError
from bridge.server.host.listeners import link
from bridge.server.host.state_directory import StateDirectory, default_root
from bridge.server.operator import admin_socket, doctor, foreground, report, systemd
from bridge.server.sandbox import bubblewrap

FAILED, USAGE = 1, 64

START_S = 40.0
"""Two questions to a CLI on a cold disk, 20 s each at most; warm it is half a second."""

STOP_S = 20.0
"""Running calls get limits.stop_grace, 5 s by default."""

WELL_KNOWN = Path("/var/run/claude-code-bridge.sock")
"""Where a host's own programs find the default grant, when the server is root's."""

_started: list[subprocess.Popen[bytes]] = []
"""Servers that outlive this process on purpose; forgotten, each would be reported as a leak."""


class OperatorError(Exception):
    """Something could not be done: one line, and the exit code (USAGE: it was asked for wrongly)."""

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
    """What the host's Claude Code prints as its version, or why there is none."""


@contextmanager
def _as_operator_errors() -> Iterator[None]:
    try:
        yield
    except config.ConfigError as error:
        raise OperatorError(str(error), USAGE) from error
    except (StateError, bubblewrap.ConfinementError, OSError) as error:
        raise OperatorError(str(error)) from error


class Operator:
    """One bridge: its state directory and its configuration. Every method raises OperatorError."""

    def __init__(self, root: Path | None = None, config_path: Path | None = None) -> None:
        """Without `root` or `config_path` it is the usual place."""
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
        """Have a server running, as a process that outlives this one."""
        chosen = config.load(self._config_path)
        self._state.prepare()
        if self._state.server_pid() is None:
            self._spawn()
        answer = admin_socket.ask(self._state, "status")
        if answer is None:
            raise OperatorError(f"the server has ended again; see {self._log}")
        return RunningServer(answer["pid"], self.root, answer["cli"] or f"no Claude Code; {_problem_of_cli(chosen)}")

    @_as_operator_errors()
    def stop(self) -> int | None:
        """Stop the server, whose running calls get their grace; its process, or None when none ran."""
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
        """Be the server until TERM or INT; with `workspace`, a grant `default` is made for it."""
        self._state.prepare()
        if config.load(self._config_path).confinement == "bubblewrap":
            bubblewrap.check()
        else:
            self._state.open_for_owners()
        self._state.lock()
        self._state.clean()
        if workspace is not None:
            directory = self._add_default(workspace, user)
            if os.geteuid() == 0 and self._is_usual_place:
                link(WELL_KNOWN, directory / SOCKET_NAME)
        foreground.run(self._state, lambda: config.load(self._config_path), log)

    @_as_operator_errors()
    def reload(self, name: str | None = None) -> None:
        """Have a running server read configuration and grants anew; an error when it cannot serve grant `name`."""
        admin_socket.reload(self._state, name)

    @_as_operator_errors()
    def status(self) -> dict[str, Any] | None:
        """What runs and what waits, as `BridgeServer.status` gives it; None when no server runs."""
        self._state.prepare()
        return admin_socket.ask(self._state, "status")

    def status_lines(self) -> list[str]:
        """The same for people; an error when no server runs."""
        answer = self.status()
        if answer is None:
            raise OperatorError(f"no server runs in {self.root}; start one with {SERVE}")
        return report.status_lines(answer)

    # Grants

    @_as_operator_errors()
    def grant(
        self, name: str, workspace: Path, *, shares: Sequence[str] | None = None, user: str | None = None
    ) -> Path:
        """Let containers that mount the directory returned use the host's Claude Code on `workspace`.

        `shares` are written as HOSTDIR:CONTAINERDIR[:ro]. It runs as `user` (UID[:GID] or a name), without one as it
        did before, or as the workspace's owner. A running server serves the grant when this returns.
        Without `shares`, those of an earlier grant of the same workspace stay, and a grant that is known as it is
        wanted is left alone.
        """
        self._state.prepare()
        if not workspace.is_dir():
            raise OperatorError(f"{workspace} is no directory; name the workspace that the container mounts", USAGE)
        known = self._state.grants().get(name)
        wanted = self._state.renewed(name, workspace, shares or (), user)
        if shares is None and known and known.workspace == wanted.workspace:
            wanted = dataclasses.replace(wanted, shares=known.shares)
            if known == wanted:
                return self._state.prepare_mount(name)
        directory = self._state.add(wanted, protected=self._protected_paths())
        admin_socket.reload(self._state, name)
        return directory

    @_as_operator_errors()
    def revoke(self, name: str) -> bool:
        """End a grant at once, its running calls included, and say whether there was one. Its conversations stay."""
        is_known = self._exists() and self._state.remove(name)
        if is_known:
            admin_socket.reload(self._state)
        return is_known

    @_as_operator_errors()
    def forget(self, name: str) -> None:
        """End a grant and remove what it kept, its conversations included. No container may mount it any longer."""
        self.revoke(name)
        self._state.forget(name)

    @_as_operator_errors()
    def grant_names(self) -> list[str]:
        """The names of all grants."""
        return list(self._state.registered()) if self._exists() else []

    @_as_operator_errors()
    def refuse_links_of_containers(self, path: Path) -> None:
        """Refuse a folder whose name leads through a link that a container can have made."""
        if self._exists():
            self._state.refuse_links_of_containers(path)

    # The host

    @_as_operator_errors()
    def find_cli(self) -> Path | None:
        """The host's Claude Code, if there is one."""
        return HostCli(config.load(self._config_path).claude).find()

    @_as_operator_errors()
    def needs_bubblewrap(self) -> bool:
        """Whether a server has still to be started, and its calls run under bubblewrap."""
        is_running = self._exists() and self._state.server_pid() is not None
        return not is_running and config.load(self._config_path).confinement == "bubblewrap"

    @_as_operator_errors()
    def check_bubblewrap(self) -> None:
        """Make sure that bubblewrap is there and works."""
        bubblewrap.check()

    @_as_operator_errors()
    def doctor(self) -> list[doctor.Result]:
        """Look at everything that a call needs."""
        self._state.prepare()
        return doctor.examine(self._state, config.load(self._config_path))

    @_as_operator_errors()
    def login(self, secret: str) -> str:
        """Store a token or key for the calls from now on; which of both it is."""
        if not secret or any(character.isspace() for character in secret):
            raise OperatorError("that is no token; `claude setup-token` on the host makes one", USAGE)
        self._state.prepare()
        replace_file(self._state.token, secret.encode() + b"\n")
        return "API key" if is_key(secret) else "token"

    @_as_operator_errors()
    def plan(self, words: list[str], grant: str | None = None, project: Path | None = None) -> Plan:
        """What would be run for these arguments with the shares of `grant` and the settings of `project`.

        PolicyError when they would be refused.
        """
        chosen = config.load(self._config_path)
        web = chosen.confinement != "none" and chosen.network == "web"
        scope = Scope(self._share_targets(grant), chosen.allowed, chosen.refused, hands=True, web=web)
        where = os.fsencode(project.resolve()) if project else b""
        files = project_files(where, where) if where else []
        return rewrite(words, scope, files=files, env=[name + b"=" + value for name, value in os.environb.items()])

    @_as_operator_errors()
    def install(self, workspace: Path | None = None, user: str | None = None) -> Path:
        """Write a systemd user unit for this bridge; with `workspace`, a grant `default` is made for it."""
        self._state.prepare()
        if workspace is not None:
            self._add_default(workspace, user)
        return systemd.write_unit(self.root, self._config_path)

    # Helpers

    @property
    def _log(self) -> Path:
        """Where a server that `start` started writes; it moves the file aside when it has grown."""
        return self.root / "server.log"

    def _exists(self) -> bool:
        """Whether there is a state directory. Looking for something must not make one."""
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

    def _protected_paths(self) -> Iterable[Path]:
        """What no container may write: the configuration, the CLI and this program."""
        cli = HostCli(config.load(self._config_path).claude).find()
        configuration = self._config_path or config.default_path()
        return [configuration, Path(bridge.__file__).parent, *([cli] if cli else [])]

    def _spawn(self) -> None:
        """Start the server as a process of its own and wait until it answers."""
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
