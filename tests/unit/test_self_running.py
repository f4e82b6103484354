"""Files that run by themselves on a host are told from all others, by name and by content."""

from __future__ import annotations

import time

import pytest

from pipeline.agents.self_running import GIT_HOOKS, TABLE, reason

FSMONITOR = b"[core]\n\tfsmonitor = touch x\n"

RUNNING = [
    # a word of the reason, the path, the content
    ("git runs it", ".git/hooks/post-checkout", b""),
    ("git runs it", "vendor/x/.git/hooks/pre-push", b""),
    ("git runs it", ".git/modules/a/b/hooks/post-merge", b""),
    ("git runs it", "mirror.git/hooks/post-update", b""),
    ("git runs it", ".GIT/hooks/post-checkout", b""),
    ("git runs it", "git~1/Hooks/post-checkout", b""),
    ("git runs it", ".g\u200cit/hooks/post-checkout", b""),
    ("git runs it", ".git. /hooks/post-checkout", b""),
    ("git runs it", ".git::$INDEX_ALLOCATION/hooks/post-checkout", b""),
    ("core.fsmonitor", ".git/config", FSMONITOR),
    ("core.fsmonitor", ".git/config", b"\xef\xbb\xbf[CORE] FSMonitor=x"),
    ("core.fsmonitor", ".git/config", b"[a]\n\tb = c # \\\n[core]\n\tfsmonitor = x\n"),
    ("core.fsmonitor", ".git/config", b"[core]\n\ta = b \\\n[x]\\\n\n\tfsmonitor = x\n"),
    ("core.fsmonitor", ".git/config", b'[core] a = "[x]\\\n[y]" ; z\nfsmonitor = x\n'),
    ("core.fsmonitor", ".git/config.worktree", FSMONITOR),
    ("core.fsmonitor", ".git/modules/lib/config", FSMONITOR),
    ("core.fsmonitor", ".git/worktrees/x/config.worktree", FSMONITOR),
    ("core.fsmonitor", "mirror/config", FSMONITOR),
    ("core.hookspath", ".git/config", b"[core]\n\thooksPath = .h\n"),
    ("include.path", ".git/config", b"[include]\n\tpath = ../x\n"),
    ("includeif.gitdir:/.path", ".git/config", b'[includeIf "gitdir:/"]\n\tpath = ../x\n'),
    ("filter.x.clean", ".git/config", b'[filter "x"]\n\tclean = y\n'),
    ("diff.x.textconv", ".git/config", b'[diff "x"]\n\ttextconv = y\n'),
    ("alias.st", ".git/config", b"[alias]\n\tst = !x\n"),
    ("credential.https://x.helper", ".git/config", b'[credential "https://x"]\n\thelper = !x\n'),
    ("gpg.ssh.program", ".git/config", b'[gpg "ssh"]\n\tprogram = x\n'),
    ("remote.o.uploadpack", ".git/config", b'[remote "o"]\n\tuploadpack = x\n'),
    ("remote.o.url", ".git/config", b'[remote "o"]\n\turl = ext::sh -c x\n'),
    ("submodule.s.update", ".git/config", b'[submodule "s"]\n\tupdate = !x\n'),
    ("url.ext::x.insteadof", ".git/config", b'[url "ext::x"]\n\tinsteadOf = https:\n'),
    ("git runs what", ".git/config", b'[core]\n\tfsmonitor = "x\n'),
    ("from where it points", ".git", b"gitdir: ../x\n"),
    ("from where it points", "sub/.git", b"gitdir: ../x\n"),
    ("from where it points", ".git/commondir", b"../x\n"),
    ("from where it points", ".git/worktrees/x/commondir", b"../x\n"),
    ("from where it points", "evil/commondir", b"../..\n"),
    ("rebase", ".git/rebase-merge/git-rebase-todo", b"pick 1 x\n exec touch x\n"),
    ("filter", ".gitattributes", b"* filter=x\n"),
    ("diff", ".git/info/attributes", b"* diff=x\n"),
    ("submodule.s.url", ".gitmodules", b'[submodule "s"]\n\turl = ext::sh -c x\n'),
    ("git-lfs", ".lfsconfig", b""),
    ("husky", ".husky/pre-commit", b""),
    ("husky", "web/.husky/_/husky.sh", b""),
    ("lefthook", "lefthook.yml", b""),
    ("pre-commit", ".pre-commit-config.yaml", b""),
    ("direnv", ".envrc", b""),
    ("direnv", "a/.Envrc", b""),
    ("mise", ".mise.toml", b""),
    ("asdf", ".tool-versions", b""),
    ("NODE_OPTIONS", ".env", b"A=1\nexport NODE_OPTIONS=--require=./x\n"),
    ("nix", "flake.nix", b""),
    ("VS Code", ".vscode/tasks.json", b""),
    ("VS Code", "shop.code-workspace", b""),
    ("JetBrains", ".idea/watcherTasks.xml", b""),
    ("an editor", ".zed/tasks.json", b""),
    ("vim", ".exrc", b""),
    ("Emacs", ".dir-locals.el", b""),
    ("dev container", ".devcontainer/devcontainer.json", b""),
    ("dev container", ".devcontainer.json", b""),
    ("CI", ".github/workflows/ci.yml", b""),
    ("CI", ".gitlab-ci.yml", b""),
    ("CI", "Jenkinsfile", b""),
    ("Claude Code starts", ".claude/settings.json", b""),
    ("Claude Code starts", ".claude/settings.local.json", b""),
    ("Claude Code starts", ".mcp.json", b""),
    ("Claude Code runs or obeys", ".claude/hooks/x.sh", b""),
    ("agent", ".cursor/mcp.json", b""),
    ("obey", "AGENTS.md", b""),
    ("obey", "docs/CLAUDE.md", b""),
    ("postinstall", "package.json", b'{"scripts": {"post\\u0069nstall": "x"}}'),
    ("husky", "package.json", b'{"husky": {"hooks": {}}}'),
    ("npm", "package.json", b"{"),
    ("npm", "package.json", b"[" * 100_000),
    ("npm", "binding.gyp", b""),
    ("npm", ".npmrc", b""),
    ("yarn", ".yarnrc.yml", b""),
    ("pnpm", ".pnpmfile.cjs", b""),
    ("pip", "setup.py", b""),
    ("backend-path", "pyproject.toml", b'[build-system]\n"backend\\u002dpath" = ["."]\n'),
    ("Python", "sitecustomize.py", b""),
    ("Python", "lib/x.pth", b""),
    ("pytest", "tests/conftest.py", b""),
    ("Cargo", "build.rs", b""),
    ("Cargo", ".cargo/config.toml", b""),
    ("Gradle", "settings.gradle.kts", b""),
    ("Maven", ".mvn/extensions.xml", b""),
    ("make", "Makefile", b""),
    ("make", "GNUmakefile", b""),
    ("task runners", "Rakefile", b""),
    ("task runners", "Justfile", b""),
    ("shells", ".bashrc", b""),
    ("ssh", ".ssh/config", b""),
    ("desktop", "x.desktop", b""),
    ("Docker", "Dockerfile", b""),
    ("Docker", "docker-compose.yml", b""),
]

