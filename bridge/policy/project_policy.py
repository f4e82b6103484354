"""Filters the project's settings, servers, agents, commands and skills, and writes a note for what is left out.

They come as text from the container. What they start (hooks, stdio servers, commands in a skill) runs in the
container, so it is safe for the host. What the CLI would run or read on the host (key helpers, variables, plugins,
a status line) is left out. Everything is parsed and written again.
"""

from __future__ import annotations

import dataclasses
import json
import posixpath
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bridge.policy import environment, mcp_servers
from bridge.policy.documents import MAX_DIRECTORIES, MAX_FILE, MAX_FILES, Check, directories, written_anew
from bridge.policy.heads import Heads, LimitError
from bridge.policy.project_memory import Memory, compose
from bridge.policy.terms import WORKSPACE, PolicyError, Scope, decoded, printable, shown

Json = dict[str, Any]

INNER = {"spinnerTipsOverride": frozenset({"excludeDefault", "label", "tips"})}
"""Settings of CONVERSATION that could also name a file of the host: the fields that are passed on."""

CONVERSATION = frozenset({
    "advisorModel", "agent", "alwaysThinkingEnabled", "attribution", "autoCompactEnabled", "autoCompactWindow",
    "autoDreamEnabled", "autoMemoryEnabled", "autoScrollEnabled", "availableModels", "awaySummaryEnabled",
    "bashEditDiffEnabled", "bashOutputMaxChars", "breakReminder", "cleanupPeriodDays", "companyAnnouncements",
    "deniedModels", "disableAgentView", "disableAllHooks", "disableArtifact", "disableAutoMode",
    "disableBundledSkills", "disableClaudeAiConnectors", "disableRemoteControl", "disableReplyCheck",
    "disableSkillShellExecution", "disableWorkflows", "editorMode", "effortLevel", "fallbackModel", "fastMode",
    "fastModePerSessionOptIn", "feedbackSurveyRate", "includeCoAuthoredBy", "includeGitInstructions", "language",
    "maxEffortLevel", "model", "modelSettings", "outputStyle", "prUrlTemplate", "prefersReducedMotion",
    "promptSuggestionEnabled", "quietHours", "respectGitignore", "respondToBashCommands",
    "showClearContextOnPlanAccept", "showThinkingSummaries", "showTurnDuration", "skillListingBudgetFraction",
    "skillListingMaxDescChars", "skillOverrides", "spinnerTipsEnabled", "spinnerTipsOverride", "spinnerVerbs",
    "syntaxHighlightingDisabled", "taskOutputMaxChars", "terminalTitleFromRename", "theme", "totalTokensReminder",
    "totalTokensReminderBudget", "tui", "ultracode", "verbose", "viewMode", "workflowKeywordTriggerEnabled",
    "workflowSizeGuideline",
})  # fmt: skip
"""Settings that affect only the conversation: texts, numbers and switches, also in lists and objects."""

_LOGIN = "the host's Claude Code has its own login"
_OPERATOR = "it is the operator's to choose"

WITHOUT_EFFECT = {
    name: why
    for why, names in {
        "commands run in the container, which is their sandbox": ("sandbox",),
        "no such program is run over the bridge": ("statusLine", "subagentStatusLine", "fileSuggestion"),
        "there is nothing of this kind over the bridge": (
            "channelsEnabled", "defaultShell", "footerLinksRegexes", "remote", "sshConfigs", "syncClaudeAiPlugins",
            "syncClaudeAiSkills", "voice", "voiceEnabled", "worktree",
        ),
        "these files stay with the grant's conversations": ("autoMemoryDirectory", "plansDirectory"),
        _LOGIN: ("forceLoginGatewayUrl", "forceLoginMethod", "forceLoginOrgUUID"),
        "the host's Claude Code is the operator's": (
            "autoUpdatesChannel", "feedbackSurveyState", "minimumVersion", "requiredMaximumVersion",
            "requiredMinimumVersion", "skipWebFetchPreflight",
        ),
        "the grant answers these questions": (
            "skipAutoPermissionPrompt", "skipDangerousModePermissionPrompt", "skipWorkflowUsageWarning",
        ),
        "it counts only in the operator's own settings": (
            "allowManagedHooksOnly", "allowManagedMcpServersOnly", "allowManagedPermissionRulesOnly",
            "blockedMarketplaces", "claudeMd", "disableSideloadFlags", "forceRemoteSettingsRefresh",
            "parentSettingsBehavior", "pluginSuggestionMarketplaces", "strictKnownMarketplaces",
        ),
    }.items()
    for name in names
}  # fmt: skip
"""Settings that cannot take effect here, and why. Without them, a program gets what it asked for."""

