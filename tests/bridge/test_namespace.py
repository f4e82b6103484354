"""The namespace of the CLI: a prompt stays text, nothing can be run, /proc shows nothing, no pipe blocks a call.

Each case runs with the real CLI in both versions, as in tests/bridge/test_attacks.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bridge.policy import Scope
from bridge.policy.argv import rewrite
from bridge.server.sandbox import bubblewrap
from bridge.server.sandbox.process import CliProcess
from tests.fidelity.sides import PROGRAMS
from tests.support.attacks import RUN, Range, approve_everything
from tests.support.bridge_cli import VERSIONS, installed
from tests.support.bridge_host import OWNER, HostMaker
from tests.support.bridge_raw import RawClient
from tests.support.fake_messages_api import Say, Use, echo, in_turn
from tests.support.stream_json import STREAM, user
from tests.support.waiting import wait_until

# Words after `--`

TAILS = [
    ["--tmux", "--worktree=x"], ["hello", "--tmux", "--worktree=x"], ["--bg"], ["hello", "--background"],
    ["claude-cli://open?q=hi"], ["hello", "--handle-uri", "claude-cli://open?q=hi"], ["cc://127.0.0.1:1/x"],
    ["--version"], ["--help"], ["--init-only"], ["--print"], ["--settings={}", "--settings", "{}"],
    ["--debug-file=/workspace/marker"], ["--sdk-url=ws://127.0.0.1:1"], ["--session-tunnel"], ["--resume=x"],
    ["--allow-dangerously-skip-permissions"], ["mcp serve"], ["--from-pr=1"], ["--cloud=x"],
]  # fmt: skip


@pytest.mark.parametrize("tail", TAILS, ids=" ".join)
def test_words_behind_two_hyphens_are_a_prompt(field: Range, tail: list[str]) -> None:
    """The CLI searches all of its arguments for some of its flags."""
    field.write(
        ".claude/settings.json", {"hooks": {"WorktreeCreate": [{"hooks": [{"type": "command", "command": RUN}]}]}}
    )
    field.call("-p", "--", *tail)
    assert [request.heard.strip() for request in field.real.api.prompts if request.tools][:1] == [tail[0]]


@pytest.mark.parametrize("version", VERSIONS)
def test_no_word_of_the_cli_s_own_stands_behind_two_hyphens(version: str) -> None:
    """Each word in the program that looks like a flag, and each command: alone, with a value, and after other words."""
    program = installed(version).read_bytes()
    flags = {found.decode() for found in re.findall(rb"--[a-z][a-z0-9-]{1,40}", program)}
    assert len(flags) > 500
    for flag in sorted(flags):
        for words in ([flag], [f"{flag}=x"], ["hello you", flag], [flag, f"{flag}=x"]):
            argv = rewrite(["-p", "--", *words], Scope(runs_commands=True)).argv
            behind = argv[argv.index("--") + 1 :]
            assert len(behind) == 1
            assert not behind[0].startswith("-")
            assert {word.partition("=")[0] for word in argv[: argv.index("--")]} <= OWN_FLAGS


OWN_FLAGS = {
    "--print",
    "--setting-sources",
    "--append-system-prompt",
    "--strict-mcp-config",
    "--tools",
    "--disallowedTools",
}


# What can be run in the namespace


def test_nothing_can_be_run_in_the_namespace(host_per_test: HostMaker) -> None:
    """This holds for every name in PATH, and for everything that the container puts into the workspace."""
    place = host_per_test().grant("one")
    shutil.copy("/bin/true", place.workspace / "native")
    (place.workspace / "script").write_text("#!/opt/python/bin/python3\n")
    (place.workspace / "script").chmod(0o755)
    ended = json.loads(place.run("-p", "walk").stdout)
    # The scripted CLI is a script, so its interpreter has to be there. The replacement for the shell refuses.
    interpreters = {name: how for name, how in ended.items() if "python" in name}
    shells = {name: how for name, how in ended.items() if name.rpartition("/")[2] in ("sh", "bash")}
    assert set(shells.values()) == {126}
    others = ended.keys() - interpreters.keys() - shells.keys()
    assert {"/workspace/native", "/workspace/script"} <= others
    refused = {name: ended[name] for name in others if ended[name] not in ("Permission denied", 126)}
    assert refused.keys() <= {"/opt/bridge/tools"}


def test_programs_of_the_host_are_not_there(confined: Range) -> None:
    with confined.place.start(*STREAM) as running:
        running.stdin.write(user("hi you"))
        running.stdin.flush()
        while json.loads(running.line())["type"] != "result":
            continue
        (cli,) = confined.place.cli()
        root = Path(f"/proc/{cli}/root")
        programs = {path.name: str(path.readlink()) for path in (root / "usr/bin").iterdir()}
        assert programs == dict.fromkeys(("bash", "git", "sh"), bubblewrap.SHIM_AT)
        assert {path.name for path in (root / "usr").iterdir()} <= {"bin", "lib", "lib32", "lib64", "libx32", "share"}
        assert not (root / "usr/local").exists()
        running.end()


# What the kernel shows about the CLI's process

OF_PROC = ["self/environ", "thread-self/environ", "self/cmdline", "1/cmdline", "self/mountinfo", "self/mem", "mounts"]


def told_of_the_host(field: Range) -> str:
    """Return everything that was sent to the model. Fails when it holds a path of the host."""
    said = "".join(request.everything for request in field.real.api.requests)
    assert str(field.real.host.directory) not in said, "a path of the host's was told"
    return said


def test_links_to_what_the_kernel_tells(confined: Range) -> None:
    """Links in the workspace are read, searched, mentioned and imported. All in one conversation, because the CLI
    decides on each use separately."""
    (confined.place.workspace / "D").symlink_to("/proc/self")
    uses, mentioned, imported = {}, "look at", ""
    for number, path in enumerate(OF_PROC):
        link, inside = f"/workspace/L{number}", f"/workspace/D/{Path(path).name}"
        for suffix in ("", ".md"):
            (confined.place.workspace / f"L{number}{suffix}").symlink_to(f"/proc/{path}")
        uses[f"{path} by a link"] = Use("Read", {"file_path": link})
        uses[f"{path} in a linked directory"] = Use("Read", {"file_path": inside})
        uses[f"{path} searched"] = Use("Grep", {"pattern": ".", "path": link, "output_mode": "content"})
        mentioned += f" @L{number} @{link}.md"
        imported += f"@{link}\n@{link}.md @~/x\n@/proc/{path}\n@{inside}\n"
    uses["all"] = Use("Grep", {"pattern": "SECRET|bwrap", "path": "/workspace/D/", "output_mode": "content"})
    confined.real.api.part = in_turn(*uses.values(), Say("done"))
    confined.call("-p", mentioned, "--dangerously-skip-permissions")
    results = dict(zip(uses, confined.real.api.prompts[-1].results, strict=True))
    place = str(confined.real.host.directory)
    assert not [name for name, told in results.items() if place in told or "ANTHROPIC_BASE_URL=" in told]
    told_of_the_host(confined)
    confined.real.api.part = echo
    heard = RawClient(confined.place).call(
        "-p", "hi you", memory=f"project\n/workspace\n/workspace/CLAUDE.md\n{imported}"
    )
    assert heard.code == 0
    confined.check(heard.stdout.decode())
    told_of_the_host(confined)


FLIP = """
import ctypes, sys, time
libc = ctypes.CDLL(None)
while True:
    for _ in range(2000):
        libc.syscall(316, -100, sys.argv[1].encode(), -100, sys.argv[2].encode(), 2)
    time.sleep(0.02)  # the pace of this attacker; it waits for nothing
