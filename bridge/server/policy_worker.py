"""The process that checks what is too large for the server's event loop: the project of a call, or a long message.

    server -- starts --> fork server (this module, once) -- forks --> a policy worker for each grant that needs one

The fork server has loaded every module, so a worker starts in a millisecond or two. The fork server reads nothing
that a client has sent. A worker holds no secret, and no descriptors except those of its request. It gives up root,
and its memory and time are limited. If it dies, one request fails: the server refuses it and forks another worker.

A request is a packet with four descriptors: the request (JSON), the client's bytes, and two files for the answer
(JSON) and for what is passed on. The worker replies `done`.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import json
import os
import resource
import signal
import socket
import sys
from typing import Any

from bridge.policy.argv import Plan, rewrite
from bridge.policy.control_messages import ControlFilter
from bridge.policy.documents import MAX_DIRECTORIES, MAX_STEP, directories, is_path
from bridge.policy.flags import BY_NAME
from bridge.policy.project_memory import Memory
from bridge.policy.project_policy import Project
from bridge.policy.terms import WORKSPACE, CliError, PolicyError, Scope
from bridge.protocol.frames import NUL, Fields
from bridge.server.activity import Kind

LIMIT_S = 10
"""Seconds for one request. The longest take 4 s on an idle machine: heads that were made for it."""

MEMORY = 192 * 1024 * 1024
"""Bytes that a worker may allocate after its start. A message of 16 MiB takes five times its size."""

FILE = 128 * 1024 * 1024
"""Bytes of a file that a worker may write. Escaping can make a message six times as long."""

CODECS = (
    "ascii",
    "latin-1",
    "utf-8",
    "utf-8-sig",
    "utf-16",
    "utf-16-le",
    "utf-16-be",
    "utf-32",
    "utf-32-le",
    "utf-32-be",
)
"""Codecs that `json` may need. They are loaded before root is given up, because only root may be able to read the
library."""

NOBODY = 65534
NICE = 10
"""Niceness of the workers, so that the server's event loop comes first."""

DONE = b"done"

MAX_DIRECTORY = 4095
"""Characters of a call's directory: the kernel's limit. Each step has at most MAX_STEP."""


def directory_of(fields: Fields) -> str:
    """Return the client's working directory."""
    return os.fsdecode(fields.get("cwd") or WORKSPACE.encode())


def has_terminal(fields: Fields, scope: Scope) -> bool:
    """Return whether the client offers a terminal for an interactive session."""
    return scope.runs_commands and fields.get("stdin") == fields.get("stdout") == b"tty"


def kind_of(plan: Plan, fields: Fields, scope: Scope) -> Kind:
    """Return the kind of a call."""
    if has_terminal(fields, scope) and not plan.prints:
        return Kind.INTERACTIVE
    return Kind.PROGRAM if plan.controls else Kind.PRINT


def plan_of(fields: Fields, scope: Scope) -> Plan:
    """Check a call as the client sent it. Returns what to run. Raises PolicyError."""
    terminal, cwd = has_terminal(fields, scope), directory_of(fields)
    if len(cwd) > MAX_DIRECTORY or any(len(step) > MAX_STEP for step in cwd.split("/")):
        raise PolicyError("the directory {} has a longer name than a file system allows", cwd)
    if not scope.contains(cwd):
        raise PolicyError("the directory {} is not shared with the host; run it in /workspace", cwd)
    words = [os.fsdecode(word) for word in fields.all("arg")]
    sent = {name: [value.replace(NUL, b"\0") for value in fields.all(name)] for name in ("file", "memory", "text")}
    plan = rewrite(
        words,
        scope,
        cwd,
        files=sent["file"],
        texts=sent["text"],
        env=fields.all("env"),
        memory=sent["memory"],
        omitted=fields.all("omitted"),
        interactive=terminal,
        is_large=fields.get("large") == b"1",
        again=fields.text("again"),
    )
    if not plan.prints and fields.get("stdout") == b"tty" and not terminal:
        raise PolicyError("an interactive session needs a terminal as its input, too; or use `claude-code -p`")
    return plan


# Between the processes. The server accepts only JSON from a worker.


def scope_as_json(scope: Scope) -> dict[str, Any]:
    """Return a grant's policy settings as a JSON object."""
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in vars(scope).items()}


def _scope(data: dict[str, Any]) -> Scope:
    kinds = {field.name: type(getattr(Scope(), field.name)) for field in dataclasses.fields(Scope)}
    return Scope(**{name: kinds[name](value) for name, value in data.items()})


def pack(plan: Plan) -> bytes:
    """Return a plan as a line of JSON, and the texts of its files one after another."""
    project, memory = plan.project, plan.project.memory
    parts = {
        "argv": plan.argv,
        "flags": plan.flags,
        "prompt": plan.prompt,
        "prompt_addition": plan.prompt_addition,
        "env": plan.env,
        "notes": plan.notes,
        "project": {
            "settings": project.settings,
            "servers": project.servers,
            "notes": project.notes,
            "limits": project.limits,
        },
        "memory": [len(memory.text), len(memory.text_with_agents)],
        "of_agents": memory.of_agents,
        "files": [[name, len(text)] for name, text in project.files.items()],
    }
    texts = [memory.text, memory.text_with_agents, *project.files.values()]
    return b"\n".join([json.dumps(parts).encode(), b"".join(texts)])


