"""What a project says to Claude: heads, globs, instructions; and what the client sends of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bridge.client.claude_md import project_memory
from bridge.client.imports import imports
from bridge.client.project_files import MAX_FILE, MAX_NESTED, nested, project_files
from bridge.policy.argv import rewrite
from bridge.policy.globs import MAX_GLOBS, globs_of, moved
from bridge.policy.heads import MAX_HEAD, MAX_HEADS, Heads, split_head, written
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


def test_import_through_a_link_stays_within_the_directory(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", **{"CLAUDE.md": "@link.md @/etc/hostname @../out.md @in.md", "in.md": "IN"})
    (tmp_path / "out.md").write_text("OUT")
    (tmp_path / "w/link.md").symlink_to(tmp_path / "out.md")
    paths = [value.split(b"\n")[2] for value in sent(project_memory(workspace, (), workspace), "memory")]
    assert paths == [workspace + b"/CLAUDE.md", workspace + b"/in.md"]


def test_imports_are_those_in_prose() -> None:
    text = b"@a.md `@b.md` **@c.md**\n\n```\n@d.md\n```\n- @e.md,\n\n    @f.md\n@g\\ h.md#part\n"
    assert imports(text, b"/w/CLAUDE.md") == [b"/w/a.md", b"/w/c.md", b"/w/e.md,", b"/w/f.md", b"/w/g h.md"]
