"""What a project says to Claude: heads, globs, instructions; and what the client sends of it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from bridge.client import main
from bridge.client.claude_md import project_memory
from bridge.client.imports import imports
from bridge.client.project_files import MAX_FILE, MAX_NESTED, MAX_NESTED_ENTRIES, nested, project_files
from bridge.policy.argv import rewrite
from bridge.policy.globs import MAX_GLOBS, globs_of, moved
from bridge.policy.heads import MAX_DEPTH, MAX_HEAD, MAX_HEADS, Heads, LimitError, split_head, written
from bridge.policy.project_memory import compose
from bridge.policy.project_policy import read
from bridge.policy.terms import Scope
from bridge.protocol.frames import MAX_MEMORY, MAX_PROJECT

WITH_COMMANDS = Scope(runs_commands=True)


def make(directory: Path, **files: str) -> bytes:
    """Make files. Two underscores stand for a slash."""
    for name, text in files.items():
        path = directory / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return bytes(directory)


def sent(fields: list[tuple[str, bytes]], kind: str) -> list[bytes]:
    return [value for name, value in fields if name == kind]


# Heads


@pytest.mark.parametrize(
    ("head", "fields"),
    [
        ("name: a\ndescription: does it, well", {"name": "a", "description": "does it, well"}),
        ("a: 'x'\nb: \"y: z\"\nc: true", {"a": "x", "b": "y: z", "c": True}),
        ("a: yes\nb: 12:30\nc: 2024-01-01", {"a": "yes", "b": "12:30", "c": "2024-01-01"}),
        ("a: b: c\nd: [e, f]", {"a": "b: c", "d": ["e", "f"]}),
        ("a: &x y\nb: *x", {"a": "y", "b": "y"}),
        ("a: null\nb:\nc: 5", {"a": None, "b": None, "c": 5}),
        ("a: x #y", {"a": "x"}),
        ('a: b: "c" \\n d # e ', {"a": 'b: "c" \\n d # e '}),
        ("a: b: c\ntools:\n  - Read\n  - Grep", {"a": "b: c", "tools": ["Read", "Grep"]}),
        ("a: !!python/object x\nb: !t [y]", {"a": "x", "b": ["y"]}),
    ],
)
def test_head_is_read_as_the_cli_reads_it(head: str, fields: dict[str, Any]) -> None:
    assert Heads().read(head) == fields


def test_many_plain_heads_cost_nothing() -> None:
    heads = Heads()
    head = f"name: a\ndescription: {'d' * 4000}"
    assert all(heads.read(head)["name"] == "a" for _ in range(1000))


def test_limit_of_heads_names_itself() -> None:
    heads = Heads()
    head = f"name: [{'a' * (MAX_HEAD - 10)}]"
    for _ in range(MAX_HEADS // MAX_HEAD):
        heads.read(head)
    with pytest.raises(ValueError, match="1048576 characters together"):
        heads.read(head)
    with pytest.raises(ValueError, match=f"more than {MAX_HEAD} characters"):
        heads.read("a" * (MAX_HEAD + 1))


def test_heads_that_are_no_yaml_cost_nothing() -> None:
    heads = Heads()
    head = f"name: a\ndescription: Use it when: {'<b> # - [x] ' * 300}"
    assert all(len(heads.read(head)["description"]) > 3000 for _ in range(1000))


@pytest.mark.parametrize("head", ["a: " + "[" * 60_000, "? " * 30_000])
def test_depth_of_a_head_is_bounded(head: str) -> None:
    begun = time.process_time()
    with pytest.raises(LimitError, match=f"more than {MAX_DEPTH} lists and objects"):
        Heads().read(head)
    assert time.process_time() - begun < 0.5


@pytest.mark.parametrize("text", ["---\r\na: b\r\n---\r\nx", "\ufeff---\na: b\n---\nx", "--- \t\na: b\n---x"])
def test_head_ends_where_the_cli_ends_it(text: str) -> None:
    head, body, _ = split_head(text)
    assert (Heads().read(head or ""), body) == ({"a": "b"}, "x")


def test_written_head_cannot_end_early() -> None:
    head, body, _ = split_head(written({"a": "x\n---\nhooks: y"}, "body"))
    assert (Heads().read(head or ""), body) == ({"a": "x\n---\nhooks: y"}, "body")


# Globs


@pytest.mark.parametrize(
    ("paths", "globs"),
    [
        ("src/**", ["src"]),
        ("a, b/*.ts", ["a", "b/*.ts"]),
        ("{a,b}/*.{x,y}", ["a/*.x", "a/*.y", "b/*.x", "b/*.y"]),
        (["**"], None),
        (None, None),
    ],
)
def test_globs_are_split_as_the_cli_splits_them(paths: object, globs: list[str] | None) -> None:
    assert globs_of(paths) == globs


def test_globs_that_multiply_are_refused() -> None:
    with pytest.raises(ValueError, match=f"more than {MAX_GLOBS} globs"):
        globs_of("{a,b}" * 30)


@pytest.mark.parametrize(
    ("globs", "base", "cwd", "expected"),
    [
        (None, "/w/pkg", "/w", ["/pkg/*"]),
        (["*.ts", "lib/x"], "/w/pkg", "/w", ["/pkg/**/*.ts", "/pkg/lib/x"]),
        (["!x"], "/w/p [1]", "/w", ["!/p \\[1\\]/**/x"]),
        (["pkg/src/*", "*.ts", "other/x", "pkg"], "/w", "/w/pkg", ["/src/*", "*.ts", "/*"]),
        (["*/x", "**/y"], "/w", "/w/pkg", ["/x", "**/y"]),
    ],
)
def test_globs_move_with_the_directory(globs: list[str] | None, base: str, cwd: str, expected: list[str]) -> None:
    assert moved(globs, base, cwd) == expected


# Instructions


def part(kind: str, base: str, path: str, text: str) -> bytes:
    return f"{kind}\n{base}\n{path}\n{text}".encode()


def test_agents_md_counts_only_where_there_is_no_claude_md() -> None:
    agents = part("agents", "/workspace", "/workspace/AGENTS.md", "A")
    claude = part("project", "/workspace", "/workspace/CLAUDE.md", "C")
    alone, both = (compose(parts, "/workspace", Heads().read) for parts in ([agents], [agents, claude]))
    assert (alone.text, b"AGENTS.md (project" in alone.text_with_agents) == (b"", True)
    assert both.text == both.text_with_agents
    assert b"AGENTS.md" not in both.text


def test_file_of_a_directory_below_is_a_rule() -> None:
    memory = compose([part("project", "/workspace/p", "/workspace/p/CLAUDE.md", "P")], "/workspace", Heads().read)
    assert memory.rules == {"rules/workspace/p/CLAUDE.md": b'---\npaths: ["/p/*"]\n---\nP'}


@pytest.mark.parametrize("path", ["/../x.md", "/a/../../x.md", "/a//x.md", "/" + "a" * 256 + ".md", "/a/./x.md"])
def test_rule_has_no_odd_name(path: str) -> None:
    assert not compose([part("rule", "/workspace", path, "---\npaths: a\n---\n")], "/workspace", Heads().read).rules


def test_instructions_of_a_client_that_keeps_no_limit_are_counted() -> None:
    parts = [part("project", "/workspace", "/workspace/CLAUDE.md", "x" * 100_000)] * 20
    memory = compose(parts, "/workspace", Heads().read)
    assert len(memory.text) <= MAX_MEMORY
    assert memory.notes


# Documents


def test_fields_that_only_describe_are_not_mentioned() -> None:
    head = "---\nname: a\ndescription: d\nlicense: MIT\nmetadata: {a: b}\ncompatibility: any\nversion: 1\n---\n"
    project = read([f".claude/skills/a/SKILL.md\n{head}".encode()], [], WITH_COMMANDS)
    assert (len(project.files), project.notes) == (1, [])


def test_skill_of_a_package_names_its_own_directory() -> None:
    text = b"pkg/.claude/skills/s/SKILL.md\n---\ndescription: d\n---\nsh ${CLAUDE_SKILL_DIR}/x"
    project = read([text], [], WITH_COMMANDS, cwd="/workspace/pkg")
    assert b"sh /workspace/pkg/.claude/skills/s/x" in project.files["skills/s/SKILL.md"]


@pytest.mark.parametrize("name", ["what's-next", "c#-expert", "review (quick)", "ui&ux", "größe", "🚀", "l" * 120])
def test_name_of_a_file_is_no_reason(name: str) -> None:
    project = read([f".claude/commands/{name}.md\nx".encode()], [], WITH_COMMANDS)
    assert (list(project.files), project.notes) == ([f"commands/{name}.md"], [])


@pytest.mark.parametrize("name", [b"\x1b[2J.md", b"\xff.md", b"l" * 300 + b".md"])
def test_odd_name_is_named_as_the_reason(name: bytes) -> None:
    project = read([b".claude/commands/" + name + b"\nx"], [], WITH_COMMANDS)
    assert not project.files
    assert "its name" in project.notes[0]


# Limits and encodings


def test_limits_are_told_apart_from_notes() -> None:
    head = "---\nname: a\ndescription: [%s]\n---\nx" % ("x" * MAX_HEAD)
    hooks = {"Stop": [{"hooks": [{"type": "command", "command": "x"}] * 70}]}
    settings = json.dumps({"hooks": hooks, "env": {f"V{n}": "x" for n in range(200)}, "apiKeyHelper": "x"})
    files = [
        *(f".claude/agents/{n}.md\n{head}".encode() for n in range(7)),
        b".claude/settings.json\n" + settings.encode(),
    ]
    files.append(b".claude/commands/c.md\n" + b"x" * (MAX_FILE + 1))
    project = read(files, [], WITH_COMMANDS, omitted=[b"a is left out: it is too large"])
    assert project.limits == [
        "a is left out: it is too large",
        f".claude/commands/c.md is left out: a file may have {MAX_FILE} bytes",
        "a group of Stop in .claude/settings.json is left out: more than 64 hooks, and each is a process",
        "the rest of env in .claude/settings.json is left out: more than 128 variables or 65536 bytes",
        ", ".join(f".claude/agents/{n}.md" for n in range(5))
        + f" and 2 more are left out: its head has more than {MAX_HEAD} characters",
    ]
    assert len(project.notes) == len(project.limits) + 1


@pytest.mark.parametrize("text", [b'{"language": "Fran\xe7ais"}', '{"language": "x"}'.encode("utf-16")])
def test_settings_in_other_encodings_count(text: bytes) -> None:
    assert "language" in read([b".claude/settings.json\n" + text], [], WITH_COMMANDS).settings


# The client


def test_only_what_the_cli_uses_of_a_skill_is_sent(tmp_path: Path) -> None:
    big = "x" * 100_000
    files = {f".claude__skills__a__references__{n}.md": big for n in range(30)}
    workspace = make(tmp_path, **files, **{".claude__skills__z__SKILL.md": "Z", ".claude__settings.json": "{}"})
    names = [value.partition(b"\n")[0] for value in sent(project_files(workspace, (), workspace), "file")]
    assert names == [b".claude/settings.json", b".claude/skills/z/SKILL.md"]


def test_limit_is_one_sentence_that_names_files_and_limit(tmp_path: Path) -> None:
    files = {f".claude__agents__{n:02}.md": "x" * MAX_FILE for n in range(20)}
    found = project_files(make(tmp_path, **files), (), bytes(tmp_path))
    assert len(sent(found, "file")) == MAX_PROJECT // MAX_FILE - 1
    (sentence,) = sent(found, "omitted")
    assert sentence.startswith(b".claude/agents/15.md, .claude/agents/16.md")
    assert b"are left out: the files of a call may have %d bytes together" % MAX_PROJECT in sentence


def test_settings_of_a_folder_above_do_not_count(tmp_path: Path) -> None:
    workspace = make(tmp_path, **{".claude__settings.json": "{}", ".claude__agents__a.md": "A", "sub__x": ""})
    found = sent(project_files(workspace + b"/sub", (), workspace), "file")
    assert [value.partition(b"\n")[0] for value in found] == [b".claude/agents/a.md"]


def test_walk_for_nested_files_has_a_bound(tmp_path: Path) -> None:
    for number in range(MAX_NESTED + 50):
        (tmp_path / f"d{number}").mkdir()
    assert nested(bytes(tmp_path), bytes(tmp_path)) == ([], [("large", b"1")])
    assert "look for a CLAUDE.md" in rewrite(["-p", "hi"], WITH_COMMANDS, is_large=True).prompt_addition


def test_walk_for_nested_files_looks_at_few_names_of_a_large_directory(tmp_path: Path) -> None:
    make(tmp_path, **{"a__CLAUDE.md": "A"})
    for number in range(MAX_NESTED_ENTRIES + 10):
        (tmp_path / f"{number}").touch()
    assert nested(bytes(tmp_path), bytes(tmp_path))[1] == [("large", b"1")]


def test_walk_for_nested_files_leaves_out_dependencies_and_loops(tmp_path: Path) -> None:
    places = ("src/a", ".github", "dist/x", ".git/y", "node_modules/z", ".venv/v")
    workspace = make(tmp_path / "w", **{f"{place}/CLAUDE.md": "X" for place in places})
    outside = tmp_path / "outside"
    make(outside, **{"CLAUDE.md": "X"})
    for name, to in {"link": "src", "out": str(outside), "src/loop": "..", "self": ".", "gone": "nowhere"}.items():
        (tmp_path / "w" / name).symlink_to(to)
    found, fields = nested(workspace, workspace)
    assert {os.fsdecode(place[len(workspace) + 1 :]) for place in found} == {"src/a", ".github", "dist/x", "link/a"}
    assert fields == []


def in_git(directory: Path, *words: str) -> None:
    command = ("git", "-c", "user.name=x", "-c", "user.email=x@example.org", *words)
    subprocess.run(command, cwd=directory, check=True, capture_output=True)


def test_worktree_has_the_instructions_that_are_checked_in_once(tmp_path: Path) -> None:
    files = {"CLAUDE.md": "C", "CLAUDE.local.md": "L", ".claude__rules__r.md": "R"}
    workspace = make(tmp_path, **files, **{".claude__settings.local.json": "{}", ".gitignore": "*.local.*\n"})
    for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "x"), ("worktree", "add", "-q", "wt/one")):
        in_git(tmp_path, *words)
    tree = workspace + b"/wt/one"
    told = [value.split(b"\n")[2][len(workspace) :] for value in sent(project_memory(tree, (), workspace), "memory")]
    assert told == [b"/CLAUDE.local.md", b"/wt/one/CLAUDE.md", b"/wt/one/.claude/rules/r.md"]
    names = [value.partition(b"\n")[0] for value in sent(project_files(tree, (), workspace), "file")]
    assert names == [b"repository/.claude/settings.local.json"]


@pytest.mark.parametrize("link", ["gitdir: /etc", "gitdir: ../..", "gitdir:" + "x" * 9000, "x"])
def test_false_worktree_is_a_repository_of_its_own(tmp_path: Path, link: str) -> None:
    workspace = make(tmp_path, **{"CLAUDE.md": "C", "wt__.git": link, "wt__CLAUDE.md": "W", ".git__x": ""})
    assert len(sent(project_memory(workspace + b"/wt", (), workspace), "memory")) == 2


def test_local_settings_of_the_repository_count_for_a_cli_that_reads_them() -> None:
    files = [
        b'.claude/settings.local.json\n{"model": "a", "language": "x"}',
        b'repository/.claude/settings.local.json\n{"model": "b"}',
    ]
    of = [read(files, [], Scope(runs_commands=True, cli=cli)).settings for cli in ((), (2, 1, 332), (2, 1, 197))]
    assert of == [{"model": "b", "language": "x"}] * 2 + [{"model": "a", "language": "x"}]


@pytest.mark.parametrize(
    ("glob", "excluded"),
    [
        ("**/pkg/CLAUDE.md", {"pkg"}),
        ("{w}/CLAUDE.md", {"CLAUDE.md"}),
        ("**/{pkg,lib}/*.md", {"pkg", "lib"}),
        ("**/.claude/rules/**", {"rules"}),
        ("{w}/[!C]*/CLAUDE.??", {"pkg", "lib"}),
        ("*/CLAUDE.md", set()),
        ("!**/rules/**", {"CLAUDE.md", "pkg", "lib"}),
    ],
)
def test_excluded_instructions_and_what_they_import_are_not_told(tmp_path: Path, glob: str, excluded: set[str]) -> None:
    names = {"CLAUDE.md": "CLAUDE.md", "pkg": "pkg/CLAUDE.md", "lib": "lib/CLAUDE.md", "rules": ".claude/rules/r.md"}
    workspace = make(tmp_path, **{name: f"@{key}.txt" for key, name in names.items()})
    for key, name in names.items():
        ((tmp_path / name).parent / f"{key}.txt").write_text("IMPORTED")
    setting = f'{{"claudeMdExcludes": ["{glob.replace("{w}", str(tmp_path))}", 5]}}'.encode()
    is_excluded = main._exclusion(
        [], [("file", b".claude/settings.json\n" + setting), ("file", b"a\nclaudeMdExcludes")]
    )
    below = [workspace + b"/pkg", workspace + b"/lib"]
    told = [value.split(b"\n")[2] for value in sent(project_memory(workspace, below, workspace, is_excluded), "memory")]
    left = [name for key, name in names.items() if key not in excluded]
    assert {os.fsdecode(path)[len(str(tmp_path)) + 1 :] for path in told if not path.endswith(b".txt")} == set(left)
    imported = [path for path in told if path.endswith(b".txt")]
    assert len(imported) == len(left)


def test_file_that_two_directories_import_is_told_in_both(tmp_path: Path) -> None:
    files = {"a__CLAUDE.md": "@../n.md", "b__CLAUDE.md": "@../n.md", "n.md": "N"}
    workspace = make(tmp_path, **files)
    fields = sent(project_memory(workspace, [workspace + b"/a", workspace + b"/b"], workspace), "memory")
    rules = compose(fields, os.fsdecode(workspace), Heads().read).rules
    assert b'paths: ["/a/*", "/b/*"]' in rules[f"rules{tmp_path}/n.md"]


def test_import_through_a_link_stays_within_the_directory(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", **{"CLAUDE.md": "@link.md @/etc/hostname @../out.md @in.md", "in.md": "IN"})
    (tmp_path / "out.md").write_text("OUT")
    (tmp_path / "w/link.md").symlink_to(tmp_path / "out.md")
    paths = [value.split(b"\n")[2] for value in sent(project_memory(workspace, (), workspace), "memory")]
    assert paths == [workspace + b"/CLAUDE.md", workspace + b"/in.md"]


def test_imports_are_those_in_prose() -> None:
    text = b"@a.md `@b.md` **@c.md**\n\n```\n@d.md\n```\n- @e.md,\n\n    @f.md\n@g\\ h.md#part\n"
    assert imports(text, b"/w/CLAUDE.md") == [b"/w/a.md", b"/w/c.md", b"/w/e.md,", b"/w/f.md", b"/w/g h.md"]
