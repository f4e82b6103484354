"""Clone mode without containers: what a clone takes from a repository, and what may come from it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pipeline.agents import arrived, clone, exchange
from pipeline.agents.host_git import Git
from pipeline.agents.repository import clone_settings, configuration, is_local, without_secret
from pipeline.agents.workspace import Owner
from pipeline.errors import Problem
from pipeline.files import ROOT
from tests.support import clone_desk
from tests.support.clone_desk import Desk
from tests.support.waiting import let_pass


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    made = Desk(tmp_path)
    for name, value in made.variables().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(clone, "_check_out", clone_desk.check_out_here)
    return made


@pytest.fixture
def begun(desk: Desk) -> Desk:
    """A repository with two commits, a clone of it, and one commit of the agent's."""
    desk.begin()
    desk.commit("one")
    desk.commit("two")
    desk.make()
    desk.commit("agent", at=desk.clone.workspace)
    return desk


# Settings and addresses


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        ("https://me:secret@example.org/x.git", "https://example.org/x.git"),
        ("https://token@example.org:8443/x", "https://example.org:8443/x"),
        ("ssh://git@example.org/x", "ssh://git@example.org/x"),
        ("ssh://git:secret@example.org/x", "ssh://git@example.org/x"),
        ("git@example.org:x.git", "git@example.org:x.git"),
        ("https://example.org/a@b", "https://example.org/a@b"),
        ("/srv/a@b", "/srv/a@b"),
    ],
)
def test_address_loses_what_is_secret(address: str, kept: str) -> None:
    assert without_secret(address) == (kept, kept != address)


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("/srv/x", True),
        ("../x", True),
        ("file:///x", True),
        ("./a:b", True),
        ("host:x", False),
        ("https://x/y", False),
        ("ext::sh -c x", False),
    ],
)
def test_path_of_this_machine_is_told_from_an_address(address: str, local: bool) -> None:
    assert is_local(address) == local


def test_settings_that_run_something_stay_with_the_person(tmp_path: Path) -> None:
    given: list[tuple[str, str | None]] = [
        ("core.bare", "false"),
        ("core.fsmonitor", "/evil"),
        ('remote.o"d.d.url', "https://u:p@h/x"),
        ("branch.a/b.merge", "refs/heads/a/b"),
        ("filter.x.smudge", "evil"),
        ("remote.agents/other.url", "x"),
        ("user.name", ' A "B" \\ \t#;\n'),
    ]
    taken, lines = clone_settings(given)
    file = tmp_path / "config"
    file.write_text(configuration(taken))
    read = subprocess.run(["git", "config", "--file", str(file), "--list", "--null"], capture_output=True, check=True)
    assert dict(part.split("\n", 1) for part in read.stdout.decode().split("\0") if part) == {
        'remote.o"d.d.url': "https://h/x",
        "branch.a/b.merge": "refs/heads/a/b",
        "user.name": ' A "B" \\ \t#;\n',
    }
    assert lines[-1].endswith(": core.fsmonitor, filter.x.smudge")


# What a clone has


SHAPES = ["plain", "sha256", "empty", "detached", "bare", "worktree", "subfolder", "shallow", "borrowing", "odd names"]
SHAPES += ["linked objects", "settings apart"]