"""
"""Exchanges two names as fast as it can. After each 2,000 exchanges it rests with the names as they were, so that some
reads of the first name find the file from their start to their end."""


def test_name_that_flips_between_a_file_and_the_environment(confined: Range) -> None:
    workspace = confined.place.workspace
    (workspace / "flip").write_text("harmless")
    (workspace / "other").symlink_to("/proc/self/environ")
    for path in (workspace / "flip", workspace / "other"):
        os.chown(path, OWNER, OWNER, follow_symlinks=False)
    reads = [Use("Read", {"file_path": "/workspace/flip"})] * 40
    confined.real.api.part = in_turn(*reads, Say("done"))
    words = [sys.executable, "-c", FLIP, str(workspace / "flip"), str(workspace / "other")]
    with subprocess.Popen(words) as flipping:
        try:
            confined.call("-p", "read it", "--dangerously-skip-permissions")
        finally:
            flipping.kill()
    results = confined.real.api.prompts[-1].results
    assert len(results) == 40
    assert any("harmless" in result for result in results)
    assert any("ermission" in result for result in results)  # so some reads met the link
    told_of_the_host(confined)


# The CLI's own directory

MEANT = [
    "plans/p.md",
    "agent-memory/x/MEMORY.md",
    "projects/-workspace/memory/MEMORY.md",
    "projects/-workspace/memory/a/b.md",
]
NOT_MEANT = [
    "CLAUDE.md", "rules/x.md", "remote-settings.json", "policy-limits.json", "plugins/x/y", "dev-mods/a/b", "hooks/h",
    "ide/x", "todos/t", "tasks/t", "sessions/x", "tmp/x", "agents/x.md", "commands/x.md", "skills/x/SKILL.md", "p",
    "plan", "plansx", "pro", "projectsx", ".credentials.json", "settings.local.json", ".x", "x y", "#x", "!x", "[x",
    "plans/../x", "agent-memoryx", "agent-m/x",
    "projects/-workspace/x.jsonl", "projects/-workspace/memoryx", "projects/-workspace/mem/x", "projects/x.md", "é",
    "projects/-workspace/../../CLAUDE.md", "memory/x", "backups/x", "shell-snapshots/x.sh", "statsig/x",
    "CLAUDE.local.md",
]  # fmt: skip


def test_model_writes_its_own_files_in_the_cli_s_directory(confined: Range) -> None:
    """This holds whatever the client approves, and also through a link in the workspace."""
    (confined.place.workspace / "L").symlink_to("/claude")
    places = [f"{top}/{name}" for top in ("/claude", "/workspace/L") for name in (*MEANT, *NOT_MEANT)]
    uses = [Use("Write", {"file_path": path, "content": "attack"}) for path in places]
    confined.real.api.part = in_turn(*uses, Say("done"))
    approve_everything(confined, "--allowedTools", "Write,Edit")
    results = confined.real.api.prompts[-1].results
    assert len(results) == len(places)
    written = {path for path, result in zip(places, results, strict=True) if "created successfully" in result}
    assert written & {f"/claude/{name}" for name in MEANT} == {f"/claude/{name}" for name in MEANT}
    assert {path.removeprefix("/claude/").removeprefix("/workspace/L/") for path in written} <= set(MEANT)


# Pipes, sockets and devices

READERS = {
    "read": Use("Read", {"file_path": "/workspace/pipe"}),
    "picture": Use("Read", {"file_path": "/workspace/pipe.png"}),
    "document": Use("Read", {"file_path": "/workspace/pipe.pdf"}),
    "notebook": Use("Read", {"file_path": "/workspace/pipe.ipynb"}),
    "edit": Use("Edit", {"file_path": "/workspace/pipe", "old_string": "a", "new_string": "b"}),
    "write": Use("Write", {"file_path": "/workspace/pipe", "content": "x"}),
    "grep": Use("Grep", {"pattern": "x", "path": "/workspace/pipe", "output_mode": "content"}),
    "socket": Use("Read", {"file_path": "/workspace/socket"}),
    "device": Use("Read", {"file_path": "/workspace/device"}),
    "link": Use("Read", {"file_path": "/workspace/link"}),
}


SILENT = ["read", "picture", "grep"]
ROWS = [*((name, False) for name in READERS), *((name, True) for name in SILENT)]


@pytest.mark.parametrize(("name", "writer"), ROWS, ids=[f"{n}-{'silent' if w else 'no'} writer" for n, w in ROWS])
def test_pipe_in_the_workspace_holds_no_call(confined: Range, name: str, writer: bool) -> None:
    """The call goes on without the pipe, or ends with a one-line error."""
    workspace = confined.place.workspace
    pipes = [workspace / f"pipe{suffix}" for suffix in ("", ".png", ".pdf", ".ipynb")]
    for pipe in pipes:
        os.mkfifo(pipe)
        os.chown(pipe, OWNER, OWNER)
    os.mknod(workspace / "device", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    (workspace / "link").symlink_to("pipe")
    confined.real.api.part = in_turn(READERS[name], Say("done"))
    with socket.socket(socket.AF_UNIX) as listening, contextlib.ExitStack() as stack:
        listening.bind(str(workspace / "socket"))
        for pipe in pipes if writer else []:
            stack.callback(os.close, os.open(pipe, os.O_RDWR))
        done = confined.place.run("-p", "use it", "--dangerously-skip-permissions", timeout=90)
    if done.returncode == 125:
        assert b"reads a pipe in the workspace" in done.stderr
    else:
        assert (done.returncode, done.stdout) == (0, b"done\n")


def test_mention_of_a_pipe_holds_no_call(confined: Range) -> None:
    os.mkfifo(confined.place.workspace / "pipe")
    done = confined.place.run("-p", "look at @pipe", timeout=90)
    assert done.returncode in (0, 125)


# No executor in the container, and the replacement for the shell


def test_what_stands_for_a_shell_runs_nothing_but_the_prefix(tmp_path: Path) -> None:
    """Everything else that the CLI gives to a shell ends there. Command lines are read as bash reads them."""
    program = tmp_path / "bash"
    program.write_bytes(bubblewrap.shim_source(sys.executable))
    program.chmod(0o755)
    environment = {"CLAUDE_CODE_SHELL_PREFIX": "/opt/bridge/shim", "CLAUDE_BRIDGE_TOOLS": str(tmp_path / "none")}
    for words in ("ps aux", "env", "/opt/bridge/shim x; y", "/opt/bridge/shim $(x)", '/opt/bridge/shim "$x"', ""):
        done = subprocess.run([program, "-c", words], env=environment, capture_output=True, check=False, timeout=10)
        assert done.returncode == 126, words
    done = subprocess.run([program], input=b"true", env=environment, capture_output=True, check=False, timeout=10)
    assert done.returncode == 126


QUOTED = ["x", "it's", 'a "b" c', "a\nb", "$HOME `x`", "", "\\", "a'b\"c$d`e\\f!g", "'" * 50, "é ü", "* ? ~ # & |"]


@pytest.mark.parametrize("word", QUOTED)
def test_command_is_read_as_a_shell_reads_it(word: str) -> None:
    found = shim_names()["unquoted"]
    for quoted in (shlex.quote(word), "'" + word.replace("'", "'\"'\"'") + "'"):
        assert found(quoted) == word
    assert found(shlex.quote(word) + " more") is None
    assert found(shlex.quote(word) + ";") is None


def shim_names() -> dict[str, Any]:
    """Return the names defined in the shim, without running it."""
    text = bubblewrap.SHIM.read_text().partition("\ntry:\n    if sys.argv[0]")[0]
    names: dict[str, Any] = {}
    exec(compile(text, "shim.py", "exec"), names)
    return names


MOUNTS = """
import os, select, subprocess, sys
while not select.select([0], [], [], 0)[0]:
    os.mkdir(sys.argv[1])
    subprocess.run(["mount", "-t", "tmpfs", "none", sys.argv[1]], check=True)
    subprocess.run(["umount", sys.argv[1]], check=True)
    os.rmdir(sys.argv[1])
