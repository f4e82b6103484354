"""Launches the CLI of one call: a checked request goes in, a running process comes out."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from bridge.policy import Scope, environment, telemetry
from bridge.policy.argv import Plan
from bridge.policy.telemetry import Report
from bridge.protocol.frames import Fields
from bridge.server import tool_calls
from bridge.server.activity import Kind
from bridge.server.channel import Channel
from bridge.server.copies import Copies
from bridge.server.gate import Gate
from bridge.server.host import credentials, trees
from bridge.server.host.claude_cli import HostCli
from bridge.server.host.config import Config
from bridge.server.host.credentials import Credential, NoCredentialsError
from bridge.server.host.grants import Grant, StateError
from bridge.server.host.login import Login
from bridge.server.host.places import PlaceError
from bridge.server.host.protected import ProtectionError
from bridge.server.host.state_directory import StateDirectory
from bridge.server.paths import PathTranslator
from bridge.server.policy_worker import directory_of, kind_of
from bridge.server.sandbox import bubblewrap
from bridge.server.sandbox.process import CliProcess
from bridge.server.sandbox.proxy import Rules
from bridge.server.sandbox.reports import Reports
from bridge.server.tool_calls import ToolCalls

WORD = b"CLAUDE_BRIDGE_CALL"
"""The variable of a call's commands that tells a client in the container which call it belongs to."""


@dataclasses.dataclass(frozen=True)
class LaunchRequest:
    """A request that the policy has checked, and whose turn it is."""

    grant: Grant
    terms: Scope
    plan: Plan
    fields: Fields
    """What the client sent, without arguments and what it read of the project: those are in the plan."""
    gate: Gate
    """Where the CLI's requests to the API wait for the call's place."""
    word: str
    """What the commands of this call are told, so that calls of theirs can share its place."""

    @property
    def cwd(self) -> str:
        """The client's working directory."""
        return directory_of(self.fields)

    @property
    def has_stdin(self) -> bool:
        """Whether the client's stdin has data to read."""
        return self.fields.get("stdin") in (b"pipe", b"file")

    @property
    def is_interactive(self) -> bool:
        """Whether the CLI shows its interface on the client's terminal."""
        return kind_of(self.plan, self.fields, self.terms) is Kind.INTERACTIVE


class Listener(tool_calls.Listener, Protocol):
    """Gets the events of a launched process."""

    def on_exit(self, code: int) -> None:
        """The process has ended. `code` is its exit code, or minus a signal."""


class Launch(Protocol):
    """Launches the CLI for a call."""

    def __call__(self, request: LaunchRequest, channel: Channel, listener: Listener) -> tuple[CliProcess, ToolCalls]:
        """Return the running process, and the object that serves its tool calls. Can raise any Exception."""