REFUSED = {
    **dict.fromkeys(("apiKeyHelper", "awsAuthRefresh", "awsCredentialExport", "gcpAuthRefresh", "proxyAuthHelper",
                     "otelHeadersHelper"), f"it is a program that would run on the host; {_LOGIN}"),
    **dict.fromkeys(("enabledPlugins", "extraKnownMarketplaces", "additionalMarketplaces", "pluginConfigs"),
                    "a plugin brings code that would run on the host"),
    "modelOverrides": "the models of the host's provider are the operator's to name",
}  # fmt: skip
"""Other settings that are not carried, and why. Of --settings they refuse the call, because a program needs them."""

OF_CLIENT = frozenset({"$schema", "claudeMdExcludes"})
"""Settings that the CLI does not need: they are for editors, or the client has done what they say."""

OF_SERVERS = frozenset({"enableAllProjectMcpServers", "enabledMcpjsonServers", "disabledMcpjsonServers"})
"""Settings that choose among the servers of .mcp.json. They are applied here."""

LOCAL_OF_REPOSITORY = "repository/.claude/settings.local.json"
"""Under this name, the client sends the local settings of the repository's root if it is not the call's directory."""
READS_LOCAL_OF_REPOSITORY = (2, 1, 332)
"""From this version on, the CLI reads them."""
LAYERS = (
    (".claude/settings.json", "project"),
    (".claude/settings.local.json", "local"),
    (LOCAL_OF_REPOSITORY, "local"),
)
"""Files of settings and their sources. Later ones win."""

RULES = ("allow", "deny", "ask")
MODES = frozenset({"default", "manual", "plan", "acceptEdits", "dontAsk"})
"""Permission modes that are always allowed. The next two are allowed only if commands run in the container."""
MODES_WITH_COMMANDS = MODES | {"bypassPermissions", "auto"}

MEMORIES = ("user", "project", "local")
"""Where the memory of an agent can be: among the CLI's own files, or in the workspace."""

SHAPES: dict[str, type] = {
    **dict.fromkeys(("$schema", "apiKeyHelper", "autoUpdatesChannel", "awsAuthRefresh", "awsCredentialExport",
                     "gcpAuthRefresh", "otelHeadersHelper", "outputStyle", "plansDirectory"), str),
    **dict.fromkeys(("enableAllProjectMcpServers", "skipWebFetchPreflight"), bool),
    **dict.fromkeys(("availableModels", "claudeMdExcludes", "companyAnnouncements", "disabledMcpjsonServers",
                     "enabledMcpjsonServers"), list),
    **dict.fromkeys(("enabledPlugins", "env", "fileSuggestion", "modelOverrides", "permissions", "sandbox",
                     "spinnerVerbs", "statusLine", "worktree"), dict),
}  # fmt: skip
OF_PERMISSIONS: dict[str, type] = dict.fromkeys((*RULES, "additionalDirectories"), list)
"""Settings, and fields of `permissions`, of which the CLI accepts one type. If one has another type, the CLI ignores
the whole file."""

HOOKS = {
    "command": frozenset({
        "type", "command", "timeout", "async", "asyncRewake", "rewakeMessage", "rewakeSummary", "onFailure",
        "statusMessage", "once", "if",
    }),
    "prompt": frozenset({"type", "prompt", "timeout", "model", "continueOnBlock", "statusMessage", "once", "if"}),
}  # fmt: skip
"""Kinds of hooks, and their fields. The CLI ignores fields that it does not know, and so do we. `args` and `shell` are
not among them: with these it would start a program itself, and so outside of the container."""

OF_HOOK: dict[str, type | tuple[type, ...]] = {
    "timeout": (int, float), "async": bool, "asyncRewake": bool, "continueOnBlock": bool, "once": bool,
}  # fmt: skip
"""Types of a hook's fields. Fields that are not listed are text."""


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")

