"""Reads bridge.yaml. All keys are optional. Each error is reported in one line."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bridge.server.host.budgets import Budget, Budgets, Over, Period

MIB = 1024 * 1024
MAX_MINUTES = 1_000_000
MAX_USD = 1_000_000
MAX_TOKENS = 1_000_000_000_000_000


class ConfigError(Exception):
    """The configuration cannot be used. The text is one line: the key, the value, and what is allowed."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of what is served at once. Counts are calls; times are seconds."""

    running: int = 8
    """Places of all grants: calls that work. A working CLI takes some 300 MB, so 8 calls take 2.4 GB. If this is at
    least twice `per_grant`, the last turn is reserved for a grant that has none running."""
    per_grant: int = 4
    """Places of one grant."""
    nested: int = 4
    """Calls from commands of a call that work at once in its place."""
    sessions: int = 128
    """Open sessions of all grants, at work or idle. The CLI of an idle one takes some 160 MB."""
    sessions_per_grant: int = 8
    """Open sessions of one grant."""
    queued: int = 32
    """Waiting calls of one grant. A grant that fills its own queue takes no place from another."""
    connections: int = 128
    """Open connections of one grant. A client that only asks for the hello needs one as well."""
    wait: int = 600
    """Seconds until a waiting call fails. Claude's own tools wait no longer than that."""
    held: int = 6 * 3600
    """Seconds that a call waits while new work is held, by a usage limit or a budget. If that lasts longer, the call
    ends at once. An account's window of five hours is waited for, one of a week is not."""
    idle: int = 300
    """Seconds until a connection without a call is closed. Clients that keep a connection ping more often."""
    stop_grace: int = 5
    """Seconds for running calls when the server stops."""
    disk: int = 2048
    """MiB that the conversations of one grant may use on the host. A long conversation takes some ten MiB."""
    memory: int = 4096
    """MiB that the processes of one call may take. A working CLI takes some 300 MB."""


@dataclasses.dataclass(frozen=True)
class Config:
    """The contents of bridge.yaml."""

    claude: str | None = None
    credentials: str = "auto"
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    confinement: str = "bubblewrap"
    network: str = "web"
    web_ports: frozenset[int] = frozenset()
    """Ports of public servers, besides 80 and 443."""
    sleep: float = 30
    """Minutes after which an idle session's CLI is ended, until somebody wants to go on. 0: never."""
    limits: Limits = dataclasses.field(default_factory=Limits)
    allowed: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    audit_path: str | None = None
    audit_size: int = 16 * MIB
    budgets: Budgets = dataclasses.field(default_factory=dict)


def default_path() -> Path:
    """Return where the configuration is read from by default."""
    if chosen := os.environ.get("CLAUDE_BRIDGE_CONFIG"):
        return Path(chosen).absolute()
    if os.geteuid() == 0:
        return Path("/etc/claude-code-bridge/bridge.yaml")
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "claude-code-bridge" / "bridge.yaml"


