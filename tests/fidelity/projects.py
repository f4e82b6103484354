"""The corpus: project folders in the shapes that people have, and the calls that are compared in each."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.fidelity.sides import Call, give
from tests.support import agent_sdk
from tests.support.fake_messages_api import Reply, Say, Use, directed, in_turn
from tests.support.stream_json import STREAM, user

JSON = ("--output-format", "stream-json", "--verbose")
HI = Call(("-p", "hi you", *JSON))
TRUSTED = "--dangerously-skip-permissions"


@dataclasses.dataclass(frozen=True)
class Link:
    """A symbolic link."""

    to: str


@dataclasses.dataclass(frozen=True)
class Project:
    """A folder and what is done in it. A name that ends with / is an empty directory."""

    name: str
    files: Mapping[str, str | bytes | Link]
    calls: tuple[Call, ...] = (HI,)

    def make(self, directory: Path) -> None:
        """Make the folder, for the user of both sides."""
        for name, content in self.files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Link):
                path.symlink_to(content.to)
            elif name.endswith("/"):
                path.mkdir()
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content)
                path.chmod(0o755 if name.endswith(".sh") else 0o644)
        give(directory)


def head(body: str = "Do it.\n", **fields: Any) -> str:
    """Return a Markdown file with a head of YAML."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\n".join(["---", *lines, "---", body])


def skill(name: str, body: str = "Do it.\n", **fields: Any) -> dict[str, str]:
    """Return a skill of the project."""
    return {f".claude/skills/{name}/SKILL.md": head(body, name=name, description=f"Knows {name}", **fields)}


def agent(name: str, body: str = "You do it.\n", **fields: Any) -> dict[str, str]:
    """Return an agent of the project."""
    return {f".claude/agents/{name}.md": head(body, name=name, description=f"Does {name}", **fields)}


def settings(**fields: Any) -> dict[str, str]:
    """Return the project's settings."""
    return {".claude/settings.json": json.dumps(fields, indent=2)}


def hooks(*events: str, command: str, matcher: str | None = None) -> dict[str, str]:
    """Return settings with one hook for each event."""
    group: dict[str, Any] = {"hooks": [{"type": "command", "command": command}]}
    if matcher is not None:
        group["matcher"] = matcher
    return settings(hooks={event: [group] for event in events})


def servers(**entries: Any) -> dict[str, str]:
    """Return a file with the project's MCP servers."""
    return {".mcp.json": json.dumps({"mcpServers": entries})}


def does(*replies: Reply, argv: tuple[str, ...] = (TRUSTED,), prompt: str = "go on", **more: Any) -> Call:
    """Return a call in which the model uses these tools, one after another."""
    return Call(("-p", prompt, *JSON, *argv), part=in_turn(*replies, Say("done")), **more)


def says(*argv: str, **more: Any) -> Call:
    """Return a call that prints plain text."""
    return Call(("-p", *argv), **more)


def bash(command: str, **more: Any) -> Use:
    """Return the model's use of a command."""
    return Use("Bash", {"command": command, "description": "x", **more})


MCP = """import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    if "id" in asked:
        answer = {"initialize": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                  "serverInfo": {"name": "x", "version": "1"}},
                  "tools/list": {"tools": [{"name": "look", "description": "L", "inputSchema": {"type": "object"}}]},
                  "tools/call": {"content": [{"type": "text", "text": "seen"}]}}.get(asked["method"], {})
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": answer}), flush=True)
"""
PYTHON = "/usr/bin/python3"
TELLS = MCP.replace("import json, sys", "import json, os, sys").replace(
    '"L"', 'repr([sys.argv[1:], os.getcwd(), sorted(i for i in os.environ.items() if i[0][:2] == "T_")])'
)
"""A server that tells how it was started, in the description of its tool."""
CONNECTED = ("--mcp-config", "{}")
APPROVED = {"enableAllProjectMcpServers": True}