MAX_NOTES = 100
"""Notes about what was left out."""
MAX_NAMED = 5
"""Names in a note about a limit. The others are counted."""
MAX_VARIABLES = 128
MAX_VARIABLE_TEXT = 64 * 1024
"""Variables of one `env`, and characters of all. They are sent with each command."""
MAX_HOOKS = 64
"""Hooks of one file. All hooks of one event run at the same time, and each needs a process on the host while it
runs."""
TOO_MANY_VARIABLES = f"more than {MAX_VARIABLES} variables or {MAX_VARIABLE_TEXT} bytes"
TOO_MANY_HOOKS = f"more than {MAX_HOOKS} hooks, and each is a process"


class _Limits:
    """What was left out because of a limit."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def add(self, name: str, why: str) -> None:
        """Add what was left out. `why` names the limit."""
        self._names.setdefault(why, []).append(name)

    def lines(self) -> list[str]:
        """Return a line for each limit."""
        return [f"{_some(names)} left out: {why}" for why, names in self._names.items()]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    named = ", ".join(shown(name, 60)[1:-1] for name in names[:MAX_NAMED])
    return f"{named}{more} {'is' if len(names) == 1 else 'are'}"


@dataclasses.dataclass
class Project:
    """The parts of a project that the CLI gets."""

    settings: Json = dataclasses.field(default_factory=dict)
    servers: Json = dataclasses.field(default_factory=dict)
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    """Agents, commands, skills, output styles and rules, by their path in the CLI's configuration directory."""
    memory: Memory = dataclasses.field(default_factory=Memory)
    """CLAUDE.md of the CLI's configuration directory."""
    env: dict[str, str] = dataclasses.field(default_factory=dict)
    """Variables that its settings set."""
    notes: list[str] = dataclasses.field(default_factory=list)
    """One line for each thing that was left out."""
    limits: list[str] = dataclasses.field(default_factory=list)
    """Those of the notes that are about a limit. A client always prints them."""

    def without_modes(self, modes: frozenset[str]) -> Project:
        """Return the project without its `defaultMode` if that is one of these."""
        rules = self.settings.get("permissions", {})
        if rules.get("defaultMode") not in modes:
            return self
        rules = {name: value for name, value in rules.items() if name != "defaultMode"}
        return dataclasses.replace(self, settings={**self.settings, "permissions": rules})


def read(
    files: Iterable[bytes],
    env: Iterable[bytes],
    scope: Scope,
    sources: str = "project,local",
    *,
    memory: Iterable[bytes] = (),
    omitted: Iterable[bytes] = (),
    cwd: str = WORKSPACE,
    asks: bool = False,
) -> Project:
    """Return the project from what a client sent.

    Each of `files` is a name, a line feed and a text. Each of `env` is NAME=value. For `memory` see `compose`.
    `omitted` are sentences about what the client did not send. `asks` says whether the CLI would ask a person about MCP
    servers. What is not allowed is left out with a note.
    """
    heads = Heads()
    limits = _Limits()
    project = Project()
    chosen = sources.split(",")
    if "project" in chosen:
        project.memory = compose(memory, cwd, heads.read)
        project.files |= project.memory.rules
        project.limits += [*(line.decode("utf-8", "replace") for line in omitted), *project.memory.notes]
    if scope.runs_commands:
        _configuration(files, env, scope, chosen, cwd, asks, project, heads, limits)
    _bound_directories(project, limits)
    project.limits = [printable(line, 400) for line in [*project.limits, *limits.lines()][:MAX_NOTES]]
    project.notes = project.limits + project.notes
    beyond = len(project.notes) - MAX_NOTES
    project.notes = [printable(note, 400) for note in project.notes[:MAX_NOTES]]
    if beyond > 0:
        project.notes.append(f"{beyond} more things are left out: there are too many to name them")
    return project


def _bound_directories(project: Project, limits: _Limits) -> None:
    """Leave out the files that would need too many directories."""
    found: set[str] = set()
    for path in list(project.files):
        new = directories([path]) - found
        if len(found) + len(new) > MAX_DIRECTORIES:
            del project.files[path]
            limits.add(path, f"a call's files have {MAX_DIRECTORIES} directories")
        else:
            found |= new


