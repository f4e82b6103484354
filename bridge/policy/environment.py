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
_SWITCH = re.compile(rb"(?i)0|1|true|false|yes|no|on|off|")
_MODEL = re.compile(rb"[\w.:@/\[\]-]{1,128}")
_ENTRYPOINT = re.compile(rb"sdk-[a-z]{1,8}|cli")

_NUMBERS = (
    "API_TIMEOUT_MS", "BASH_DEFAULT_TIMEOUT_MS", "BASH_MAX_OUTPUT_LENGTH", "BASH_MAX_TIMEOUT_MS",
    "CLAUDE_ASYNC_AGENT_STALL_TIMEOUT_MS", "CLAUDE_AUTOCOMPACT_PCT_OVERRIDE", "CLAUDE_CODE_AUTO_COMPACT_WINDOW",
    "CLAUDE_CODE_FILE_READ_MAX_OUTPUT_TOKENS", "CLAUDE_CODE_GLOB_TIMEOUT_SECONDS", "CLAUDE_CODE_MAX_CONTEXT_TOKENS",
    "CLAUDE_CODE_MAX_MCP_DESCRIPTION_LENGTH", "CLAUDE_CODE_MAX_OUTPUT_TOKENS", "CLAUDE_CODE_MAX_RETRIES",
    "CLAUDE_CODE_MAX_SUBAGENTS_PER_SESSION", "CLAUDE_CODE_MAX_TOOL_USE_CONCURRENCY",
    "CLAUDE_CODE_MCP_AUTO_BACKGROUND_MS", "CLAUDE_CODE_MCP_STARTUP_WAIT_MS",
    "CLAUDE_CODE_MCP_TOOL_IDLE_TIMEOUT", "CLAUDE_CODE_SCROLL_SPEED",
    "CLAUDE_CODE_SDK_READS_SESSION_STATE", "CLAUDE_STREAM_FIRST_BYTE_TIMEOUT_MS", "CLAUDE_STREAM_IDLE_TIMEOUT_MS",
    "COLUMNS", "LINES", "MAX_MCP_OUTPUT_TOKENS", "MAX_STRUCTURED_OUTPUT_RETRIES", "MAX_THINKING_TOKENS",
    "MCP_CONNECT_TIMEOUT_MS", "MCP_REMOTE_SERVER_CONNECTION_BATCH_SIZE", "MCP_SERVER_CONNECTION_BATCH_SIZE",
    "MCP_TIMEOUT", "MCP_TOOL_TIMEOUT", "SLASH_COMMAND_TOOL_CHAR_BUDGET", "TASK_MAX_OUTPUT_LENGTH",
)  # fmt: skip
_SWITCHES = (
    "CLAUDE_AUTO_BACKGROUND_TASKS", "CLAUDE_BASH_MAINTAIN_PROJECT_WORKING_DIR", "CLAUDE_CODE_ACCESSIBILITY",
    "CLAUDE_CODE_ALWAYS_ENABLE_EFFORT", "CLAUDE_CODE_DISABLE_ADAPTIVE_THINKING", "CLAUDE_CODE_DISABLE_ADVISOR_TOOL",
    "CLAUDE_CODE_DISABLE_ALTERNATE_SCREEN", "CLAUDE_CODE_DISABLE_ATTACHMENTS", "CLAUDE_CODE_DISABLE_AUTO_MEMORY",
    "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS", "CLAUDE_CODE_DISABLE_BUNDLED_SKILLS",
    "CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS", "CLAUDE_CODE_DISABLE_EXPLORE_PLAN_AGENTS",
    "CLAUDE_CODE_DISABLE_FAST_MODE", "CLAUDE_CODE_DISABLE_FILE_CHECKPOINTING", "CLAUDE_CODE_DISABLE_GIT_INSTRUCTIONS",
    "CLAUDE_CODE_DISABLE_LEGACY_MODEL_REMAP", "CLAUDE_CODE_DISABLE_MCP_TASK_BACKGROUND", "CLAUDE_CODE_DISABLE_MOUSE",
    "CLAUDE_CODE_DISABLE_MOUSE_CLICKS", "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK",
    "CLAUDE_CODE_DISABLE_TERMINAL_TITLE", "CLAUDE_CODE_DISABLE_THINKING", "CLAUDE_CODE_DISABLE_VIRTUAL_SCROLL",
    "CLAUDE_CODE_ENABLE_AWAY_SUMMARY", "CLAUDE_CODE_ENABLE_FINE_GRAINED_TOOL_STREAMING",
    "CLAUDE_CODE_ENABLE_PROMPT_SUGGESTION", "CLAUDE_CODE_ENABLE_TASKS", "CLAUDE_CODE_FORK_SUBAGENT",
    "CLAUDE_CODE_HIDE_CWD", "CLAUDE_CODE_NATIVE_CURSOR", "CLAUDE_CODE_NO_FLICKER", "CLAUDE_CODE_SYNTAX_HIGHLIGHT",
    "CLAUDE_ENABLE_STREAM_WATCHDOG", "DISABLE_AUTO_COMPACT", "DISABLE_COMPACT", "DISABLE_COST_WARNINGS",
    "DISABLE_INTERLEAVED_THINKING", "DISABLE_PROMPT_CACHING", "DISABLE_PROMPT_CACHING_FABLE",
    "DISABLE_PROMPT_CACHING_HAIKU", "DISABLE_PROMPT_CACHING_OPUS", "DISABLE_PROMPT_CACHING_SONNET",
    "ENABLE_PROMPT_CACHING_1H", "FALLBACK_FOR_ALL_PRIMARY_MODELS", "FORCE_PROMPT_CACHING_5M",
    "MCP_CONNECTION_NONBLOCKING",
)  # fmt: skip
_WORDS = (
    "CLAUDE_AGENT_SDK_VERSION", "CLAUDE_CODE_EFFORT_LEVEL", "CLAUDE_CODE_PROMPT_CACHE_TTL",
    "CLAUDE_CODE_SUBAGENT_EFFORT", "COLORTERM", "ENABLE_TOOL_SEARCH", "FORCE_COLOR", "LANG", "NO_COLOR", "TERM",
    "TERM_PROGRAM", "TERM_PROGRAM_VERSION",
)  # fmt: skip
_MODELS = (
    "ANTHROPIC_CUSTOM_MODEL_OPTION", "ANTHROPIC_DEFAULT_FABLE_MODEL", "ANTHROPIC_DEFAULT_HAIKU_MODEL",
    "ANTHROPIC_DEFAULT_MODEL", "ANTHROPIC_DEFAULT_OPUS_MODEL", "ANTHROPIC_DEFAULT_SONNET_MODEL", "ANTHROPIC_MODEL",
    "ANTHROPIC_SMALL_FAST_MODEL", "CLAUDE_CODE_SUBAGENT_MODEL",
)  # fmt: skip