def load(path: Path | None) -> Config:
    """Read the configuration. If the default file does not exist, the defaults are used. Raises ConfigError."""
    wanted = path or default_path()
    try:
        text = wanted.read_text()
    except FileNotFoundError:
        if path is None:
            return Config()
        raise ConfigError(f"{wanted}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{wanted}: {error}") from None
    try:
        return parse(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ConfigError(f"{wanted}: not YAML: {' '.join(str(error).split())}") from None
    except ConfigError as error:
        raise ConfigError(f"{wanted}: {error}") from None


def parse(data: object) -> Config:
    """Return the configuration from a parsed document. Raises ConfigError."""
    top = _mapping(data, "the file")
    known = {"claude", "credentials", "environment", "confinement", "network", "web_ports", "sleep", "limits",
             "policy", "audit", "budgets"}  # fmt: skip
    _no_others(top, known, "")
    policy = _mapping(top.get("policy"), "policy")
    _no_others(policy, {"allow", "refuse"}, "policy.")
    audit = _mapping(top.get("audit"), "audit")
    _no_others(audit, {"path", "size"}, "audit.")
    return Config(
        claude=_text(top, "claude"),
        credentials=_text(top, "credentials") or "auto",
        environment=_environment(top.get("environment")),
        confinement=_choice(top, "confinement", ("bubblewrap", "none")),
        network=_choice(top, "network", ("web", "api")),
        web_ports=_ports(top.get("web_ports")),
        sleep=_minutes(top.get("sleep", Config.sleep), "sleep"),
        limits=_limits(top.get("limits")),
        allowed=_names(policy, "allow"),
        refused=_names(policy, "refuse"),
        audit_path=_text(audit, "path", "audit."),
        audit_size=_count(audit.get("size", Config.audit_size), "audit.size", 4096, 1 << 40),
        budgets=_budgets(top.get("budgets")),
    )


def _mapping(value: object, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{name} is {value!r}; a mapping of names is allowed")
    return value


def _no_others(mapping: dict[str, Any], known: set[str], prefix: str) -> None:
    for key in sorted(mapping.keys() - known):
        raise ConfigError(f"{prefix}{key} is not known; allowed are {', '.join(sorted(known))}")


def _text(mapping: dict[str, Any], key: str, prefix: str = "") -> str | None:
    value = mapping.get(key)
    if value is not None and (not isinstance(value, str) or not value):
        raise ConfigError(f"{prefix}{key} is {value!r}; a text is allowed")
    return value


def _choice(mapping: dict[str, Any], key: str, choices: tuple[str, ...], prefix: str = "") -> str:
    # YAML reads an unquoted `none` as text, but `null` and `no` as something else. Only the word itself is
    # accepted.
    value = mapping.get(key, choices[0])
    if value not in choices:
        raise ConfigError(f"{prefix}{key} is {value!r}; allowed are {', '.join(choices)}")
    return str(value)


def _environment(value: object) -> dict[str, str]:
    entries = _mapping(value, "environment")
    for name, text in entries.items():
        if isinstance(text, bool) or not isinstance(text, str | int) or "\0" in str(text) or "=" in name:
            raise ConfigError(f"environment.{name} is {text!r}; a text or a number is allowed")
    return {name: str(text) for name, text in entries.items()}


def _limits(value: object) -> Limits:
    given = _mapping(value, "limits")
    names = {field.name for field in dataclasses.fields(Limits)}
    _no_others(given, names, "limits.")
    return Limits(**{name: _count(number, f"limits.{name}", 1, 1_000_000) for name, number in given.items()})


def _budgets(value: object) -> Budgets:
    return {name: _budgets_of(name, entry) for name, entry in _mapping(value, "budgets").items()}


def _budgets_of(name: str, value: object) -> tuple[Budget, ...]:
    where = f"budgets.{name}"
    if not re.fullmatch(r"[A-Za-z0-9._*?\[\]!-]{1,64}", name):
        raise ConfigError(f"{where} names no grant; a name is allowed, or a pattern with * and ?")
    entries = value if isinstance(value, list) else [value]
    if not entries or not all(isinstance(entry, dict) and entry for entry in entries):
        raise ConfigError(
            f"{where} is {value!r}; a budget is allowed, such as {{usd: 20, per: day}}, or a list of them"
        )
    return tuple(_budget(where, _mapping(entry, where)) for entry in entries)


def _budget(where: str, entry: dict[str, Any]) -> Budget:
    _no_others(entry, {"usd", "tokens", "per", "over"}, f"{where}.")
    usd, tokens = entry.get("usd"), entry.get("tokens")
    if usd is None and tokens is None:
        raise ConfigError(f"{where} has neither usd nor tokens; one of them is needed")
    if usd is not None and (isinstance(usd, bool) or not isinstance(usd, int | float) or not 0 <= usd <= MAX_USD):
        raise ConfigError(f"{where}.usd is {usd!r}; a number from 0 to {MAX_USD} is allowed")
    return Budget(
        None if usd is None else float(usd),
        None if tokens is None else _count(tokens, f"{where}.tokens", 0, MAX_TOKENS),
        Period(_choice(entry, "per", ("day", "week"), f"{where}.")),
        Over(_choice(entry, "over", ("hold", "warn", "stop"), f"{where}.")),
    )


def _ports(value: object) -> frozenset[int]:
    if not isinstance(value, list | None):
        raise ConfigError(f"web_ports is {value!r}; a list of ports is allowed")
    return frozenset(_count(port, "a port of web_ports", 1, 0xFFFF) for port in value or [])


def _names(mapping: dict[str, Any], key: str) -> frozenset[str]:
    value = mapping.get(key) or []
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"policy.{key} is {value!r}; a list of names is allowed")
    return frozenset(value)


def _minutes(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_MINUTES:
        raise ConfigError(f"{name} is {value!r}; a number of minutes from 0 to {MAX_MINUTES} is allowed")
    return float(value)


def _count(value: object, name: str, smallest: int, largest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value <= largest:
        raise ConfigError(f"{name} is {value!r}; a whole number from {smallest} to {largest} is allowed")
    return value