def in_shape(desk: Desk, shape: str) -> Path:
    """Make the repository in one of the shapes. Returns the folder that the person names."""
    desk.begin(*(["--object-format=sha256"] if shape == "sha256" else []))
    if shape == "empty":
        return desk.folder
    desk.commit("one")
    desk.commit("in sub", name="sub/file")
    other = desk.root / "other"
    if shape == "detached":
        desk.git("checkout", "--quiet", "--detach", "HEAD~1")
    elif shape == "bare":
        desk.git("clone", "--quiet", "--bare", ".", str(other))
    elif shape == "worktree":
        desk.git("worktree", "add", "--quiet", str(other))
        desk.commit("in the worktree", at=other)
    elif shape == "shallow":
        desk.git("clone", "--quiet", "--depth", "1", f"file://{desk.folder}", str(other))
    elif shape == "borrowing":
        desk.git("clone", "--quiet", "--shared", ".", str(other))
        desk.commit("own", at=other)
    elif shape == "odd names":
        for name in (b"\xff\n", b" '\"\\", "é".encode()):
            Path(os.fsdecode(os.fsencode(desk.folder) + b"/" + name)).write_bytes(name)
        desk.git("add", "--all")
        desk.git("commit", "--quiet", "--message", "x")
    else:
        _alter(desk, shape)
    return desk.folder / "sub" if shape == "subfolder" else other if other.exists() else desk.folder


def _alter(desk: Desk, shape: str) -> None:
    if shape == "linked objects":
        (desk.folder / ".git/objects").rename(desk.root / "objects")
        (desk.folder / ".git/objects").symlink_to(desk.root / "objects")
    elif shape == "settings apart":
        desk.git("config", "extensions.worktreeConfig", "true")


@pytest.mark.parametrize("shape", SHAPES)
def test_clone_of_every_shape_is_whole_and_its_commits_come_back(desk: Desk, shape: str) -> None:
    folder = in_shape(desk, shape)
    made = desk.make(folder)
    assert desk.agent("status", "--porcelain") == ""
    desk.agent("fsck", "--strict")
    if shape != "empty":
        assert desk.agent("rev-parse", "HEAD") == desk.git("rev-parse", "HEAD", at=folder)
    new = desk.commit("agent", at=made.workspace, name="new")
    desk.agent("checkout", "--quiet", "-B", "work")
    desk.fetch()
    assert desk.git("rev-parse", "refs/remotes/agents/shop/work", at=folder) == new
    desk.git("fsck", "--strict", at=folder)


def test_clone_has_branches_tags_and_tracking_as_they_are(desk: Desk) -> None:
    desk.begin()
    desk.commit("one")
    desk.git("clone", "--quiet", "--bare", ".", str(desk.root / "origin"))
    desk.git("remote", "add", "origin", str(desk.root / "origin"))
    desk.git("fetch", "--quiet")
    desk.git("branch", "--quiet", "--set-upstream-to", "origin/main")
    desk.git("tag", "--annotate", "--message", "t", "v1")
    desk.commit("not pushed")
    desk.git("branch", "deep/er")
    desk.make()
    assert desk.agent("for-each-ref") == desk.git("for-each-ref")
    assert desk.agent("status", "--short", "--branch") == "## main...origin/main [ahead 1]"
    assert [line for line in desk.said if "remote.origin.url names a path of this machine" in line]


def test_person_s_gc_takes_nothing_from_a_clone(begun: Desk) -> None:
    """The clone also lives on objects that the agent dropped after they had come to the person."""
    begun.fetch()
    begun.agent("gc", "--quiet", "--prune=now")
    begun.git("update-ref", "-d", "refs/remotes/agents/shop/main")
    begun.git("checkout", "--quiet", "--orphan", "fresh")
    begun.git("commit", "--quiet", "--message", "fresh")
    begun.git("branch", "--quiet", "-D", "main")
    begun.git("reflog", "expire", "--expire=now", "--all")
    begun.git("gc", "--quiet", "--prune=now")
    begun.agent("fsck", "--strict")
    assert begun.fetch() == [f"new      agents/shop/main {begun.agent('rev-parse', 'main')[:12]}"]
    begun.git("fsck", "--strict")


def test_objects_take_no_place_twice(begun: Desk) -> None:
    shared = {path.stat().st_ino for path in (begun.clone.store / "objects").rglob("*") if path.is_file()}
    assert shared <= {path.stat().st_ino for path in (begun.folder / ".git/objects").rglob("*")}
    assert len(shared) >= 6


