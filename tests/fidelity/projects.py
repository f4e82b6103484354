"""The corpus: project folders in the shapes that people have, and the calls that are compared in each."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.fidelity.sides import Call, give, in_workspace
from tests.support import agent_sdk
from tests.support.fake_messages_api import Part, Reply, Request, Say, Use, directed, in_turn
from tests.support.stream_json import STREAM, user

JSON = ("--output-format", "stream-json", "--verbose")
HI = Call(("-p", "hi you", *JSON))
TRUSTED = "--dangerously-skip-permissions"


FIXED = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/nowhere",
    **{
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "Ann"), ("EMAIL", "ann@example.org"), ("DATE", "2026-01-02T03:04:05Z"))
    },
}
"""With these variables the same script makes the same commits."""


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
    script: str = ""
    """What a shell does in the folder then, at the path /workspace."""

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
        if self.script:
            subprocess.run([*in_workspace(directory), "/bin/sh", "-ec", self.script], check=True, env=FIXED)


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


def follows(first: Reply, pattern: str) -> Part:
    """Return the part of a model that takes a path from the result of a tool, and looks at that file in two ways."""

    def part(request: Request) -> Reply:
        found = re.search(pattern, "\n".join(request.results))
        path = found.group(1) if found else "/nowhere"
        replies = (first, bash(f"sleep 1; wc -l <{path}; cat '{path}' | tail -n 1"), Use("Read", {"file_path": path}))
        return in_turn(*replies, Say("done"))(request)

    return part


def bash(command: str, **more: Any) -> Use:
    """Return the model's use of a command."""
    return Use("Bash", {"command": command, "description": "x", **more})


EXAMPLES = '<example>Context: a test. user: "Is it \'so\'?"\\nassistant: "Yes" # not always</example> '
TOOLS = "\n  - Read\n  - Grep"
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
NAMES = "env | grep -v '^ANTHR\\|DISABLE\\|^PATH\\|RETRIES\\|MESSAGING\\|NOTES\\|_PID\\|EXECPATH' | cut -d= -f1 | sort"
"""Prints the names of the variables, except for the tests' own and those that name what only the host has."""
EVENTS = ("SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse", "Stop", "SubagentStop", "SessionEnd")
LOOK = """import json, os, sys, time
told = json.load(sys.stdin)

def found(path):
    return os.path.exists(path) and '"type":"user"' in open(path).read()

until = time.monotonic() + 3 * (told["hook_event_name"] not in ("SessionStart", "UserPromptSubmit"))
with open("/workspace/out", "a") as out:
    for key in ("transcript_path", "agent_transcript_path"):
        path = told.get(key, "")
        while path and not found(path) and time.monotonic() < until:
            time.sleep(0.05)  # a poll: nothing tells a hook that the file is written
        print(told["hook_event_name"], key, path and found(path), path[-6:], file=out)
"""
"""Says whether a hook finds the conversation. It looks again for up to 3 s, because the CLI writes the file after it
has started some hooks, and tells them nothing when it is written."""
PYTHON = "/usr/bin/python3"
TELLS = MCP.replace("import json, sys", "import json, os, sys").replace(
    '"L"', 'repr([sys.argv[1:], os.getcwd(), sorted(i for i in os.environ.items() if i[0][:2] == "T_")])'
)
"""A server that tells how it was started, in the description of its tool."""
CONNECTED = ("--mcp-config", "{}")
AGENT = {"description": "d", "prompt": "p", "memory": "user", "permissionMode": "plan", "mcpServers": ["x"], "other": 1}
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
IMPORTS = """See @i/plain.md, and (@i/brackets.md) **@i/strong.md** _@i/weak.md_ *@i/star.md* a@i/mail.md
`@i/code.md` ``x ` @i/code.md`` <b>@i/tag.md</b> [a @i/link.md](x) ![@i/alt.md](y) \\@i/escape.md
@./i/dot.md @i/fragment.md#part @#none @i @i/ @/workspace/i/absolute.md @~/i/home.md @../i/above.md
@i/comma.md, @i/tab.md	@i/after-tab.md snake_case @i/a_b_c.md 2 * 3 @i/times.md

> @i/quote.md

- @i/item.md
- `run @i/in-code.md now`
  - @i/inner.md

    @i/of-inner.md

1. one
   @i/second.md

   ```
   @i/fenced.md
   ```

text

    @i/indented.md

# Heading @i/heading.md

````
```
@i/fenced.md
````
<!-- @i/comment.md -->
<!-- a --> @i/beside.md

<div>
@i/html.md
</div>

[x]: @i/definition.md
@i/upper.MD @i/type.rs @i/type.bin @i/nosuffix @i/link.md @i/empty.md
"""
IMPORTED = sorted({match.split("#")[0] for match in re.findall(r"@(?:/workspace/|\\./)?(i/[\w.-]+)", IMPORTS)})