def unpack(data: bytes, scope: Scope) -> Plan:
    """Read a packed plan, without its `decisions`. Raises ValueError.

    A worker parses what a client wrote, and an attacker could take it over. So unknown files and flags are an error
    here.
    """
    line, _, texts = data.partition(b"\n")
    parts = json.loads(line)
    named = parts.pop("files")
    if not all(is_path(name) for name, _ in named):
        raise ValueError("a policy worker named a file that is none of a project's")
    if len(directories(name for name, _ in named)) > MAX_DIRECTORIES:
        raise ValueError("a policy worker named more directories than a project may have")
    found, at = [], 0
    for size in (*parts.pop("memory"), *(size for _, size in named)):
        found.append(texts[at : at + size])
        at += size
    files = {name: text for (name, _), text in zip(named, found[2:], strict=True)}
    memory = Memory(found[0], found[1], of_agents=parts.pop("of_agents"))
    project = Project(**parts.pop("project"), files=files, memory=memory)
    words = parts["argv"]
    end = words.index("--") if "--" in words else len(words)
    flags = {word.partition("=")[0] for word in words[:end]}
    if not flags <= {*BY_NAME, *scope.allowed} or len(words[end:]) not in (0, 2):
        raise ValueError("a policy worker named a flag that the bridge does not know")
    if end < len(words) and words[-1].startswith("-"):
        raise ValueError("a policy worker named a flag in place of a prompt")
    if not all(isinstance(text, str) and "\0" not in text for pair in parts["env"].items() for text in pair):
        raise ValueError("a policy worker set a variable that is none")
    return Plan(**parts, project=project)


# The worker


def answer(question: dict[str, Any], material: bytes) -> tuple[dict[str, Any], bytes]:
    """Handle a request. Returns the answer, and what is passed on."""
    scope = _scope(question["scope"])
    try:
        if question["what"] == "call":
            fields = Fields.decode(material)
            plan = plan_of(fields, scope)
            return {}, b"\n".join([kind_of(plan, fields, scope).value.encode(), pack(plan)])
        judged = ControlFilter(scope, question["prompt_addition"], question["servers"])
        judged.lines = question["lines"]
        passed, answered = judged.judge(material)
    except PolicyError as refusal:
        by_cli, first = isinstance(refusal, CliError), refusal.answer.decode()
        return {"refused": str(refusal), "kind": refusal.kind, "by_cli": by_cli, "answer": first}, b""
    except MemoryError:
        return {"refused": "it takes more memory than a request may", "kind": "memory"}, b""
    servers = sorted(judged.servers - set(question["servers"]))
    return {"answered": answered.decode(), "refusals": judged.refusals, "servers": servers}, passed


def _answer_all(sock: socket.socket) -> None:
    """Handle requests until the server closes the socket."""
    while True:
        data, files, _, _ = socket.recv_fds(sock, 16, 4)
        if not data or len(files) != 4:
            return
        signal.setitimer(signal.ITIMER_REAL, LIMIT_S)  # no handler: the alarm ends this process
        asked, material, answered, product = files
        found, passed = answer(json.loads(_read(asked)), _read(material))
        _write(product, passed)
        _write(answered, json.dumps(found).encode())
        del passed
        signal.setitimer(signal.ITIMER_REAL, 0)
        for descriptor in files:
            os.close(descriptor)
        sock.send(DONE)


def _read(descriptor: int) -> bytes:
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()


def _write(descriptor: int, data: bytes) -> None:
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)


def _confine() -> None:
    """Limit the resources of this worker."""
    for name, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, FILE), (resource.RLIMIT_NOFILE, 16)):
        resource.setrlimit(name, (most, most))
    with open("/proc/self/statm") as file:  # noqa: PTH123 - pathlib has no advantage here
        data = int(file.read().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (data + MEMORY, data + MEMORY))


def main(control: int) -> None:
    """Fork a worker for each socket that the server sends, until the server exits."""
    os.nice(NICE)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal also sends them to the server, which ends this process
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that workers need not be waited for
    for name in CODECS:
        codecs.lookup(name)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    asked = socket.socket(fileno=control)
    while True:
        data, files, _, _ = socket.recv_fds(asked, 16, 1)
        if not data:
            return
        if not os.fork():
            asked.close()
            _confine()
            with contextlib.suppress(BrokenPipeError), socket.socket(fileno=files[0]) as sock:
                _answer_all(sock)
            os._exit(0)
        for descriptor in files:
            os.close(descriptor)


if __name__ == "__main__":
    main(int(sys.argv[1]))