def test_full_disk_is_one_line_and_leaves_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    desk.begin()
    desk.commit("one")
    monkeypatch.setattr(clone, "_write_repository", full)
    with pytest.raises(Problem, match=r"^No space left on device; no clone was made in "):
        desk.make()
    assert [path.name for path in (desk.root / "magents/clones/shop").iterdir()] == ["lock"]


@pytest.mark.parametrize("umask", [0o077, 0o002])
def test_only_the_reader_sees_the_store_whatever_the_umask_is(desk: Desk, umask: int) -> None:
    desk.begin()
    desk.commit("one")
    before = os.umask(umask)
    try:
        made = desk.make()
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in made.path.glob("**") if ".git" not in path.parts}
    assert modes.pop(made.path) == 0o711
    assert [modes.pop(made.workspace), modes.pop(made.store)] == [0o700, 0o700]
    assert set(modes.values()) == {0o755}
    assert stat.S_IMODE((made.path / "record").stat().st_mode) == 0o600


def test_removal_that_was_killed_is_found_and_done(begun: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    remove_files = clone._discard
    monkeypatch.setattr(clone, "_discard", killed)
    with pytest.raises(KeyboardInterrupt):
        clone.end("shop", begun.said.append, remove_it=True)
    monkeypatch.setattr(clone, "_discard", remove_files)
    assert begun.git("remote") == ""
    assert [clone.find("shop"), clone.is_here("shop")] == [None, True]
    exchange.save(clone_desk.ENGINE, "shop", begun.said.append)
    clone.end("shop", begun.said.append, remove_it=True)
    assert not clone.is_here("shop")
    assert begun.said[-1] == "its clone is removed"


def test_second_up_goes_on_in_the_clone_and_another_folder_is_told(begun: Desk) -> None:
    before = begun.agent("rev-parse", "HEAD")
    begun.make()
    assert begun.agent("rev-parse", "HEAD") == before
    other = begun.root / "else"
    begun.git("clone", "--quiet", ".", str(other))
    with pytest.raises(Problem, match=r"agent shop has a clone of .*/shop, so none of .*/else was made; fetch"):
        begun.make(other)
    with pytest.raises(Problem, match="--clone-with counts when it is made"):
        begun.make(files=(".env",))


def test_many_clones_of_one_repository_are_made_and_removed_at_once(desk: Desk) -> None:
    """Each has a remote in the settings of the same repository, where git does not wait for another git."""
    desk.begin()
    desk.commit("one")
    several = [f"job-{number}" for number in range(8)]
    owner = Owner(os.geteuid(), os.getegid())
    with ThreadPoolExecutor(len(several)) as pool:
        list(pool.map(lambda n: clone.make(clone_desk.ENGINE, "image", n, desk.folder, owner, (), print), several))
        assert desk.git("remote").split() == [f"agents/{name}" for name in several]
        list(pool.map(lambda name: clone.end(name, print, remove_it=True), several))
    assert desk.git("remote") == ""


def test_clone_follows_a_folder_that_was_moved(begun: Desk) -> None:
    begun.folder = begun.folder.rename(begun.root / "moved")
    begun.make()
    assert begun.fetch() == [f"new      agents/shop/main {begun.agent('rev-parse', 'main')[:12]}"]


@pytest.mark.parametrize("folder", ["no repository", "partial"])
def test_folder_that_cannot_be_cloned_is_told(desk: Desk, folder: str) -> None:
    desk.begin()
    if folder == "partial":
        desk.git("config", "remote.origin.promisor", "true")
        expected = "is a partial clone"
    else:
        (desk.folder / ".git").rename(desk.root / "away")
        expected = "is no git repository .*; run `git init` there, or leave out --clone"
    with pytest.raises(Problem, match=expected) as caught:
        desk.make()
    assert "\n" not in str(caught.value)


# --clone-with


def test_named_files_come_along_and_the_rest_is_told(desk: Desk) -> None:
    desk.begin()
    desk.commit(".env\nlocal/\n", name=".gitignore")
    desk.commit("x", name="kept")
    for name in (".env", "local/deep/a", "local/b"):
        (desk.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (desk.folder / name).write_text(name)
    (desk.folder / "local/b").chmod(0o755)
    (desk.folder / "kept").write_text("changed")
    (desk.folder / "new\x1b[2J").write_text("")
    made = desk.make(files=(".env", "local"))
    assert [(made.workspace / name).read_text() for name in (".env", "local/deep/a", "kept")] == [
        ".env",
        "local/deep/a",
        "x",
    ]
    assert os.access(made.workspace / "local/b", os.X_OK)
    assert desk.said[-1].endswith(
        "/shop: changed kept; untracked new?[2J - commit them first, or name files with --clone-with"
    )


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", ".git/config", "sub/.GIT/x", "", "file", "gone"])
def test_file_that_may_not_come_along_is_refused(desk: Desk, name: str) -> None:
    desk.begin()
    desk.commit("one")
    with pytest.raises(Problem, match="--clone-with"):
        desk.make(files=(name,))
    assert clone.find("shop") is None


@pytest.mark.parametrize("link", ["secret", "folder/secret", "way/secret"])
def test_no_link_leads_out(desk: Desk, link: str) -> None:
    desk.begin()
    desk.commit("one")
    (desk.root / "secret").write_text("secret")
    (desk.folder / "folder").mkdir()
    place = desk.folder / link
    if link.startswith("way"):
        (desk.folder / "way").symlink_to(desk.root)
    else:
        place.symlink_to(desk.root / "secret")
    with pytest.raises(Problem, match="--clone-with"):
        desk.make(files=(link.split("/")[0] if link.startswith("folder") else link,))
    assert list((desk.root / "magents/clones/shop").glob("clone*")) == []


# What comes


def test_only_what_is_new_comes_and_tags_replace_none(begun: Desk) -> None:
    begun.git("tag", "v1")
    begun.agent("branch", "untouched", "HEAD~1")
    begun.agent("tag", "--force", "v1")
    begun.agent("tag", "v2")
    tag = begun.git("rev-parse", "v1")
    first = [line.split()[:2] for line in begun.fetch()]
    assert first == [
        ["new", "refs/agents/shop/tags/v1"],
        ["new", "refs/agents/shop/tags/v2"],
        ["new", "agents/shop/main"],
        ["new", "agents/shop/untouched"],
    ]
    assert begun.git("rev-parse", "v1") == tag
    begun.agent("branch", "--quiet", "-D", "untouched")
    assert [line.split()[0] for line in begun.fetch()] == ["gone"]
    assert begun.fetch() == []


def test_clone_with_commits_that_a_fetch_leaves_behind_is_not_removed(begun: Desk) -> None:
    def save() -> None:
        exchange.save(clone_desk.ENGINE, "shop", begun.said.append)

    save()
    begun.agent("notes", "add", "--message", "a note")
    with pytest.raises(Problem, match=r"has commits on no branch: .* Notes added by"):
        save()
    begun.agent("update-ref", "-d", "refs/notes/commits")
    begun.agent("checkout", "--quiet", "--detach")
    save()
    begun.commit("lost", at=begun.clone.workspace)
    with pytest.raises(Problem, match=r"was not removed, as it has commits on no branch: .* lost; make a branch"):
        save()
    begun.agent("branch", "kept")
    save()


def test_branch_may_become_a_folder_of_branches_and_back(begun: Desk) -> None:
    begun.agent("branch", "a")
    begun.fetch()
    begun.agent("branch", "--move", "a", "a/b")
    assert [line[:25].strip() for line in begun.fetch()] == ["gone     agents/shop/a, w", "new      agents/shop/a/b"]
    begun.agent("branch", "--move", "a/b", "a")
    assert [line.split()[0] for line in begun.fetch()] == ["new", "gone"]


def test_names_with_signs_that_end_a_line_for_python(desk: Desk) -> None:
    desk.begin()
    desk.commit("one")
    desk.git("branch", "a\u2028b")
    desk.make()
    desk.commit("agent", at=desk.clone.workspace)
    desk.agent("branch", "c\x85d")
    assert {line[9:-13] for line in desk.fetch()} == {"agents/shop/c\x85d", "agents/shop/main"}
    assert len(list(arrived.branches("shop"))) == 2


def test_branch_is_handed_over_beside_the_agent_s_own(begun: Desk) -> None:
    own = begun.agent("rev-parse", "main")
    new = begun.commit("three")
    assert begun.push() == "main"
    assert (begun.agent("rev-parse", "main"), begun.agent("rev-parse", "host/main")) == (own, new)
    with pytest.raises(Problem, match="has no branch nosuch"):
        begun.push("nosuch")


def test_hooks_and_helpers_of_the_repository_do_not_run(desk: Desk, tmp_path: Path) -> None:
    """As if an agent in the folder itself had written them before."""
    desk.begin()
    desk.commit("* filter=evil diff=evil\n", name=".gitattributes")
    desk.commit("one")
    marker = tmp_path / "ran"
    evil = tmp_path / "evil"
    evil.write_text(f"#!/bin/sh\necho $0 $@ >> {marker}\n")
    evil.chmod(0o755)
    hooks = desk.folder / ".git/hooks"
    hooks.mkdir(exist_ok=True)
    for name in (
        "post-checkout",
        "pre-push",
        "reference-transaction",
        "post-merge",
        "pre-auto-gc",
        "fsmonitor-watchman",
    ):
        (hooks / name).write_bytes(evil.read_bytes())
        (hooks / name).chmod(0o755)
    names = [
        "core.fsmonitor",
        "core.sshCommand",
        "core.alternateRefsCommand",
        "filter.evil.clean",
        "filter.evil.smudge",
    ]
    names += [
        "filter.evil.process",
        "diff.evil.textconv",
        "diff.evil.command",
        "diff.external",
        "core.pager",
        "pager.diff",
    ]
    nested = desk.folder / "nested"
    nested.mkdir()
    desk.git("init", "--quiet", at=nested)
    desk.commit("* filter=evil\n", at=nested, name=".gitattributes")
    desk.commit("one", at=nested)
    desk.git("add", "nested")
    desk.git("commit", "--quiet", "--message", "nested")
    desk.git("config", "filter.evil.clean", str(evil), at=nested)
    (nested / "file").write_text("two")
    included = tmp_path / "included"
    included.write_text(configuration([("filter.also.clean", str(evil))]))
    (desk.folder / ".git/info/attributes").write_text("file filter=also\n")
    settings = [(name, str(evil)) for name in names]
    settings += [
        ("include.path", str(included)),
        ("protocol.ext.allow", "always"),
        (f"url.ext::{evil} .insteadOf", str(desk.root / "magents")),
        ("remote.file:///workspace.url", str(evil)),
        ("remote.file:///workspace.vcs", "ext"),
    ]
    with (desk.folder / ".git/config").open("a") as file:
        file.write(configuration(settings))
    (desk.folder / "file").write_text("changed")
    marker.unlink(missing_ok=True)  # what the commits above ran
    made = desk.make()
    assert not marker.exists(), marker.read_text()
    for refused in (desk.fetch, desk.push):
        with pytest.raises(Problem, match="nothing was taken"):
            refused()
    assert not marker.exists(), marker.read_text()
    desk.git("config", "--remove-section", f"url.ext::{evil} ")
    desk.git("config", "--remove-section", "remote.file:///workspace")
    desk.commit("agent", at=made.workspace, name="other")
    desk.fetch()
    assert [branch.name for branch in arrived.branches("shop")] == ["agents/shop/main"]
    assert "agent" in arrived.patch("shop", next(arrived.branches("shop")))
    desk.push("main")
    assert not marker.exists(), marker.read_text()


def hostile(line: str) -> str:
    return f"#!/bin/sh\n{line}\n"


ESCAPES = r"printf '\033]52;c;eA==\007\033[2J' >&2; "


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("exec cat /dev/zero", "nothing was taken: "),
        (ESCAPES + "exit 3", "nothing was taken: "),
        ("exec sleep 99", r"was not done after 1 s"),
        ("cat /dev/zero >&2", r"was not done after 1 s"),
        (r"printf '0038ERR \033]52;c;eA==\007 go away\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n'", "nothing was taken: "),
        (r'exec yes "$(printf "0040%040d refs/heads/%07d" 1 1)"', r"^more than 1 MB came from the agent"),
    ],
)
def test_hostile_other_side_is_one_line_and_changes_nothing(begun: Desk, script: str, told: str) -> None:
    before = begun.refs()
    begun.other_side(hostile(script))
    with pytest.raises(Problem, match=told) as caught:
        begun.fetch(megabytes=1, minutes=1 / 60)
    assert not [sign for sign in str(caught.value) if not sign.isprintable()]
    assert_untouched(begun, before)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("100644 blob {blob}\t.git", "hasDotgit"),
        ("040000 tree {tree}\t.GIT", "hasDotgit"),
        ("040000 tree {tree}\tgit~1", "hasDotgit"),
        ("120000 blob {blob}\t.gitmodules", "gitmodulesSymlink"),
        ("100644 blob {module}\t.gitmodules", "gitmodulesUrl"),
    ],
)
def test_tree_that_attacks_a_checkout_is_refused(begun: Desk, entry: str, told: str) -> None:
    def write(*command: str, given: str = "x") -> str:
        where = ["git", "-C", str(begun.clone.workspace), *command]
        made = subprocess.run(where, input=given, env={**os.environ, **clone_desk.OWN}, capture_output=True, text=True)
        return made.stdout.strip()

    blob = write("hash-object", "-w", "--stdin", given="../../x")
    module = write("hash-object", "-w", "--stdin", given='[submodule "x"]\n\tpath = x\n\turl = --upload-pack=x\n')
    tree = write("mktree", given=f"100644 blob {blob}\tpost-checkout\n")
    top = write("mktree", given=entry.format(blob=blob, tree=tree, module=module) + "\n")
    begun.agent("update-ref", "refs/heads/evil", write("commit-tree", "-m", "x", top))
    before = begun.refs()
    with pytest.raises(Problem, match=told):
        begun.fetch()
    assert_untouched(begun, before)