def _configuration(
    files: Iterable[bytes],
    env: Iterable[bytes],
    scope: Scope,
    chosen: list[str],
    cwd: str,
    asks: bool,
    project: Project,
    heads: Heads,
    limits: _Limits,
) -> None:
    """Add settings, servers and documents."""
    texts: dict[bytes, bytes] = {}
    for path, _, text in (file.partition(b"\n") for file in files):
        if len(texts) == MAX_FILES:
            project.limits.append(f"files of .claude beyond {MAX_FILES} are left out: there are too many")
            break
        if len(text) <= MAX_FILE:
            texts[path] = text
        else:
            limits.add(path.decode("utf-8", "replace"), f"a file may have {MAX_FILE} bytes")
    layers = []
    for name, source in LAYERS:
        if name == LOCAL_OF_REPOSITORY and scope.cli and scope.cli < READS_LOCAL_OF_REPOSITORY:
            continue
        if source in chosen and (layer := _object(texts.get(name.encode(), b""), name, project)):
            layers.append(_settings(layer, name, scope, project, cwd, limits))
    _merge(project, layers)
    if "project" in chosen:
        entries, variables = _entries(texts, project), mcp_servers.variables(env)

        def note(text: str) -> None:
            is_limit = text.startswith("the MCP servers ")  # from one on, or after one
            (project.limits if is_limit else project.notes).append(f".mcp.json: {text}")

        project.servers = mcp_servers.of_project(entries, layers, variables, scope, asks, note)
        for path, text in texts.items():
            _document(path.decode("utf-8", "surrogateescape"), text, cwd, heads, project, limits)


def _hooks_of_head(value: Any, complain: Complain) -> Json | None:
    return hooks_of(value, complain) if isinstance(value, dict) else None


def _mode_of_head(value: Any, _complain: Complain) -> str | None:
    return value if isinstance(value, str) and value in MODES_WITH_COMMANDS else None


def _memory_of_head(value: Any, _complain: Complain) -> str | None:
    return value if isinstance(value, str) and value in MEMORIES else None


def isolation_of_agent(value: Any, complain: Complain) -> str | None:
    """Return where an agent works. The CLI makes a worktree with git, and says that it could not: only questions to
    git are passed on. So it does not work in the main checkout instead, unless a hook of the project's chooses that."""
    if value == "worktree":
        return "worktree"
    complain("isolation", "it acts with the host's account elsewhere", True)
    return None