FROM_CLIENT: dict[bytes, re.Pattern[bytes]] = {
    name.encode(): pattern
    for names, pattern in ((_NUMBERS, _NUMBER), (_SWITCHES, _SWITCH), (_WORDS, _WORD), (_MODELS, _MODEL))
    for name in names
} | {b"CLAUDE_CODE_ENTRYPOINT": _ENTRYPOINT}
"""Variables that a client or a project may set for the CLI, and the pattern of their values. They change how long
something may take, how large it may be, how the interface looks, and what the model is asked for. None names a
program, a file or an address."""

_OF_THE_CLI = re.compile(
    r"(ANTHROPIC|API|AWS|BASH|CLAUDE|DISABLE|ENABLE|MAX|MCP|OTEL|VERTEX|CLOUD_ML|GOOGLE)_\w+|NODE_(OPTIONS|EXTRA_\w+)"
    r"|(HTTPS?|ALL|NO)_PROXY|USE_BUILTIN_RIPGREP"
)

_OF_REQUESTS = re.compile("(URL|KEY|TOKEN|HEADERS|PROXY|PROFILE|ENDPOINT)$|^CLAUDE_CODE_USE_", re.IGNORECASE)

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
    # In the terminal of an editor, the CLI would install its extension with the host's editor, and look for it.
    b"CLAUDE_CODE_IDE_SKIP_AUTO_INSTALL": b"1",
    b"CLAUDE_CODE_AUTO_CONNECT_IDE": b"0",
    # No socket for messages of other sessions. The CLI would warn in its interface that it cannot make one here.
    b"CLAUDE_CODE_HARBOR_KITE": b"0",
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


def without_long_wait(env: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Return the environment of a call whose MCP servers are the project's.

    The CLI waits 30 s for servers of the command line, where the bridge names them, but 2 s for those of .mcp.json.
    """
    return {b"CLAUDE_CODE_MCP_STARTUP_WAIT_MS": b"2000", **env}


PROXIES = (b"HTTP_PROXY", b"HTTPS_PROXY", b"http_proxy", b"https_proxy", b"ALL_PROXY", b"all_proxy", b"NO_PROXY",
           b"no_proxy")  # fmt: skip


def through_proxy(env: Mapping[bytes, bytes], port: int) -> dict[bytes, bytes]:
    """Return the environment for a namespace whose only network access is the proxy at this port of its loopback."""
    url = b"http://127.0.0.1:%d" % port
    kept = {name: value for name, value in env.items() if name not in PROXIES}
    return {**kept, **dict.fromkeys(PROXIES[:4], url)}


def without_proxy_for(env: Mapping[bytes, bytes], address: str) -> dict[bytes, bytes]:
    """Return the environment of a CLI that uses the host's network, in which an address needs no proxy."""
    if not any(env.get(name) for name in PROXIES[:-2]):
        return dict(env)
    host = address.partition(":")[0].encode()
    return {**env, **{name: b",".join(filter(None, (env.get(name), host))) for name in PROXIES[-2:]}}


def build(
    client: Iterable[bytes], operator: Mapping[str, str], project: Mapping[str, str] | None = None
) -> dict[bytes, bytes]:
    """Return the CLI's environment, from the client's `NAME=value` strings, the variables of the project's settings,
    which come before them, and the operator's configuration."""
    pairs = [entry.partition(b"=")[::2] for entry in client]
    pairs += [(name.encode(), value.encode()) for name, value in (project or {}).items()]
    passed = {name: value for name, value in pairs if _passes(name, value)}
    named = {name.encode(): value.encode() for name, value in operator.items()}
    return {b"LANG": b"C.UTF-8", **passed, **OWN, **named}


def _passes(name: bytes, value: bytes) -> bool:
    pattern = FROM_CLIENT.get(name)
    if pattern is None:
        return bool(_LOCALE.fullmatch(name) and _WORD.fullmatch(value))
    return bool(pattern.fullmatch(value))


def passes(name: str, value: str) -> bool:
    """Return whether a variable of a project's settings reaches the CLI."""
    return _passes(name.encode("utf-8", "replace"), value.encode("utf-8", "replace"))


def steers(name: str) -> bool:
    """Return whether a variable looks like one that steers the CLI."""
    return bool(_OF_THE_CLI.fullmatch(name))


def redirects(name: str) -> bool:
    """Return whether a variable looks like one that decides where the CLI's requests go, and who pays."""
    return bool(_OF_REQUESTS.search(name))