def test_number_of_branches_is_limited(begun: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "MAX_REFS", 3)
    before = begun.refs()
    for number in range(4):
        begun.agent("branch", f"b{number}")
    with pytest.raises(Problem, match="the agent has 5 branches and tags, more than 3"):
        begun.fetch()
    assert_untouched(begun, before)


def test_limit_counts_for_all_large_files_together(begun: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "SOME", 1)
    size = 600 << 10
    for sign in b"ab":
        name = hashlib.sha256(bytes([sign]) * size).hexdigest()
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{name}\nsize {size}\n"
        begun.commit(text, at=begun.clone.workspace, name=name)
        (begun.root / name).write_bytes(bytes([sign]) * size)
    files = f'case "$*" in *"sh -c"*) for last; do :; done; printf 1; exec cat {begun.root}/${{last##*/}};; esac'
    begun.other_side(clone_desk.HONEST.replace("\n", f"\n{files}\n", 1))
    with pytest.raises(Problem, match="more than 1 MB came from the agent: its commits are here, not all their files"):
        begun.fetch(megabytes=1)
    assert len([path for path in begun.folder.glob(".git/lfs/objects/*/*/*") if path.stat().st_size == size]) == 1
    begun.fetch(megabytes=1)  # the other one
    assert len(list(begun.folder.glob(".git/lfs/objects/*/*/*"))) == 2