def servers_of_agent(value: Any, scope: Scope, variables: Mapping[str, str] | None, left: list[int]) -> list[Json]:
    """Return an agent's own MCP servers. Servers of the call that it names are left out: it has their tools anyway.

    `left` holds the characters that the servers of all agents may still have, their variables put in. Raises
    PolicyError.
    """
    found: list[Json] = [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
    kept: list[Json] = []
    for one in found:
        kept.append({})
        for name, entry in one.items():
            whole = entry if variables is None else mcp_servers.expanded(name, entry, variables)
            kept[-1][name] = mcp_servers.server(name, whole, scope)
            left[0] -= 0 if variables is None else len(mcp_servers.written(kept[-1][name]))
            if left[0] < 0:
                raise PolicyError(f"the agents' MCP servers are longer than {mcp_servers.MAX_SERVERS} bytes together")
    return kept


def _servers_of_head(value: Any, complain: Complain) -> None:
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        complain("mcpServers", "the CLI starts none that are in a file here; name them in .mcp.json", True)


CHECKS: dict[str, Check] = {
    "hooks": _hooks_of_head,
    "isolation": isolation_of_agent,
    "mcpServers": _servers_of_head,
    "memory": _memory_of_head,
    "permissionMode": _mode_of_head,
}
"""The checks for fields of heads."""


def _document(name: str, text: bytes, cwd: str, heads: Heads, project: Project, limits: _Limits) -> None:
    """Add an agent, a command, a skill or an output style."""
    if not name.endswith(".md"):
        return
    try:
        path, whole, notes = written_anew(name, text, cwd, heads, CHECKS)
    except LimitError as error:
        limits.add(name, str(error))
        return
    except (ValueError, TypeError) as error:  # a field may hold what JSON cannot
        project.notes.append(f"{shown(name)[1:-1]} is left out: {error}")
        return
    if path not in project.files:
        project.files[path] = whole
        project.notes += notes


def _entries(texts: Mapping[bytes, bytes], project: Project) -> Json:
    """Return the servers of all .mcp.json files. Those of an inner directory replace those of an outer one."""
    found: Json = {}
    for path in sorted((path for path in texts if (b"/" + path).endswith(b"/.mcp.json")), key=len):
        entries = _object(texts[path], printable(path.decode("utf-8", "replace"), 80), project).get("mcpServers")
        found |= entries if isinstance(entries, dict) else {}
    return found


def _object(text: bytes, name: str, project: Project) -> Json:
    if not text.strip():
        return {}
    try:
        value = json.loads(decoded(text).removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        project.notes.append(f"{name} is left out: it is no JSON ({error})")
        return {}
    if isinstance(value, dict):
        return value
    project.notes.append(f"{name} is left out: it is no JSON object")
    return {}


# Settings


def refusal(setting: str, why: str) -> PolicyError:
    """Return the refusal of a setting."""
    return PolicyError("the setting {}: " + why.replace("{", "{{").replace("}", "}}"), setting)


Complain = Callable[[str, str, bool], None]
"""Is called for what is left out: its name, the reason, and whether a program would notice that it is missing."""


def settings(value: Json, scope: Scope, complain: Complain, cwd: str = WORKSPACE) -> Json:
    """Return the allowed settings. `env` among them has variables as text; the caller has to take it out."""
    kept: Json = {}
    for name, entry in value.items():
        if (name in CONVERSATION and _is_plain(entry)) or (name in OF_SERVERS and scope.runs_commands):
            kept[name] = _inner(name, entry, complain)
        elif name == "permissions" and scope.runs_commands and isinstance(entry, dict):
            kept[name] = _permissions(entry, scope, complain, cwd)
        elif name == "hooks" and scope.runs_commands and isinstance(entry, dict):
            kept[name] = hooks_of(entry, complain)
        elif name == "env" and isinstance(entry, dict):
            kept[name] = _variables(entry, scope, complain)
        elif name in WITHOUT_EFFECT:
            complain(name, WITHOUT_EFFECT[name], False)
        elif name not in OF_CLIENT:
            complain(name[:60], REFUSED.get(name, "the bridge does not know it in this form"), True)
    return kept


def _inner(name: str, entry: Any, complain: Complain) -> Any:
    """Return a setting without the fields that are not passed on."""
    if name not in INNER or not isinstance(entry, dict):
        return entry
    for field in sorted(entry.keys() - INNER[name]):
        complain(f"{name}.{field[:60]}", "it could name a file of the host", False)
    return {field: value for field, value in entry.items() if field in INNER[name]}


def _is_plain(entry: Any, depth: int = 3) -> bool:
    """Return whether a value is text, a number or a switch, or a list or an object of these."""
    if isinstance(entry, list | dict):
        inner = entry.values() if isinstance(entry, dict) else entry
        return depth > 0 and all(_is_plain(value, depth - 1) for value in inner)
    return entry is None or isinstance(entry, str | int | float)


def _variables(entry: Json, scope: Scope, complain: Complain) -> dict[str, str]:
    """Return the variables of `env` as text."""
    kept: dict[str, str] = {}
    size = 0
    for name, value in entry.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        size += len(name) + len(text)
        if not _NAME.fullmatch(name) or not isinstance(value, str | int | float) or "\0" in text:
            complain(f"env.{name[:60]}", "it is no variable", True)
        elif len(kept) == MAX_VARIABLES or size > MAX_VARIABLE_TEXT:
            complain("the rest of env", TOO_MANY_VARIABLES, True)
            break
        else:
            kept[name] = text.encode("utf-8", "replace").decode()
            if environment.steers(name) and not environment.passes(name, text):
                where = "it is set for commands in the container only" if scope.runs_commands else "it has no use"
                what = f"env.{name[:60]} for Claude Code itself"
                complain(what, f"{_OPERATOR}; {where}", environment.redirects(name))
    return kept


def _settings(value: Json, name: str, scope: Scope, project: Project, cwd: str, limits: _Limits) -> Json:
    def complain(what: str, why: str, matters: bool) -> None:
        if why in (TOO_MANY_HOOKS, TOO_MANY_VARIABLES):
            limits.add(f"{what} in {name}", why)
        else:
            project.notes.append(f"{name}: {what} is left out: {why}")

    if wrong := _misshapen(value):
        project.notes.append(f"{name} is left out: {wrong} is of a type that Claude Code does not accept")
        return {}
    return settings(value, scope, complain, cwd)


def _misshapen(value: Json) -> str:
    """Return the name of a setting for which the CLI ignores the whole file; nothing if there is none."""
    rules = value.get("permissions", {})
    for entries, types, place in ((value, SHAPES, ""), (rules, OF_PERMISSIONS, "permissions.")):
        for name, kind in types.items():
            if isinstance(entries, dict) and name in entries and not isinstance(entries[name], kind):
                return place + name
    mode = rules.get("defaultMode", "default")
    return "" if isinstance(mode, str) and mode in MODES_WITH_COMMANDS else "permissions.defaultMode"


def _permissions(value: Json, scope: Scope, complain: Complain, cwd: str) -> Json:
    kept: Json = {}
    for name, entry in value.items():
        if name in RULES and isinstance(entry, list):
            kept[name] = [rule for rule in entry if isinstance(rule, str)]
        elif name == "defaultMode" and isinstance(entry, str) and entry in MODES_WITH_COMMANDS:
            kept[name] = entry
        elif name == "additionalDirectories" and isinstance(entry, list):
            paths = [posixpath.join(cwd, path) for path in entry if isinstance(path, str)]
            kept[name] = [posixpath.normpath(path) for path in paths if scope.contains(path)]
            if len(kept[name]) != len(entry):
                complain("a directory of permissions.additionalDirectories", "it is not shared with the host", True)
        elif name in ("disableBypassPermissionsMode", "disableAutoMode") and entry == "disable":
            kept[name] = entry
        else:
            complain(f"permissions.{name[:60]}", "the bridge does not know it in this form", True)
    return kept


def hooks_of(value: Json, complain: Complain) -> Json:
    """Return the hooks that run in the container."""
    kept: Json = {}
    left = MAX_HOOKS
    for event, groups in value.items():
        for group in groups if isinstance(groups, list) else []:
            if not isinstance(group, dict):
                continue
            hooks = group.get("hooks")
            if not isinstance(hooks, list) or not isinstance(group.get("matcher", ""), str):
                complain(f"a group of {event[:40]}", "its hooks are no list, or its matcher is no text", True)
                continue
            mine = [one for hook in hooks if (one := _hook(hook, event, complain))]
            if len(mine) > left:
                complain(f"a group of {event[:40]}", TOO_MANY_HOOKS, True)
                continue
            left -= len(mine)
            matcher = {"matcher": group["matcher"]} if "matcher" in group else {}
            kept.setdefault(event, []).append({**matcher, "hooks": mine})
    return kept


def _hook(hook: Any, event: str, complain: Complain) -> Json | None:
    kind = hook.get("type") if isinstance(hook, dict) else None
    fields = HOOKS.get(kind, frozenset()) if isinstance(kind, str) else frozenset()
    if not fields:
        complain(f"a hook of {event[:40]}", "only hooks of the types command and prompt run in the container", True)
        return None
    if hook.get("shell") not in (None, "bash"):
        complain(f"a hook of {event[:40]}", "of all shells, only bash can be chosen", True)
        return None
    hook = _through_shell(hook)
    kept = {field: value for field, value in hook.items() if field in fields}
    wrong = sorted(field for field, value in kept.items() if not isinstance(value, OF_HOOK.get(field, str)))
    if wrong:
        complain(f"{wrong[0][:30]} of a hook of {event[:40]}", "this field is of another type", True)
        return None
    return kept


def _through_shell(hook: Json) -> Json:
    """Return a hook that starts a program with `args`, or a command with another shell, as one command. The CLI would
    start these itself, and so outside of the container."""
    command, args = hook.get("command"), hook.get("args")
    if not isinstance(command, str):
        return hook
    if isinstance(args, list) and all(isinstance(word, str) for word in args):
        return {**hook, "command": " ".join(map(_quoted, [command, *args]))}
    return {**hook, "command": shlex.join(["bash", "-c", command])} if hook.get("shell") == "bash" else hook


def _quoted(word: str) -> str:
    """Return a word for a shell. With `args`, the CLI replaces the variable of the project itself."""
    return '"${CLAUDE_PROJECT_DIR}"'.join(map(shlex.quote, word.split("${CLAUDE_PROJECT_DIR}")))


def _merge(project: Project, layers: list[Json]) -> None:
    """Merge layers of settings: lists are joined; for single values the later layer wins."""
    merged = project.settings
    for layer in layers:
        for name, value in layer.items():
            if name == "hooks":
                for event, groups in value.items():
                    merged.setdefault("hooks", {}).setdefault(event, []).extend(groups)
            elif name == "permissions":
                mine = merged.setdefault("permissions", {})
                for key, entry in value.items():
                    mine[key] = [*mine.get(key, []), *entry] if isinstance(entry, list) else entry
            elif name == "env":
                project.env |= value
            elif name not in OF_SERVERS:
                merged[name] = value