"""


def test_check_holds_while_mounts_come_and_go(tmp_path: Path) -> None:
    """As they do where containers start and end."""
    subprocess.run(["mount", "--bind", str(tmp_path), str(tmp_path)], check=True)
    subprocess.run(["mount", "--make-shared", str(tmp_path)], check=True)
    words = [sys.executable, "-c", MOUNTS]
    changing = [subprocess.Popen([*words, str(tmp_path / str(n))], stdin=subprocess.PIPE) for n in range(4)]
    try:
        for _ in range(40):
            bubblewrap.check()
    finally:
        for process in changing:
            process.communicate()
        subprocess.run(["umount", str(tmp_path)], check=True)


# A call that ends while it starts


SLEEPER = f"sleep 987.{os.getpid()}"  # those of another process of the tests have another number
WATCHES = ("--die-with-parent",)


def _started(ended: asyncio.Future[int], watches: tuple[str, ...] = WATCHES) -> tuple[CliProcess, int]:
    """Start a program in a namespace. Returns its process, and the descriptor with bubblewrap's report."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    command = bubblewrap.Command([], {b"PATH": b"/usr/bin:/bin"}, descriptors=[writing], status=reading)
    words = [*PROGRAMS, "--unshare-pid", "--unshare-net", *watches, "--new-session"]
    words += ["--json-status-fd", str(writing), "--", *SLEEPER.split()]
    command.argv = [word.encode() for word in words]
    return CliProcess(command, with_stdin=False, on_exit=ended.set_result), reading