def assert_untouched(desk: Desk, refs: str) -> None:
    assert desk.refs() == refs
    assert list(desk.folder.glob(".git/objects/pack/tmp*")) == []
    assert sorted(path.name for path in (desk.root / "magents/clones/shop").iterdir()) == ["clone", "lock"]


def test_files_that_run_by_themselves_are_told_first(begun: Desk) -> None:
    at = begun.clone.workspace
    begun.commit("use x", at=at, name=".envrc")
    begun.commit("plain", at=at, name="a\x1b[2J\nb")
    begun.fetch()
    (branch,) = arrived.branches("shop")
    assert [(each.path, each.kind, bool(each.why)) for each in branch.files] == [
        (".envrc", "new", True),
        ("a\x1b[2J\nb", "new", False),
        ("file", "changed", False),
    ]
    lines = list(arrived.lines(branch))
    assert ".envrc" in lines[2]
    assert not [sign for line in lines for sign in line if not sign.isprintable()]


def test_contents_decide_and_what_is_too_large_to_look_at_counts(begun: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    at = begun.clone.workspace
    contents = {"a": '{"scripts": {"install": "x"}}', "b": "{}", "c": "{}" + " " * 500, "d": "{}\n", "e": "{}"}
    for folder, content in contents.items():
        begun.commit(content, at=at, name=f"{folder}/package.json")
    begun.fetch()
    monkeypatch.setattr(arrived, "MOST_LOOKED_AT", 100)
    started: list[str] = []
    run = Git.run

    def counted(git: Git, *words: str, **more: Any) -> bytes:
        started.append(words[0])
        return run(git, *words, **more)

    monkeypatch.setattr(Git, "run", counted)
    (branch,) = arrived.branches("shop")
    assert [each.path[0] for each in branch.files if each.why] == ["a", "c"]
    assert started.count("cat-file") == 2


def test_branch_that_is_too_large_to_show_is_told(begun: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    begun.commit("line\n" * 1000, at=begun.clone.workspace)
    begun.fetch()
    (branch,) = arrived.branches("shop")
    monkeypatch.setattr(arrived, "LARGEST_PATCH", 2000)
    assert "are not shown (git diff printed more than 0 MB and was ended)" in arrived.patch("shop", branch)


# Killed

WORK_S = 0.5
"""Making a clone, a fetch and a push take that long here."""


def test_killed_at_any_moment_nothing_half_made_is_found(desk: Desk) -> None:
    """A kill between two system calls cannot be chosen; twenty random moments are."""
    desk.begin()
    for number in range(3):
        desk.commit(f"{number}")
    chance = random.Random(17)
    command = [sys.executable, "-m", "tests.support.clone_desk", str(desk.root)]
    pipe = subprocess.PIPE
    with (
        (desk.root / "errors").open("w") as errors,
        subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=errors, text=True) as worker,
    ):
        assert worker.stdin
        assert worker.stdout
        for number in range(20):
            if number % 2:
                clone.end("shop", desk.said.append, remove_it=True)
            print(file=worker.stdin, flush=True)
            pid = int(worker.stdout.readline())
            let_pass(chance.uniform(0, WORK_S))
            with contextlib.suppress(ProcessLookupError):  # ignored because it was done already
                os.killpg(pid, signal.SIGKILL)
            worker.stdout.readline()
            if found := clone.find("shop"):
                assert desk.git("status", "--porcelain", at=found.workspace) == ""
        worker.stdin.close()
    assert (desk.root / "errors").read_text() == ""
    desk.make()
    new = desk.commit("agent", at=desk.clone.workspace)
    desk.fetch()
    desk.push("main")
    assert desk.git("rev-parse", "agents/shop/main") == new
    assert sorted(path.name for path in (desk.root / "magents/clones/shop").iterdir()) == ["clone", "lock"]
    assert [desk.git("fsck", "--strict"), desk.agent("fsck", "--strict")] == ["", ""]