QUIET = [
    ("src/main.py", b""),
    ("src/hooks/useCart.ts", b""),
    ("README.md", b""),
    (".git/HEAD", b""),
    (".git/hooks/pre-commit.sample", b"#!/bin/sh"),
    (".git/index", b""),
    (".git/objects/ab/0123", b""),
    (".git/refs/heads/main", b""),
    (".git/config", b'[core]\n\tbare = false\n[remote "origin"]\n\turl = git@host:x/y\n[branch "main"]\n\tmerge = x\n'),
    (".git/commondir", b"./\n"),
    (".git/worktrees/x/commondir", b"../..\n"),
    (".git/rebase-merge/git-rebase-todo", b"pick 1 x\n"),
    (".gitattributes", b"*.png binary\n* text=auto\n"),
    (".gitignore", b""),
    (".gitmodules", b'[submodule "s"]\n\tpath = s\n\turl = https://host/s\n'),
    (".env", b"DATABASE_URL=x\n"),
    ("config", b"[default]\nregion = x\n"),
    ("config", b"Host x\n  ProxyCommand y\n"),
    ("package.json", b'{"name": "x", "scripts": {"test": "x"}}'),
    ("package.json", b"[]"),
    (".git/config", b"[merge]\n\tconflictStyle = diff3\n[protocol]\n\tversion = 2\n[diff]\n\trenames = true\n"),
    ("pyproject.toml", b'[build-system]\nrequires = ["setuptools"]\n'),
    ("makefile.md", b""),
    ("x/.gitx/hooks/post", b""),
]


@pytest.mark.parametrize(("word", "path", "content"), RUNNING, ids=lambda value: str(value)[:40])
def test_a_file_that_runs_by_itself_is_named_with_who_runs_it(word: str, path: str, content: bytes) -> None:
    assert word in (reason(path, content) or "")


@pytest.mark.parametrize(("path", "content"), QUIET, ids=lambda value: str(value)[:40])
def test_a_file_that_runs_nothing_is_not_named(path: str, content: bytes) -> None:
    assert reason(path, content) is None


def test_a_content_that_cannot_be_read_counts_as_the_worst() -> None:
    assert reason(".git/config", None)
    assert reason("package.json", None)
    assert reason("src/main.py", None) is None


def test_every_hook_of_git_is_known_in_a_repository_without_dot_git() -> None:
    assert all(reason(f"store/hooks/{name}") for name in GIT_HOOKS.split())


def test_patterns_are_spelt_as_names_are_compared() -> None:
    assert [row.patterns for row in TABLE if row.patterns != row.patterns.casefold()] == []


def test_a_large_folder_takes_a_moment() -> None:
    start = time.process_time()
    for number in range(20_000):
        reason(f"packages/p{number % 100}/src/deep/file{number}.ts")
    assert time.process_time() - start < 1


def test_a_configuration_made_to_take_long_does_not() -> None:
    start = time.process_time()
    for bad in (b"[" * 500_000, b"[a" * 250_000, b'[a]\nb="' + b"\\" * 500_000, b"a = \\\n" * 100_000, b"#" * 500_000):
        reason(".git/config", bad)
    assert time.process_time() - start < 2