def tells(*args: str, **more: Any) -> dict[str, Any]:
    """Return the entry of a server that tells how it was started."""
    return {"command": PYTHON, "args": ["tells.py", *args], "alwaysLoad": True, **more}


TEXTS = ["a\nb", "tab\there", "", "a b", "'q'", '"d"', "$HOME", "`x`", "\\n", "é🚀", "*", "-flag", "a=b", "{}",
         "${T_ONE}", "${T_NONE}", "${T_NONE:-d}", "${T_NONE:-}", "${T_EMPTY:-d}", "x${T_ONE}y${T_ONE}", "$T_ONE",
         "${T_NONE:-${T_ONE}}", "${input:key}", "${env:T_ONE}", "${workspaceFolder}", "${T_LONG}", "$${T_ONE}",
         "${T-x}", "${T_NONE:-a\nb}", "${T_REFERS}"]  # fmt: skip
SET = {"T_ONE": "1 $x", "T_EMPTY": "", "T_LONG": "l" * 3000, "T_PY": PYTHON, "T_REFERS": "${HOME}"}
AWAY = "http://127.0.0.1:1/mcp"

RULES = {
    ".claude/rules/style.md": "RULE: be terse.\n",
    ".claude/rules/api/http.md": '---\npaths: ["src/**/*.ts"]\n---\nRULE: handlers return JSON.\n',
    ".claude/rules/db.md": "---\npaths: src/db/**\n---\nRULE: no raw SQL.\n",
    "src/x.ts": "export const x = 1\n",
    "src/db/q.sql": "select 1\n",
}
READS = does(Use("Read", {"file_path": "/workspace/src/x.ts"}))