def _stop_with_its_first_child(pid: int) -> None:
    """Stop a process as soon as it has a child. That is soon, so there is no pause between two looks."""
    while not Path(f"/proc/{pid}/task/{pid}/children").read_text():
        pass
    os.kill(pid, signal.SIGSTOP)


def _left() -> list[str]:
    listed = subprocess.run(["ps", "-eo", "stat=,args="], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if SLEEPER in line and not line.startswith("Z")]


def test_call_that_ends_while_it_starts_leaves_no_process() -> None:
    """bubblewrap has reported its first process, and dies before that one watches for it."""

    async def start_and_end(after_s: float) -> None:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[int] = loop.create_future()
        process, _ = _started(ended)
        loop.call_later(after_s, process.terminate, 0.2)
        assert await asyncio.wait_for(ended, 5) != 0

    async def all_of_them() -> None:
        for number in range(100):
            await start_and_end(number % 20 / 3000)

    asyncio.run(all_of_them())
    wait_until(lambda: not _left(), 10, "the end of all processes")


def test_call_that_ends_before_its_first_process_is_reported_leaves_none() -> None:
    """bubblewrap is stopped in that short moment. Its first process waits for a word that never comes."""

    async def start_and_end() -> bool:
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        process, reading = _started(ended)
        _stop_with_its_first_child(process.pid)
        is_reported = bool(select.select([reading], [], [], 0.01)[0])
        if is_reported:
            os.kill(process.pid, signal.SIGCONT)
        process.terminate(grace=0.2)
        assert await asyncio.wait_for(ended, 5) != 0
        return not is_reported

    async def until_it_was_early() -> int:
        early, tried = 0, 0
        while early < 3 and tried < 1000:
            early, tried = early + await start_and_end(), tried + 1
        return early

    assert asyncio.run(until_it_was_early()) == 3
    wait_until(lambda: not _left(), 10, "the end of all processes")


def test_first_process_that_does_not_watch_yet_ends_when_bubblewrap_is_killed() -> None:
    """bubblewrap lets it watch for its parent's end only after the report."""

    async def start_and_kill() -> None:
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        process, reading = _started(ended, watches=())
        await asyncio.to_thread(select.select, [reading], [], [], 10)
        os.kill(process.pid, signal.SIGKILL)
        assert await asyncio.wait_for(ended, 10) == -signal.SIGKILL

    asyncio.run(start_and_kill())
    wait_until(lambda: not _left(), 10, "the end of all processes")
