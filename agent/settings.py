"""The variables of the container, read once; a bad value ends the start with one line and exit 64."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from healthcheck.access import host_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NAME_LENGTH = 63


class BadSettingError(Exception):
    """A variable's value is not allowed; the text names variable, value and what is allowed."""


@dataclass(frozen=True)
class Settings:
    """The settings. Times are in seconds."""

    name: str
    command: str
    restart: str
    on_exit: str
    unhealthy_limit_s: float
    stop_grace_s: float
    health_host: str
    health_port: int
    health_allowed_hosts: frozenset[str]
    bridge_socket: str
    log: str
    clipboard: str


def read(environ: Mapping[str, str]) -> Settings:
    """Read all variables. An empty one counts as unset, because `${X:-}` in compose files gives empty values."""

    def value(name: str, default: str, check: Callable[[str], str | None]) -> str:
        text = environ.get(name) or default
        allowed = check(text)
        if allowed is not None:
            raise BadSettingError(f"{name} is {text!r}; allowed: {allowed}")
        return text

    value("CLAUDE_BRIDGE_ERRORS", "text", _one_of("text", "json"))  # for the bridge's client; only checked here
    value("CLAUDE_BRIDGE_NOTES", "auto", _one_of("auto", "always"))  # likewise
    return Settings(
        name=_printable(environ.get("AGENT_NAME") or socket.gethostname()),
        command=environ.get("AGENT_COMMAND", "").strip(),
        restart=value("AGENT_RESTART", "on-failure", _one_of("no", "on-failure", "always")),
        on_exit=value("AGENT_ON_EXIT", "stay", _one_of("stay", "exit")),
        unhealthy_limit_s=float(value("AGENT_UNHEALTHY_LIMIT", "120", _seconds(86400))),
        stop_grace_s=float(value("AGENT_STOP_GRACE", "8", _seconds(3600))),
        health_host=value("HEALTH_HOST", "0.0.0.0", _address),  # noqa: S104 - the container's own network
        health_port=int(value("HEALTH_PORT", "3999", _port)),
        health_allowed_hosts=frozenset(
            host_name(name.strip()) for name in value("HEALTH_ALLOWED_HOSTS", "", _hosts).split(",") if name
        ),
        bridge_socket=environ.get("CLAUDE_BRIDGE_SOCKET") or "/host/claude-bridge.sock",
        log=value("AGENT_LOG", "text", _one_of("text", "json")),
        clipboard=value("AGENT_CLIPBOARD", "on", _one_of("on", "off")),
    )


def _one_of(*words: str) -> Callable[[str], str | None]:
    return lambda text: None if text in words else ", ".join(words)


def _seconds(most: int) -> Callable[[str], str | None]:
    def check(text: str) -> str | None:
        # the pattern comes first: float() also accepts "nan", "1e3", "1_0" and digits of other scripts
        good = re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", text) and float(text) <= most
        return None if good else f"seconds from 0 to {most}"

    return check


def _port(text: str) -> str | None:
    good = re.fullmatch(r"[0-9]{1,5}", text) and 1 <= int(text) <= 65535
    return None if good else "a port from 1 to 65535"


def _address(text: str) -> str | None:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text)
        except OSError:
            continue
        return None
    return "an IP address such as 0.0.0.0, 127.0.0.1 or ::"


def _hosts(text: str) -> str | None:
    good = not text or all(host_name(name.strip()) for name in text.split(","))
    return None if good else "names or addresses without a port, separated by commas"


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name)[:NAME_LENGTH]