def _corpus() -> list[Project]:
    big = "x" * 99 + "\n"
    plain_text = "# Project\n\nUse tabs.\n"
    return [
        Project("empty", {}),
        Project("memory", {"CLAUDE.md": plain_text, "CLAUDE.local.md": "Mine: blue.\n"}),
        Project("memory in .claude", {".claude/CLAUDE.md": plain_text}),
        Project(
            "imports",
            {
                "CLAUDE.md": "See @docs/a.md and (@docs/b.md), **@docs/c.md**.\n\n`@docs/d.md`\n\n```\n@docs/d.md\n"
                "```\n~~~\n@docs/d.md\n~~~\n@missing.md\n@docs/my\\ file.md\n@docs\n- @docs/e.md\n",
                **{f"docs/{name}.md": f"TEXT OF {name}\n" for name in "abcde"},
                "docs/my file.md": "BLANK\n",
            },
        ),
        Project("imports in a loop", {"CLAUDE.md": "@a.md\n", "a.md": "A @b.md\n", "b.md": "B @a.md @CLAUDE.md\n"}),
        Project(
            "imports too deep",
            {
                "CLAUDE.md": "@1.md\n",
                **{f"{number}.md": f"LEVEL {number}\n@{number + 1}.md\n" for number in range(1, 9)},
            },
        ),
        Project("AGENTS.md", {"AGENTS.md": "Agents: read this.\n", "CLAUDE.md": "@AGENTS.md\n"}),
        Project("AGENTS.md alone", {"AGENTS.md": "Agents: read this.\n"}),
        Project("picture as import", {"CLAUDE.md": "@logo.png\nText.\n", "logo.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"}),
        Project("CRLF", {"CLAUDE.md": plain_text.replace("\n", "\r\n"), **_crlf(skill("win"), agent("winner"))}),
        Project("byte-order mark", {"CLAUDE.md": "\ufeff" + plain_text, **_marked(skill("bom"), agent("bomber"))}),
        Project("UTF-16", {"CLAUDE.md": plain_text.encode("utf-16")}),
        Project("Latin-1", {"CLAUDE.md": "Grüße.\n".encode("latin-1"), **_latin(skill("umlaut", "Größe.\n"))}),
        Project("NUL in memory", {"CLAUDE.md": b"A\0B\n"}),
        Project("long memory", {"CLAUDE.md": big * 500}),
        Project("linked memory", {"CLAUDE.md": Link("docs/real.md"), "docs/real.md": "LINKED\n"}),
        Project("rules", RULES, (HI, READS)),
        Project(
            "nested memory",
            {"CLAUDE.md": "ROOT\n", "pkg/CLAUDE.md": "PKG @notes.md\n", "pkg/notes.md": "NOTES\n", "pkg/a.ts": "1\n"},
            (does(Use("Read", {"file_path": "/workspace/pkg/a.ts"})), Call(HI.argv, cwd="/workspace/pkg")),
        ),
        Project(
            "monorepo",
            {
                **settings(model="opus", env={"LEVEL": "root"}),
                "CLAUDE.md": "ROOT\n",
                "app/CLAUDE.md": "APP\n",
                "app/.claude/settings.json": json.dumps({"model": "sonnet"}),
                "app/.claude/agents/appy.md": head(name="appy", description="Does the app"),
                "app/.claude/skills/ship/SKILL.md": head(name="ship", description="Ships"),
                "app/.claude/commands/fix.md": "Fix $1\n",
                **agent("rooty"),
                **skill("base"),
            },
            (HI, Call(HI.argv, cwd="/workspace/app")),
        ),
        Project(
            "skill pack",
            {
                name: text
                for number in range(30)
                for name, text in {
                    **skill(f"pack{number:02}", f"See references/a.md\n{big * 20}", license="MIT", metadata="{a: b}"),
                    f".claude/skills/pack{number:02}/references/a.md": big * 400,
                    f".claude/skills/pack{number:02}/scripts/x.sh": "#!/bin/sh\necho ran\n",
                }.items()
            },
        ),
        Project("150 agents", {k: v for n in range(150) for k, v in agent(f"agent{n:03}", big * 40).items()}),
        Project(
            "agents with long descriptions",
            {f".claude/agents/a{n}.md": head(name=f"a{n}", description="d" * 500) for n in range(120)},
        ),
        Project(
            "agents of every shape",
            {
                **agent("modelled", model="haiku", tools="Read, Grep", color="red"),
                **agent("hooked", hooks='{"Stop": [{"hooks": [{"type": "command", "command": "true"}]}]}'),
                **agent("skilled", skills="aaa"),
                **agent("thrifty", effort="low", maxTurns=3),
                ".claude/agents/deep/nested.md": head(name="nested", description="Is nested"),
                ".claude/agents/noname.md": head(description="Has no name"),
                ".claude/agents/headless.md": "No head.\n",
                ".claude/agents/empty.md": "",
                ".claude/agents/bad.md": "---\nname: [\n---\n",
                ".claude/agents/colon.md": "---\nname: colon\ndescription: does this: that\n---\nx\n",
                ".claude/agents/notes.txt": "no agent\n",
            },
        ),
        Project(
            "skills of every shape",
            {
                **skill("bare"),
                **skill("tools", allowed_tools="Bash(git:*), Read"),
                **skill("hidden", disable_model_invocation="true"),
                **skill("unlisted", user_invocable="false"),
                **skill("licensed", license="MIT", compatibility="any", metadata="{a: b}"),
                ".claude/skills/alias/SKILL.md": head(name="other-name", description="Is named otherwise"),
                ".claude/skills/nodescription/SKILL.md": "# A title\n\nText.\n",
                ".claude/skills/lower/skill.md": head(name="lower", description="Small letters"),
                ".claude/skills/single.md": head(name="single", description="One file"),
                ".claude/skills/broken/SKILL.md": "---\nname: broken\n",
                ".claude/skills/folder/": "",
            },
        ),
        Project(
            "odd names",
            {
                ".claude/commands/what's-next.md": "What is next?\n",
                ".claude/commands/review (quick).md": "Review.\n",
                ".claude/commands/ui&ux.md": "Look.\n",
                ".claude/commands/c#-expert.md": "C.\n",
                ".claude/commands/größe.md": "Size.\n",
                ".claude/commands/🚀.md": "Fly.\n",
                f".claude/commands/{'l' * 120}.md": "Long.\n",
                ".claude/commands/git/commit.md": "Commit.\n",
                ".claude/commands/a/b/c/d/deep.md": "Deep.\n",
                ".claude/agents/what's.md": head(name="odd", description="Odd file"),
                ".claude/skills/c++/SKILL.md": head(name="cpp", description="C++"),
            },
        ),
        Project(
            "commands",
            {
                ".claude/commands/fix.md": head(
                    "Fix $1 then $2. All: $ARGUMENTS\n", description="Fixes", argument_hint="[a]"
                ),
                ".claude/commands/state.md": head("Now: !`echo ran; pwd`\n", allowed_tools="Bash(echo:*), Bash(pwd)"),
                ".claude/commands/read.md": "Look at @notes.txt\n",
                "notes.txt": "NOTES\n",
            },
            (
                Call(("-p", "/fix one 'two three'", *JSON)),
                Call(("-p", "/state", *JSON, TRUSTED)),
                Call(("-p", "/read", *JSON)),
                Call(("-p", "/nosuch", *JSON)),
            ),
        ),
        Project(
            "skill with scripts",
            {
                **skill("run", "Run: !`sh ${CLAUDE_SKILL_DIR}/scripts/x.sh`\n", allowed_tools="Bash(sh:*)"),
                ".claude/skills/run/scripts/x.sh": "echo SCRIPT RAN\n",
            },
            (Call(("-p", "/run", *JSON, TRUSTED)), does(Use("Skill", {"skill": "run"}))),
        ),
        Project(
            "every hook",
            hooks(
                "SessionStart",
                "UserPromptSubmit",
                "PreToolUse",
                "PostToolUse",
                "Stop",
                "SubagentStop",
                "SessionEnd",
                "Notification",
                "PreCompact",
                command="cat >>$CLAUDE_PROJECT_DIR/log; echo >>$CLAUDE_PROJECT_DIR/log",
            ),
            (does(bash("echo hi")), does(bash("cut -c1-60 log | grep -c session_id"))),
        ),
        Project(
            "hooks that speak",
            settings(
                hooks={
                    "SessionStart": [{"hooks": [{"type": "command", "command": "echo CONTEXT"}]}],
                    "UserPromptSubmit": [{"hooks": [{"type": "command", "command": "echo MORE"}]}],
                    "PreToolUse": [
                        {"matcher": "Bash", "hooks": [{"type": "command", "command": "echo no >&2;exit 2"}]}
                    ],
                }
            ),
            (does(bash("echo hi")),),
        ),
        Project(
            "hook that reads the transcript",
            hooks(
                "Stop",
                command="""python3 -c 'import json,sys
p=json.load(sys.stdin)["transcript_path"]
open("/workspace/out","w").write(str(len(open(p).readlines())>1))'""",
            ),
            (HI, does(bash("cat out"))),
        ),
        Project(
            "hook that sets variables",
            hooks("SessionStart", command="echo 'export FROMHOOK=1' >>\"$CLAUDE_ENV_FILE\""),
            (does(bash("echo v=$FROMHOOK")),),
        ),
        Project(
            "variables in settings",
            settings(env={"FOO": "bar", "BASH_DEFAULT_TIMEOUT_MS": "1500", "MAX_THINKING_TOKENS": "1000"}),
            (does(bash("echo F=$FOO")), does(bash("sleep 4; echo late"))),
        ),
        Project(
            "settings of every kind",
            settings(
                model="sonnet",
                outputStyle="Explanatory",
                includeCoAuthoredBy=False,
                cleanupPeriodDays=10,
                permissions={"allow": ["Bash(git:*)"], "deny": ["Read(./secret)"], "additionalDirectories": ["../lib"]},
                attribution={"commit": "", "pr": ""},
                statusLine={"type": "command", "command": "echo x"},
                **{"$schema": "https://json.schemastore.org/claude-code-settings.json"},
            ),
        ),
        Project(
            "local settings",
            {**settings(model="opus"), ".claude/settings.local.json": json.dumps({"model": "sonnet"})},
        ),
        Project("broken settings", {".claude/settings.json": "{not json", ".mcp.json": "[1]"}),
        Project("settings with a mark", {".claude/settings.json": b"\xef\xbb\xbf" + b'{"model": "sonnet"}'}),
        Project(
            "denied file",
            {**settings(permissions={"deny": ["Read(./secret/**)"]}), "secret/key": "S\n", "open": "O\n"},
            (does(Use("Read", {"file_path": "/workspace/secret/key"}), Use("Read", {"file_path": "/workspace/open"})),),
        ),
        Project(
            "permissions",
            settings(permissions={"allow": ["Bash(echo:*)"], "defaultMode": "acceptEdits"}),
            (
                does(
                    bash("echo hi"),
                    bash("touch x"),
                    Use("Write", {"file_path": "/workspace/y", "content": "y"}),
                    argv=(),
                ),
            ),
        ),
        Project(
            "MCP server",
            {**servers(mine={"command": PYTHON, "args": ["server.py"]}), "server.py": MCP, **settings(**APPROVED)},
            (HI, does(Use("mcp__mine__look", {}))),
        ),
        Project(
            "MCP servers of every kind",
            {
                **servers(
                    named={"type": "stdio", "command": PYTHON, "args": ["server.py"], "env": {"T": "${T}"}},
                    lines={"command": "sh", "args": ["-c", "exec \\\n  python3 server.py"]},
                    default={"command": PYTHON, "args": ["${WHERE:-server.py}"]},
                    empty={"command": PYTHON, "args": ["server.py"], "env": None},
                    timed={"command": PYTHON, "args": ["server.py"], "timeout": 5000},
                    gone={"command": "no-such-program"},
                    streamed={"type": "streamable-http", "url": "http://127.0.0.1:1/mcp"},
                    foreign={"command": PYTHON, "args": ["server.py"], "disabled": False, "autoApprove": []},
                    blank={"command": ""},
                ),
                "server.py": MCP,
                **settings(**APPROVED),
            },
            (Call(HI.argv, env={"T": "t" * 600}),),
        ),
        Project(
            "MCP servers by name",
            {
                **servers(
                    a={"command": PYTHON, "args": ["server.py"]},
                    b={"command": PYTHON, "args": ["server.py"]},
                ),
                "server.py": MCP,
                **settings(enabledMcpjsonServers=["a"]),
            },
            (HI, Call((*HI.argv, "--strict-mcp-config"))),
        ),
        Project(
            "MCP servers switched off",
            {
                **servers(a=tells(), b=tells(), c=tells(), d=tells()),
                "tells.py": TELLS,
                **settings(disabledMcpjsonServers=["a"], enableAllProjectMcpServers=False),
                ".claude/settings.local.json": json.dumps(
                    {"disabledMcpjsonServers": ["b"], "enabledMcpjsonServers": ["b", "c"]}
                ),
            },
        ),
        Project(
            "MCP servers with texts",
            {
                **servers(
                    texts=tells(*TEXTS),
                    variables=tells(env={f"T_{number}": text for number, text in enumerate(TEXTS)}),
                    **{"my server": tells(), "dot.ted": tells(), "größe": tells()},
                    program={**tells(), "command": "${T_PY}"},
                    script={"command": "./run.sh", "alwaysLoad": True},
                    line={"command": f"{PYTHON} tells.py"},
                    home={"command": "~/server"},
                ),
                "tells.py": TELLS,
                "run.sh": "#!/bin/sh\nexec python3 tells.py\n",
            },
            (Call(HI.argv, env=SET),),
        ),
        Project(
            "MCP entries of other programs",
            {
                **servers(
                    cline=tells(disabled=True, autoApprove=["look"], alwaysAllow=[], timeout=600),
                    cursor=tells(envFile="${workspaceFolder}/.env", cwd="${workspaceFolder}/src"),
                    readme=tells(description="${X}", transportType="stdio", cwd="/tmp", trust=True),
                    address={"url": AWAY},
                    windsurf={"serverUrl": AWAY},
                    camel={"type": "streamableHttp", "url": AWAY},
                    local={"type": "local", "command": ["python3", "tells.py"]},
                    sse={"type": "sse", "url": AWAY},
                    http={
                        "type": "http",
                        "url": AWAY,
                        "headers": {"Authorization": "Bearer ${T_ONE}"},
                        "timeout": 5000,
                    },
                    socket={"type": "ws", "url": "ws://127.0.0.1:1/"},
                    login={"type": "http", "url": AWAY, "oauth": {"clientId": "x", "callbackPort": 3118}},
                    unset={"type": "http", "url": "${T_NONE}"},
                    empty={"type": "http", "url": ""},
                    text={"type": "http", "url": "not a url"},
                    number={"command": PYTHON, "args": ["tells.py"], "env": {"PORT": 3000}},
                    nothing=None,
                ),
                "tells.py": TELLS,
            },
            (Call(HI.argv, env=SET),),
        ),
        Project(
            "MCP servers for another editor",
            {
                ".mcp.json": json.dumps(
                    {"inputs": [{"type": "promptString", "id": "key"}], "servers": {"a": tells("${input:key}")}}
                ),
                "tells.py": TELLS,
            },
        ),
        Project(
            "MCP servers at several levels",
            {
                **servers(root=tells("root"), both=tells("root")),
                "app/.mcp.json": servers(app=tells("app"), both=tells("app"))[".mcp.json"],
                "tells.py": TELLS,
                "app/tells.py": TELLS,
            },
            (HI, Call(HI.argv, cwd="/workspace/app")),
        ),
        Project(
            "MCP servers beside those of a flag",
            {**servers(a=tells(), both=tells("project")), "tells.py": TELLS},
            tuple(
                Call((*HI.argv, "--mcp-config", json.dumps({"mcpServers": entries}), *more), env=SET)
                for entries in ({"q": tells(*TEXTS), "both": tells("flag")}, {"empty": {"command": ""}, "q": tells()})
                for more in ((), ("--strict-mcp-config",))
            ),
        ),
        Project(
            "files for flags",
            {
                "m.json": json.dumps({"mcpServers": {"mine": {"command": PYTHON, "args": ["/workspace/server.py"]}}}),
                "server.py": MCP,
                "s.json": json.dumps({"model": "sonnet"}),
                "p.txt": "BE TERSE\n",
                "a.json": json.dumps({"ag": {"description": "d", "prompt": "p"}}),
                "sub/": "",
            },
            (
                Call((*HI.argv, "--mcp-config", "m.json")),
                Call((*HI.argv, "--mcp-config", "../m.json"), cwd="/workspace/sub"),
                Call((*HI.argv, "--settings", "/workspace/s.json")),
                Call((*HI.argv, "--append-system-prompt-file", "p.txt")),
                Call((*HI.argv, "--system-prompt-file", "./p.txt")),
                Call((*HI.argv, "--agents", '{"ag": {"description": "d", "prompt": "p"}}')),
                says("hi you", "--mcp-config", "missing.json"),
                says("hi you", "--settings", "missing.json"),
                says("hi you", "--append-system-prompt-file", "missing.txt"),
            ),
        ),
        Project(
            "flags",
            {},
            (
                says("hi you"),
                says("hi you", "--output-format", "json"),
                says("hi you", "--model", "sonnet", "--append-system-prompt", "BE KIND"),
                says("hi you", "--system-prompt", "ONLY THIS"),
                says(),
                says("hi you", "--no-such-flag"),
                says("hi you", "--output-format", "stream-json"),
                says("hi you", "--output-format", "xml"),
                says("hi you", "--max-turns", "none"),
                says("hi you", "--resume", "nonsense"),
                Call(("-p",), stdin=b"from stdin\n"),
                Call(("-p", "with"), stdin=b"from stdin\n"),
                says("hi you", "--allowedTools", 'Bash(node -e "f(1)"),Read'),
                says("hi you", "--tools", "Read,Grep", "--output-format", "json"),
            ),
        ),
        Project(
            "conversation",
            {},
            (
                says("first"),
                says("second", "--continue"),
                Call((*STREAM,), stdin=user("third") + user("fourth")),
            ),
        ),
        Project(
            "long output",
            {},
            (does(bash("seq 1 20000"), bash("cat $(find / -path '*tool-results*.txt' 2>/dev/null) | wc -l")),),
        ),
        Project(
            "commands that fail",
            {},
            (
                does(
                    bash("exit 7"),
                    bash("no-such-program"),
                    bash("kill -9 $$"),
                    bash("cd /tmp && pwd"),
                    bash("pwd"),
                    bash("printf '\\377\\0x'"),
                    bash("echo out; echo err >&2"),
                ),
            ),
        ),
        Project(
            "file tools",
            {"a.txt": "one\ntwo\n", "b.bin": bytes(range(256)), "link": Link("a.txt"), "dangling": Link("nowhere")},
            (
                does(
                    Use("Read", {"file_path": "/workspace/a.txt"}),
                    Use("Edit", {"file_path": "/workspace/a.txt", "old_string": "one", "new_string": "1"}),
                    Use("Write", {"file_path": "/workspace/new/c.txt", "content": "c"}),
                    Use("Read", {"file_path": "/workspace/link"}),
                    Use("Read", {"file_path": "/workspace/dangling"}),
                    Use("Read", {"file_path": "/workspace/b.bin"}),
                    Use("Read", {"file_path": "/nowhere"}),
                    bash("cat a.txt new/c.txt"),
                ),
            ),
        ),
        Project(
            "subagent",
            agent("helper", "You help.\n", tools="Bash, Read"),
            (
                does(
                    Use(
                        "Agent",
                        {"subagent_type": "helper", "prompt": "go", "description": "x", "run_in_background": False},
                    ),
                    bash("echo sub"),
                ),
            ),
        ),
        Project("repository", _repository()),
        *(
            Project(
                f"program {name}",
                {"notes": "NOTES\n", "docs/a.md": "A\n", "server.py": MCP, "CLAUDE.md": "Be kind.\n"},
                (Call(tuple(agent_sdk.command(name)[1:]), agent_sdk.command(name)[0], part=directed),),
            )
            for name in agent_sdk.PROGRAMS
        ),
    ]


def _crlf(*parts: dict[str, str]) -> dict[str, str | bytes | Link]:
    return {name: text.replace("\n", "\r\n") for part in parts for name, text in part.items()}


def _marked(*parts: dict[str, str]) -> dict[str, str | bytes | Link]:
    return {name: "\ufeff" + text for part in parts for name, text in part.items()}


def _latin(*parts: dict[str, str]) -> dict[str, str | bytes | Link]:
    return {name: text.encode("latin-1") for part in parts for name, text in part.items()}


def _repository() -> dict[str, str | bytes | Link]:
    """Return the files of a repository without a commit, as `git init` makes it."""
    return {
        ".git/HEAD": "ref: refs/heads/main\n",
        ".git/config": "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n",
        ".git/objects/": "",
        ".git/refs/heads/": "",
        "a.txt": "a\n",
    }


PROJECTS = _corpus()