NESTED = (".github", "build", "vendor/v", "node_modules/m")

GLOBS = {
    "list": '["src/**/*.ts", "lib/**"]', "text": "pkg/**/*.ts, other/*.md", "braces": '"{pkg,src}/**/*.{js,ts}"',
    "folder": "pkg/**", "name": '"*.ts"', "star": "pkg/*", "not": '["**/*.ts", "!**/x.ts"]', "rooted": "/other/*.md",
    "deep": '"**/lib/**"', "one": "pkg/lib/y.js",
}  # fmt: skip

REPOSITORY = """git init -q -b main; git add .; git commit -qm first
git commit -q --allow-empty -m 'second: with "quotes"'; git checkout -q -b feature/x
"""
"""Makes a repository with two commits, on a branch."""
READS = does(Use("Read", {"file_path": "/workspace/src/x.ts"}))


def _corpus() -> list[Project]:
    big = "x" * 99 + "\n"
    plain_text = "# Project\n\nUse tabs.\n"
    return [
        Project("empty", {}),
        Project("memory", {"CLAUDE.md": plain_text, "CLAUDE.local.md": "Mine: blue.\n"}),
        Project(
            "memory in .claude and excluded memory",
            {
                ".claude/CLAUDE.md": plain_text,
                "CLAUDE.md": "ROOT @docs/{a}.md\n",
                "CLAUDE.local.md": "LOCAL @docs/b.md\n",
                "docs/{a}.md": "A\n",
                "docs/b.md": "B\n",
                ".claude/rules/old/x.md": "OLD\n",
                ".claude/rules/new.md": "NEW\n",
                **settings(claudeMdExcludes=["/workspace/*.{local,own}.md", "**/rules/old/**", "docs/b.md"]),
            },
        ),
        Project(
            "imports",
            {
                "CLAUDE.md": "See @docs/a.md and (@docs/b.md), **@docs/c.md**.\n\n`@docs/d.md`\n\n```\n@docs/d.md\n"
                "```\n~~~\n@docs/d.md\n~~~\n@missing.md\n@docs/my\\ file.md\n@docs\n- @docs/e.md\n",
                **{f"docs/{name}.md": f"TEXT OF {name}\n" for name in "abcde"},
                "docs/my file.md": "BLANK\n",
            },
        ),
        Project(
            "imports of every spelling",
            {
                "CLAUDE.md": IMPORTS,
                **{name: f"TEXT OF {name}\n" for name in IMPORTED},
                "i/link.md": Link("plain.md"),
                "i/empty.md": "\n",
            },
        ),
        Project(
            "imports in CRLF",
            {
                "CLAUDE.md": IMPORTS.replace("\n", "\r\n"),
                **{name: f"TEXT OF {name}\n" for name in IMPORTED},
            },
        ),
        Project(
            "imports from a folder above",
            {
                "CLAUDE.md": "@pkg/a.md @docs/b.md\n",
                "pkg/a.md": "A\n",
                "docs/b.md": "B\n",
                "pkg/CLAUDE.md": "@../docs/b.md @c.md\n",
                "pkg/c.md": "C\n",
            },
            (HI, Call(HI.argv, cwd="/workspace/pkg")),
        ),
        Project(
            "heads in memory",
            {
                "CLAUDE.md": "---\ntitle: x\npaths: src/**\n---\nTOLD\n\n<!-- hidden\n-->\n\nSHOWN <!-- inline -->\n",
                "CLAUDE.local.md": "\n\n  indented\n\n",
                ".claude/rules/a.md": "---\ndescription: no paths\n---\nALWAYS\n",
                ".claude/rules/b.md": "---\npaths:\n---\nEMPTY PATHS\n",
                ".claude/rules/c.md": "---\npaths: '**'\n---\nEVERYWHERE\n",
                ".claude/rules/d.txt": "no rule\n",
            },
        ),
        Project(
            "rules of every shape",
            {
                **{
                    f".claude/rules/{name}.md": f"---\npaths: {paths}\n---\nRULE {name}\n"
                    for name, paths in GLOBS.items()
                },
                "pkg/.claude/rules/inner.md": "INNER RULE\n",
                "pkg/.claude/rules/inner-ts.md": "---\npaths: '*.ts'\n---\nINNER TS\n",
                "pkg/.claude/rules/inner-lib.md": "---\npaths: lib/**\n---\nINNER LIB\n",
                "pkg/CLAUDE.local.md": "LOCAL OF PKG\n",
                "pkg/.claude/CLAUDE.md": "DOT OF PKG\n",
                "pkg/x.ts": "1\n",
                "pkg/lib/y.js": "2\n",
                "other/z.md": "3\n",
                "src/a b.ts": "4\n",
            },
            (
                does(
                    *(
                        Use("Read", {"file_path": f"/workspace/{name}"})
                        for name in ("pkg/x.ts", "other/z.md", "src/a b.ts")
                    )
                ),
                does(Use("Read", {"file_path": "/workspace/pkg/lib/y.js"})),
                does(Use("Read", {"file_path": "/workspace/pkg/lib/y.js"}), cwd="/workspace/pkg"),
            ),
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
        Project(
            "linked memory",
            {
                "CLAUDE.md": Link(".ai/AGENTS.md"),
                ".ai/AGENTS.md": "LINKED @x.md @../docs/l.md\n",
                ".ai/x.md": "BESIDE THE FILE\n",
                "x.md": "BESIDE THE LINK\n",
                "docs/l.md": Link("../other/real.md"),
                "docs/n.md": "BESIDE THE LINK\n",
                "other/real.md": "REAL @n.md\n",
                "other/n.md": "BESIDE THE FILE\n",
                ".claude/rules": Link("../conf/rules"),
                "conf/rules/a.md": "RULE\n",
            },
        ),
        Project("rules", RULES, (HI, READS)),
        Project(
            "nested memory",
            {
                "CLAUDE.md": "ROOT\n",
                "pkg/CLAUDE.md": "PKG @notes.md\n",
                "pkg/notes.md": "NOTES\n",
                "link": Link("pkg"),
                **{f"{place}/CLAUDE.md": f"{place}\n" for place in NESTED},
                **{f"{place}/a.ts": "1\n" for place in ("pkg", *NESTED)},
                "dist/.claude/skills/q/SKILL.md": head(name="q", description="Is built"),
            },
            (
                does(*(Use("Read", {"file_path": f"/workspace/{place}/a.ts"}) for place in ("pkg", *NESTED))),
                does(Use("Read", {"file_path": "/workspace/link/a.ts"})),
                Call(HI.argv, cwd="/workspace/pkg"),
            ),
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
            "settings of a folder above",
            {**settings(model="sonnet"), "sub/a": "a\n", "CLAUDE.md": "ROOT\n"},
            (Call(HI.argv, cwd="/workspace/sub"),),
        ),
        Project(
            "settings above in a repository",
            {
                ".gitignore": "*.local.*\n",
                **settings(model="opus"),
                ".claude/settings.local.json": '{"language": "French", "env": {"L": "root"}}',
                "sub/.claude/settings.local.json": '{"language": "German", "model": "sonnet", "env": {"S": "sub"}}',
            },
            (Call(HI.argv, cwd="/workspace/sub"),),
            REPOSITORY,
        ),
        Project(
            "repository in a repository",
            {
                **{f"sub/{name}": text for name, text in _repository().items()},
                **agent("outer"),
                **skill("outside"),
                "sub/.claude/agents/inner.md": head(name="inner", description="Is inside"),
            },
            (Call(HI.argv, cwd="/workspace/sub"),),
        ),
        Project(
            "skill of a package",
            {
                "pkg/.claude/skills/near/SKILL.md": head(
                    "Run: !`sh ${CLAUDE_SKILL_DIR}/x.sh`\n",
                    name="near",
                    description="Is near",
                    allowed_tools="Bash(sh ${CLAUDE_SKILL_DIR}/x.sh)",
                ),
                "pkg/.claude/skills/near/x.sh": "echo NEAR RAN\n",
                "pkg/a": "a\n",
            },
            (
                Call(("-p", "/near", *JSON), cwd="/workspace/pkg"),
                does(Use("Read", {"file_path": "/workspace/pkg/a"}), bash("true")),
            ),
        ),
        Project(
            "hooks in the head of a skill",
            skill("hooked", hooks='{"PreToolUse": [{"hooks": [{"type": "command", "command": "echo s >>hooked"}]}]}'),
            (does(Use("Skill", {"skill": "hooked"}), bash("true"), bash("cat hooked")),),
        ),
        Project(
            "agent that is the session",
            agent("own", hooks='{"PreToolUse": [{"hooks": [{"type": "command", "command": "echo a >>hooked"}]}]}'),
            (does(bash("true"), bash("cat hooked"), argv=(TRUSTED, "--agent", "own")),),
        ),
        Project(
            "AGENTS.md of a package",
            {"AGENTS.md": "ROOT\n", "pkg/AGENTS.md": "PKG\n", "pkg/in/AGENTS.md": "IN\n", "pkg/in/a": "a\n"},
            (Call(HI.argv, cwd="/workspace/pkg"), does(Use("Read", {"file_path": "/workspace/pkg/in/a"}))),
        ),
        Project(
            "AGENTS.md beside CLAUDE.md",
            {"AGENTS.md": "AGENTS\n", "pkg/CLAUDE.md": "CLAUDE\n", "pkg/a": "a\n"},
            (HI, does(Use("Read", {"file_path": "/workspace/pkg/a"})), Call(HI.argv, cwd="/workspace/pkg")),
        ),
        Project(
            "heads of every spelling",
            {
                f".claude/skills/s{number}/SKILL.md": text
                for number, text in enumerate(
                    (
                        "---\nname: s0\ndescription: a --- b\n---\nx\n",
                        "---  \t\nname: s1\ndescription: blanks\n---  \nx\n",
                        "\n---\nname: s2\ndescription: late\n---\nx\n",
                        "---\nname: s3\ndescription: not closed\n",
                        "---\n---\nempty head\n",
                        "---\nname: s5\ndescription: |\n  many\n  lines\n---\nx\n",
                        '---\nname: s6\ndescription: "quoted: yes"\nuser-invocable: no\n---\nx\n',
                        "---\nname: s7\ndescription: 12:30\n---\nx\n",
                        "---\nname: s8\ndescription: does: this\n---\nx\n",
                        "---\nname: s9\ndescription: [a, b]\nargument-hint: [x] [y]\n---\nx\n",
                        "---\nname: [\n---\nx\n",
                        "---\nname: s11\n\tdescription: tab\n---\nx\n",
                        "---\nname: s12\ndescription: >-\n  folded\n  text\n---\nx\n",
                        "---\nname: s13\ndescription: &a x\nwhen_to_use: *a\n---\nx\n",
                        "---\nname: s14\ndescription: 2024-01-01\ndisable-model-invocation: yes\n---\nx\n",
                        "---\r\nname: s15\r\ndescription: |\r\n  crlf\r\n  lines\r\n---\r\nx\r\n",
                        "---\nname: s16\ndescription: 'it''s'\n# a comment\n---\nx\n",
                        "no head\n\nbut text\n",
                        "---\nname: s18\ndescription: !!python/object x\nx: !tag y\n---\nx\n",
                        "---\nname: s19\n  description: indented: text\n---\nx\n",
                        "",
                        "---\nname: s21\n---\n",
                        "---\nname: s22\ndescription: does: this # and that\nallowed-tools:\n  - Read\n---\nx\n",
                        "---\n- a\n- b\n---\nlist\n",
                    )
                )
            },
            (HI, does(Use("Skill", {"skill": "s17"}))),
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
        Project(
            "150 agents and a large command",
            {
                **{k: v for n in range(150) for k, v in agent(f"agent{n:03}", big * 40).items()},
                ".claude/commands/huge.md": big * 1400,
            },
        ),
        Project(
            "agents and skills with long descriptions",
            {
                **{
                    f".claude/agents/a{n}.md": head(name=f"a{n}", description=f"Use this: {EXAMPLES * 4}", tools=TOOLS)
                    for n in range(120)
                },
                ".claude/agents/nine.md": head(name="nine", description="Use when: x. " * 700),
                **{
                    f".claude/skills/s{n}/SKILL.md": head(name=f"s{n}", description=f">-\n  {'word [x]: ' * 80}")
                    for n in range(100)
                },
            },
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
                *EVENTS,
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
            "hooks with other fields",
            settings(
                hooks={
                    "SessionStart": [
                        {"name": "x", "hooks": [{"type": "command", "command": "echo ONE", "description": "d"}]},
                    ],
                    "UserPromptSubmit": [
                        {"hooks": [{"type": "command", "command": "echo", "args": ["TWO", "$HOME", "a b"]}]},
                    ],
                }
            ),
            (says("hi you"),),
        ),
        Project(
            "settings that switch questions off",
            settings(permissions={"defaultMode": "bypassPermissions"}),
            (does(bash("touch x"), argv=()),),
        ),
        Project(
            "settings of a wrong type",
            settings(model="haiku", env=[], hooks={"Stop": [{"hooks": [{"type": "command", "command": "touch ran"}]}]}),
            (does(bash("ls"), argv=()),),
        ),
        Project(
            "hook that reads the transcript",
            {
                **hooks(
                    *EVENTS,
                    command="python3 /workspace/look.py",
                ),
                "look.py": LOOK,
            },
            (
                HI,
                Call((*HI.argv, "--continue")),
                does(bash("cat out")),
            ),
        ),
        Project(
            "hook that sets variables",
            settings(
                hooks={
                    "SessionStart": [
                        {
                            "hooks": [
                                {"type": "command", "command": command}
                                for command in (
                                    "echo 'export FROMHOOK=1' >>\"$CLAUDE_ENV_FILE\"",
                                    'printf \'export A="a b"\\nf() { echo "$A"; }\\n\' >"$CLAUDE_ENV_FILE"',
                                )
                            ]
                        }
                    ],
                    "Stop": [{"hooks": [{"type": "command", "command": 'echo "none: $CLAUDE_ENV_FILE" >>log'}]}],
                }
            ),
            (does(bash("echo v=$FROMHOOK; f"), bash("FROMHOOK=2; cat log; echo $FROMHOOK"), bash("echo $FROMHOOK")),),
        ),
        Project(
            "hook that sets many variables",
            hooks("SessionStart", command="seq -f 'export V%g=1' 3000 >\"$CLAUDE_ENV_FILE\""),
            (does(bash("echo ${V1-none} ${V3000-none}")),),
        ),
        Project(
            "hook with bad variables",
            hooks("SessionStart", command='echo no-such-program >"$CLAUDE_ENV_FILE"'),
            (does(bash("echo hi")),),
        ),
        Project(
            "hooks and their shell",
            hooks("Stop", "SessionStart", command=f"{{ echo 'a\\tb' $0 $-; {NAMES}; nosuch; [[ a ]]; }} >>log 2>&1"),
            (HI, does(bash(f"cat log; {NAMES}"))),
        ),
        Project(
            "variables in settings",
            settings(env={"FOO": "bar", "BASH_DEFAULT_TIMEOUT_MS": "1500", "MAX_THINKING_TOKENS": "1000"}),
            (does(bash("echo F=$FOO")), does(bash("sleep 4; echo late"))),
        ),
        Project(
            "variables everywhere",
            {
                **settings(
                    env={"WHO": "project", "PORT": 8080, "CLAUDE_CODE_SUBAGENT_MODEL": "haiku"},
                    hooks={"SessionStart": [{"hooks": [{"type": "command", "command": "echo HOOK $WHO $PORT"}]}]},
                    **APPROVED,
                ),
                ".claude/settings.local.json": json.dumps({"env": {"WHO": "local"}}),
                **servers(mine={"command": PYTHON, "args": ["${WHO}.py"]}),
                "caller.py": MCP,
                "local.py": "",
                "flag.json": json.dumps({"env": {"WHO": "flag", "BASH_MAX_TIMEOUT_MS": "3000"}}),
            },
            (
                does(bash("echo w=$WHO p=$PORT"), env={"WHO": "caller", "BASH_DEFAULT_TIMEOUT_MS": "9000"}),
                does(bash("echo w=$WHO"), argv=(TRUSTED, "--settings", "flag.json"), env={"WHO": "caller"}),
            ),
        ),
        Project(
            "settings of every kind",
            settings(
                model="sonnet",
                outputStyle="Explanatory",
                effortLevel="low",
                includeCoAuthoredBy=False,
                cleanupPeriodDays=10,
                permissions={"allow": ["Bash(git:*)"], "deny": ["Read(./secret)"], "additionalDirectories": ["lib"]},
                attribution={"commit": "", "pr": ""},
                statusLine={"type": "command", "command": "echo x"},
                **{"$schema": "https://json.schemastore.org/claude-code-settings.json"},
            )
            | {"lib/": ""},
        ),
        Project(
            "settings that only shape the conversation",
            settings(
                outputStyle="pirate",
                alwaysThinkingEnabled=False,
                autoMemoryEnabled=False,
                disableBundledSkills=True,
                includeGitInstructions=False,
                language="Klingon",
                skillListingMaxDescChars=20,
                skillOverrides={"bare": "name-only"},
                spinnerVerbs={"mode": "replace", "verbs": ["Thinking"]},
                sandbox={"enabled": False},
                noSuchSetting=1,
            )
            | skill("bare")
            | {
                ".claude/output-styles/pirate.md": head("Talk like one.\n", name="pirate", description="Arr"),
                ".claude/output-styles/deep/clerk.md": head("Be dry.\n", keep_coding_instructions="true"),
            },
            (
                HI,
                Call((*HI.argv, "--settings", '{"language": "French", "outputStyle": "clerk", "sandbox": {}}')),
            ),
        ),
        Project(
            "directories beside the working directory",
            {
                "app/.claude/settings.json": json.dumps({"permissions": {"additionalDirectories": ["../lib"]}}),
                "lib/CLAUDE.md": "LIB\n",
                "lib/a.txt": "A\n",
            },
            (does(Use("Read", {"file_path": "/workspace/lib/a.txt"}), argv=(), cwd="/workspace/app"),),
        ),
        Project(
            "local settings",
            {**settings(model="opus"), ".claude/settings.local.json": json.dumps({"model": "sonnet"})},
        ),
        Project("broken settings", {".claude/settings.json": "{not json", ".mcp.json": "[1]"}),
        Project("settings with a mark", {".claude/settings.json": b"\xef\xbb\xbf" + b'{"language": "Fran\xe7ais"}'}),
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
                "s16.json": json.dumps({"model": "sonnet"}).encode("utf-16"),
                "p.txt": "\ufeffBE TERSE\n",
                "a.json": json.dumps({"ag": {"description": "d", "prompt": "p"}}),
                "sub/": "",
            },
            (
                Call((*HI.argv, "--mcp-config", "m.json")),
                Call((*HI.argv, "--mcp-config", "../m.json"), cwd="/workspace/sub"),
                Call((*HI.argv, "--settings", "/workspace/s.json")),
                Call((*HI.argv, "--append-system-prompt-file", "p.txt")),
                Call((*HI.argv, "--system-prompt-file", "./p.txt")),
                Call((*HI.argv, "--agents", json.dumps({"ag": AGENT}), "--agent", "ag")),
                says("hi you", "--mcp-config", "missing.json"),
                says("hi you", "--settings", "missing.json"),
                says("hi you", "--append-system-prompt-file", "missing.txt"),
                Call((*HI.argv, "--mcp-config", "m.json", '{"mcpServers": {}}')),
                Call((*HI.argv, "--mcp-config=m.json", "--settings=s16.json", "--append-system-prompt-file=p.txt")),
                says("hi you", "--mcp-config", "missing.json", "p.txt", "none.json"),
                says("hi you", "--mcp-config", '{"mcpServers": 5}'),
                says("hi you", "--mcp-config", "sub"),
                says("hi you", "--settings", "{bad}"),
                says("hi you", "--system-prompt-file", "sub"),
            ),
        ),
        Project(
            "what is refused",
            {"plugin/.claude-plugin/plugin.json": json.dumps({"name": "mine"})},
            (
                Call(("mcp", "list")),
                says("hi you", "--plugin-dir", "plugin"),
                says("hi you", "--settings", json.dumps({"apiKeyHelper": "echo x"})),
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
                says("hi you", "--input-format", "xml"),
                says("hi you", "--session-id", "nonsense"),
                says("hi you", "--setting-sources", "nonsense"),
                says("hi you", "--effort", "none"),
                says("hi you", "--agent", "nobody"),
                says("hi you", "--permission-mode", "nonsense"),
                says("hi you", "--json-schema", "{"),
                says("hi you", "--append-system-prompt", "ONE", "--append-system-prompt", "TWO"),
                says("hi you", "--allowedTools", 'Bash(git log --format="%h (%an)":*)', "Edit"),
                says("hi you", "--disallowedTools", "Edit,Write"),
                says("hi you", "--ide"),
                Call(("-p",), stdin=b"from stdin\n"),
                Call(("-p", "with"), stdin=b"from stdin\n"),
                says("hi you", "--allowedTools", 'Bash(node -e "f(1)"),Read'),
                says("hi you", "--tools", "Read,Grep", "--output-format", "json"),
                says("hi you", "--restricted"),
                says("hi you", "--disable-slash-commands"),
                says("hi you", "--bare"),
            ),
        ),
        Project(
            "conversation",
            {},
            (
                says("first"),
                says("second", "--continue"),
                Call((*STREAM,), stdin=b'{"type": "unheard"}\n[1]\n{}\n' + user("third") + user("fourth")),
            ),
        ),
        Project(
            "long output",
            {},
            (
                does(bash("seq 1 20000"), bash("cat $(find / -path '*tool-results*.txt' 2>/dev/null) | wc -l")),
                Call(("-p", "go on", *JSON, TRUSTED), part=follows(bash("seq 1 20000"), r"saved to: (\S+)")),
            ),
        ),
        Project(
            "command in the background",
            {},
            (
                Call(
                    ("-p", "go on", *JSON, TRUSTED),
                    part=follows(bash("sleep 0.5; seq 1 100", run_in_background=True), r"written to: (\S+?)\.? "),
                ),
            ),
        ),
        Project(
            "commands that are cut off",
            {},
            (
                does(
                    bash("trap 'echo cleaned; exit 5' TERM; echo begun; sleep 4 & wait", timeout=1000),
                    bash("echo begun; sleep 4", timeout=1000),
                ),
                does(bash("sleep 2; touch late", run_in_background=True), bash("setsid sleep 100 & echo on")),
                does(bash("sleep 2; ls late; pgrep -c sleep")),
            ),
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
                    bash("for n in 1 2 3 4 5 6 7 8 9; do echo out $n; echo err $n >&2; done"),
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
            agent(
                "helper", "You help.\n", tools="Bash, Read", memory="project", mcpServers="[x]", permissionMode="plan"
            ),
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
        Project(
            "repository with changes",
            {"a.txt": "a\n", "sub/b.txt": "b\n", **settings(model="opus")},
            (
                HI,
                Call(HI.argv, cwd="/workspace/sub"),
                does(bash("git checkout -q main -- . && git status --short && git log --oneline"), bash("git branch")),
            ),
            REPOSITORY + "echo aa >a.txt; git rm -q sub/b.txt; echo new >'a file'; git tag v1\n",
        ),
        Project(
            "worktree",
            {
                "a.txt": "a\n",
                "CLAUDE.md": "CHECKED IN\n",
                ".claude/rules/r.md": "RULE\n",
                "CLAUDE.local.md": "LOCAL\n",
                ".claude/settings.local.json": '{"language": "French"}',
                ".gitignore": "*.local.*\n",
            },
            (Call(HI.argv, cwd="/workspace/tree"), HI),
            REPOSITORY + "git worktree add -q tree -b other; echo b >tree/b.txt\n",
        ),
        Project(
            "repository below",
            {"a.txt": "a\n"},
            (HI, Call(HI.argv, cwd="/workspace/repo")),
            f"mkdir repo; cd repo; echo x >x; {REPOSITORY} git checkout -q HEAD~0; git remote add origin /nowhere\n",
        ),
        Project("bare repository", {}, (HI,), "git init -q --bare -b main .\n"),
        Project(
            "repository with programs",
            {"a.txt": "a\n", ".gitattributes": "* filter=x\n"},
            (HI,),
            REPOSITORY + "git config core.fsmonitor 'echo ran >>/workspace/monitor; false'\n"
            "git config filter.x.clean 'echo ran >>/workspace/filter; cat'; touch -d '2 days ago' a.txt\n",
        ),
        Project("broken repository", {".git": "gitdir: /nowhere\n", "a.txt": "a\n"}),
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