@dataclasses.dataclass(frozen=True)
class Launcher:
    """Launches calls with one configuration of the server."""

    state: StateDirectory
    config: Config
    cli: HostCli
    login: Login
    record: Callable[[str, list[Report]], None]
    """Counts what the CLI of a grant's call reports of its use. Raises OSError if that is not possible now."""

    @property
    def is_confined(self) -> bool:
        """Whether calls run in a namespace, with their own network."""
        return self.config.confinement != "none"

    def launch(self, request: LaunchRequest, channel: Channel, listener: Listener) -> tuple[CliProcess, ToolCalls]:
        """See `Launch`. Leaves nothing behind if it fails."""
        scratch = self.state.scratch()
        tools: ToolCalls | None = None
        try:
            credential = self.login.credential()
            rules = self._rules(request, credential)
            reports = Reports(functools.partial(self.record, request.grant.name))
            direct = None if self.is_confined else reports.listen()
            paths = PathTranslator(None if self.is_confined else request.grant.workspace)
            home = environment.CONFIG if self.is_confined else os.fsencode(scratch)
            copies = Copies(channel, request.fields.get("copies"), home)
            variables = {name.encode(): value.encode() for name, value in request.plan.env.items()}
            variables[WORD] = request.word.encode()
            tools = ToolCalls(
                channel, scratch / "tools", rules, paths, copies, listener, variables, request.gate, reports, direct
            )
            command = self._command(request, scratch, rules if self.is_confined else None, credential, reports)
            return CliProcess(command, request.has_stdin, listener.on_exit), tools
        except BaseException:
            if tools is not None:
                tools.end()
            trees.remove(scratch)  # ignored if it fails, because the next server removes it
            raise

    # The command

    def _command(
        self,
        request: LaunchRequest,
        scratch: Path,
        rules: Rules | None,
        credential: Credential | None,
        reports: Reports,
    ) -> bubblewrap.Command:
        operator = rules.disguise.environment if rules else self._operator_environment
        program = self.cli.find()
        if program is None:
            raise StateError(self.cli.problem)
        project, memory = request.plan.project, request.plan.project.memory
        if not self.cli.reads_agents_md:
            files = {name: text for name, text in project.files.items() if name not in memory.of_agents}
            project = dataclasses.replace(project, files=files)
        project = project.without_modes(self.cli.ignored_modes)
        reporting = telemetry.variables(reports.name, reports.secret, operator)
        env = environment.build(request.fields.all("env"), {**operator, **reporting}, request.plan.env)
        if not self.is_confined:
            env = environment.without_proxy_for(env, reports.name)
        if project.servers and "--mcp-config" not in request.plan.flags:
            env = environment.without_long_wait(env)
        login = rules.credential(credential) if rules else credential
        if "--bare" in request.plan.flags and login is not None and login.is_key:
            env, login = for_bare(env, login, credential), None
        spec = bubblewrap.SandboxSpec(
            request.grant,
            program,
            request.plan.argv,
            env,
            request.cwd,
            memory.text_with_agents if self.cli.reads_agents_md else memory.text,
            login,
            project,
            scratch,
            request.terms.runs_commands,
            request.is_interactive,
            self._offer(request),
        )
        if self.is_confined:
            given = self.config.environment.items()
            own = {name: value for name, value in given if operator.get(name) == value}  # no placeholder
            bubblewrap.refuse_what_could_be_read(own, self.cli.version)
            return bubblewrap.sandboxed(spec, self.state, request.terms)
        return bubblewrap.unconfined(spec, self.state, scratch.name)

    def _offer(self, request: LaunchRequest) -> str:
        """Return the text that the interface shows above its first prompt if there is a conversation to resume."""
        if request.is_interactive and not {"--continue", "--resume"} & request.plan.flags.keys():
            project = re.sub("[^a-zA-Z0-9]", "-", request.cwd)
            if any(self.state.private(request.grant).glob(f"projects/{project}/*.jsonl")):
                return "Type /resume to go on with an earlier conversation."
        return ""

    # Secrets and network

    @property
    def _operator_environment(self) -> dict[str, str]:
        """The operator's variables without the secrets, which are passed by descriptor."""
        secrets = (credentials.TOKEN, credentials.KEY)
        return {name: value for name, value in self.config.environment.items() if name not in secrets}

    def _rules(self, request: LaunchRequest, credential: Credential | None) -> Rules:
        """Return the addresses that the call may connect to, and the names and placeholders that its CLI gets."""
        environment, web = self._operator_environment, request.terms.web
        return Rules.of(environment, web, self.config.web_ports, credential, request.grant.name, self.login.present)


def for_bare(env: dict[bytes, bytes], login: Credential, real: Credential | None) -> dict[bytes, bytes]:
    """Return the environment with the key in it: with --bare, the CLI reads it from nowhere else. Raises
    NoCredentialsError if it is the real key, because other processes could read it there."""
    if login == real:
        raise NoCredentialsError(BARE)
    return {**env, credentials.KEY.encode(): login.secret.encode()}


BARE = (
    "with --bare, Claude Code takes a key from its environment alone, where the bridge puts no real one; leave --bare "
    "out, or let the host's operator set a gateway (ANTHROPIC_BASE_URL), whose key stays outside"
)


def failure_of(error: Exception, grant: Grant) -> tuple[str, str]:
    """Return the error for the client, as kind and sentence. Neither contains a path of the host."""
    if isinstance(error, NoCredentialsError):
        return "login", error.public_text
    if isinstance(error, PlaceError):
        return "changed", f"on the host, {grant.changed or error.what}"
    if isinstance(error, ProtectionError):
        return "changed", f"on the host, {error}"
    if isinstance(error, bubblewrap.ConfinementError):
        return "start", f"the host could not start Claude Code: {error}"
    # Any other message may contain paths of the host. Only the audit log gets it.
    why = error.strerror if isinstance(error, OSError) else "`claude-bridge-server doctor` there says more"
    return "start", f"the host could not start Claude Code: {why}"
