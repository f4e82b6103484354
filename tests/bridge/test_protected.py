"""The protected paths of a workspace in the CLI's namespace: Claude's file tools change none of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from bridge.server.host.protected import PROTECTED
from bridge.server.sandbox import bubblewrap
from tests.support.attacks import Range
from tests.support.bridge_host import OWNER, HostMaker, Place, passable
from tests.support.fake_messages_api import Say, Use, in_turn
from tests.support.stream_json import STREAM, ask, reply, user

THERE = {".git/config": "[core]\n\tbare = false # X\n", ".envrc": "export A=X\n", ".vscode/tasks.json": '{"X": 1}\n'}
MISSING = [*PROTECTED.keys() - THERE, ".git/hooks/post-checkout", ".husky/pre-commit", "commondir", "mine/hooks/x"]


def repository(place: Place) -> None:
    """Make a repository with some of the protected paths, one of which git's settings name."""
    subprocess.run(["git", "init", "--quiet", place.workspace], check=True)
    (place.workspace / ".vscode").rmdir()
    (place.workspace / ".vscode").mkdir()
    (place.workspace / ".envrc").rmdir()
    for name, text in THERE.items():
        (place.workspace / name).write_text(text)
    with (place.workspace / ".git/config").open("a") as file:
        file.write("[core]\n\thooksPath = mine/hooks\n")
    subprocess.run(["chown", "-R", f"{OWNER}:{OWNER}", place.workspace], check=True)


def files(workspace: Path) -> dict[str, bytes]:
    return {str(path.relative_to(workspace)): path.read_bytes() for path in workspace.rglob("*") if path.is_file()}


def test_claude_writes_no_protected_path(confined: Range) -> None:
    """Neither by Write nor by Edit, nor through links; and a rule for next time, which the CLI keeps in one of them, is
    no harm to the conversation."""
    place = confined.place
    repository(place)
    (place.workspace / "link").symlink_to(".git")
    uses = [Use("Write", {"file_path": f"/workspace/{path}", "content": "attack"}) for path in MISSING]
    for path in THERE:
        uses.append(Use("Read", {"file_path": f"/workspace/{path}"}))
        uses.append(Use("Write", {"file_path": f"/workspace/{path}", "content": "attack"}))
        uses.append(Use("Edit", {"file_path": f"/workspace/{path}", "old_string": "X", "new_string": "attack"}))
    uses.append(Use("Read", {"file_path": "/workspace/link/config"}))
    uses.append(Use("Write", {"file_path": "/workspace/link/config", "content": "attack"}))
    uses.append(Use("Write", {"file_path": "/workspace/link/hooks/x", "content": "attack"}))
    uses.append(Use("Write", {"file_path": "/workspace/.claude/agents/a.md", "content": "mine"}))
    confined.real.api.part = in_turn(*uses, Say("done"))
    before = None
    with place.start(*STREAM, "--permission-prompt-tool", "stdio") as running:
        running.stdin.write(ask("initialize", hooks=None) + user("go on"))
        running.stdin.flush()
        while (message := json.loads(running.line()))["type"] != "result":
            if message.get("request", {}).get("subtype") == "can_use_tool":
                before = before or files(place.workspace)
                rule = {"type": "addRules", "rules": [{"toolName": "Read"}], "behavior": "allow"}
                more = {"updatedPermissions": [{**rule, "destination": "localSettings"}]}
                allowed = {"behavior": "allow", "updatedInput": message["request"]["input"], **more}
                running.stdin.write(reply(message, allowed))
                running.stdin.flush()
        running.end()
    results = confined.real.api.prompts[-1].results
    assert len(results) == len(uses)
    assert "created successfully" in results[-1]
    written = [use for use, result in zip(uses[:-1], results, strict=False) if "success" in result]
    assert not written
    assert sum("EROFS" in result or "EBUSY" in result for result in results) >= len(THERE) * 2 + 4
    assert files(place.workspace).items() - (before or {}).items() == {(".claude/agents/a.md", b"mine")}


TOP = {path.partition("/")[0] for path in PROTECTED if not path.startswith(".git")}


def test_grant_remembers_what_it_protects_and_revoke_leaves_no_trace(host_per_test: HostMaker) -> None:
    host = host_per_test()
    place = host.grant("one", more=("--unprotect", ".mcp.json", "--protect", "deep/mine"))
    assert {path.name for path in place.workspace.iterdir()} == {*TOP, "deep"} - {".mcp.json"}
    assert (place.workspace / "deep/mine").stat().st_uid == OWNER
    host.grant("two", folder="one")
    assert host.tell("revoke", "two").returncode == 0
    assert (place.workspace / ".vscode").is_dir()
    assert host.tell("revoke", "one").returncode == 0
    assert not list(place.workspace.iterdir())


def test_link_at_a_protected_path_is_refused_with_what_to_type(host_per_test: HostMaker) -> None:
    """When it is granted, and at a call, where the container may have made it."""
    host = host_per_test()
    place = host.grant("one")
    (place.workspace / ".envrc").rmdir()
    (place.workspace / ".envrc").symlink_to("/etc/passwd")
    done = place.run("-p", "hi")
    assert done.returncode == 125
    assert b"on the host, .envrc is a link, so it cannot be protected" in done.stderr
    assert b"--unprotect .envrc" in done.stderr
    host.grant("one", more=("--unprotect", ".envrc"))
    assert place.run("-p", "out x").stdout == b"x"


CHANGES = """
import os
for name, act in {
    "written": lambda: open("/workspace/.git/config", "a"),
    "moved": lambda: os.rename("/workspace/.git", "/workspace/x"),
    "made": lambda: open("/workspace/.git/index.lock", "x"),
}.items():
    try:
        act()
        print(name)
    except OSError:
        pass
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")])
"""


def test_server_that_is_not_root_protects_as_well(tmp_path: Path) -> None:
    """Its namespaces are those of a user, and bubblewrap's mounts are not the launcher's own."""
    shutil.copy(bubblewrap.SHIM, passable(tmp_path) / "shim.py")
    git = tmp_path / "ws" / ".git"
    git.mkdir(parents=True)
    (git / "config").touch()
    for made in (git / "config", git, git.parent):
        os.chown(made, OWNER, OWNER)
    words = ["bwrap", "--unshare-pid", "--cap-add", bubblewrap.MOUNTING, "--ro-bind", "/usr", "/usr"]
    words += ["--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev"]
    words += ["--bind", str(git.parent), "/workspace", "--ro-bind", str(tmp_path / "shim.py"), "/shim.py", "--", PYTHON]
    words += ["-IS", "/shim.py", "--apart", "--fix", "/workspace/.git", "rw", "--fix", "/workspace/.git/config", "ro"]
    words += ["--drop", "--", PYTHON, "-c", CHANGES]
    done = subprocess.run(words, user=OWNER, group=OWNER, extra_groups=(), cwd="/", capture_output=True, text=True)
    assert done.stdout == "made\n['0000000000000000']\n", done.stderr


PYTHON = "/usr/bin/python3"
