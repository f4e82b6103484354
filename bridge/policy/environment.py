"""Builds the CLI's environment from nothing: some variables of the client, then the bridge's own, then the
operator's.

The CLI uses more than 1,500 variables. Some of them make it run a program or send its key to an address. So by
default no variable of the client or the server is passed on, and each exception is checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_WORD = re.compile(rb"[\w.:@+-]{0,64}")
_NUMBER = re.compile(rb"\d{1,9}")
_MODEL = re.compile(rb"[\w.:@/\[\]-]{1,128}")
_ENTRYPOINT = re.compile(rb"sdk-[a-z]{1,8}|cli")

FROM_CLIENT = {
    b"TERM": _WORD,
    b"COLORTERM": _WORD,
    b"LANG": _WORD,
    b"NO_COLOR": _WORD,
    b"FORCE_COLOR": _WORD,
    b"COLUMNS": _NUMBER,
    b"LINES": _NUMBER,
    b"CLAUDE_CODE_ENTRYPOINT": _ENTRYPOINT,
    b"CLAUDE_AGENT_SDK_VERSION": _WORD,
    b"CLAUDE_CODE_SDK_READS_SESSION_STATE": _NUMBER,
    b"CLAUDE_CODE_MAX_OUTPUT_TOKENS": _NUMBER,
    b"CLAUDE_CODE_MAX_RETRIES": _NUMBER,
    b"MAX_THINKING_TOKENS": _NUMBER,
    b"API_TIMEOUT_MS": _NUMBER,
    b"ANTHROPIC_MODEL": _MODEL,
    b"ANTHROPIC_SMALL_FAST_MODEL": _MODEL,
}
"""Variables that a client may set, and the pattern of their values."""

_LOCALE = re.compile(rb"LC_[A-Z]{1,20}")

HOME = b"/home/claude"
CONFIG = b"/claude"
"""The CLI's configuration directory inside the namespace."""

TMP = CONFIG + b"/tmp"
"""Directory for the CLI's own temporary files, such as the output of commands. /tmp is left to the container."""

OWN = {
    b"HOME": HOME,
    b"USER": b"claude",
    b"LOGNAME": b"claude",
    b"SHELL": b"/bin/bash",
    b"PATH": b"/usr/bin:/bin",
    b"TMPDIR": TMP,
    # Ctrl-G would start the host's own editor in the namespace, and an editor can start any program.
    b"EDITOR": b"/bin/false",
    b"VISUAL": b"/bin/false",
    b"CLAUDE_CONFIG_DIR": CONFIG,
    b"DISABLE_AUTOUPDATER": b"1",
    b"DISABLE_INSTALLATION_CHECKS": b"1",
    b"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": b"1",
    # The container writes the workspace's .git/config. git must not run programs that it names.
    b"GIT_CONFIG_NOSYSTEM": b"1",
    b"GIT_TERMINAL_PROMPT": b"0",
    b"GIT_CONFIG_COUNT": b"2",
    b"GIT_CONFIG_KEY_0": b"core.fsmonitor",
    b"GIT_CONFIG_VALUE_0": b"",
    b"GIT_CONFIG_KEY_1": b"core.hooksPath",
    b"GIT_CONFIG_VALUE_1": b"/dev/null",
}
"""Variables that the bridge sets. They override the client's, and the operator's override them."""


PROXIES = (b"HTTP_PROXY", b"HTTPS_PROXY", b"http_proxy", b"https_proxy", b"ALL_PROXY", b"all_proxy", b"NO_PROXY",
           b"no_proxy")  # fmt: skip


def through_proxy(env: Mapping[bytes, bytes], port: int) -> dict[bytes, bytes]:
    """Return the environment for a namespace whose only network access is the proxy at this port of its loopback."""
    url = b"http://127.0.0.1:%d" % port
    kept = {name: value for name, value in env.items() if name not in PROXIES}
    return {**kept, **dict.fromkeys(PROXIES[:4], url)}


def build(client: Iterable[bytes], operator: Mapping[str, str]) -> dict[bytes, bytes]:
    """Return the CLI's environment, from the client's `NAME=value` strings and the operator's configuration."""
    pairs = (entry.partition(b"=")[::2] for entry in client)
    passed = {name: value for name, value in pairs if _passes(name, value)}
    named = {name.encode(): value.encode() for name, value in operator.items()}
    return {b"LANG": b"C.UTF-8", **passed, **OWN, **named}


def _passes(name: bytes, value: bytes) -> bool:
    pattern = FROM_CLIENT.get(name)
    if pattern is None:
        return bool(_LOCALE.fullmatch(name) and _WORD.fullmatch(value))
    return bool(pattern.fullmatch(value))
