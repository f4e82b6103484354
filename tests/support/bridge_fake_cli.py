#!/usr/bin/python3 -IS
"""A program that takes the place of the host's Claude Code, and does what its prompt says.

The prompt is a list of steps, separated by semicolons: `out TEXT`, `err TEXT`, `report`, `cat`, `lines`, `flood N`,
`halves`, `drip N`, `wait`, `ready`, `ignore`, `orphan FILE`, `touch FILE`, `list DIR`, `walk`, `exit N`, `die N`,
`hands N` (N commands through the shell prefix, and their median seconds), `handed` (one such command, and its exit
code).
"""

# It must start as fast as possible.
# ruff: noqa: PTH109, PTH112, PTH115, PTH123, PTH208, SIM115

import json
import os
import signal
import sys
import time

VERSION = b"9.9.9 (Claude Code)"
CHUNK = 65536


def main() -> None:
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        put(1, VERSION + b"\n")
    elif arguments == ["--help"]:
        put(1, b"Usage: claude\n")
    elif "--input-format=stream-json" in arguments:
        copy_lines()
    else:
        for step in arguments[arguments.index("--") + 1].strip("\n").split(";"):
            name, _, rest = step.strip().partition(" ")
            STEPS[name](rest)


def put(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def report(_: str) -> None:
    """Return everything that the program can see of its own start."""
    facts = {
        "argv": [os.fsencode(word).hex() for word in sys.argv[1:]],
        "env": dict(os.environ),
        "cwd": os.getcwd(),
        "ids": [os.getuid(), os.getgid(), os.getgroups()],
        "root": sorted(os.listdir("/")),
        "fds": descriptors(),
        "capabilities": [line for line in open("/proc/self/status") if line.startswith("Cap")],
        "memory": read(os.environ["CLAUDE_CONFIG_DIR"] + "/CLAUDE.md"),
    }
    put(1, json.dumps(facts).encode())


def descriptors() -> dict[str, str]:
    """Return the open descriptors, without that of the directory being read."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
    return found


def read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def copy(_: str) -> None:
    """Copy stdin to stdout, and write its length to stderr."""
    count = 0
    while data := os.read(0, CHUNK):
        count += len(data)
        put(1, data)
    put(2, b"%d" % count)


def copy_lines(_: str = "") -> None:
    for line in sys.stdin.buffer:
        put(1, line)


def flood(size: str) -> None:
    block = bytes(range(256)) * 1024
    left = int(size)
    while left > 0:
        put(1, block[:left])
        left -= len(block)


def halves(_: str) -> None:
    """Write characters whose bytes come one at a time."""
    for byte in "naïve \U0001f600 ü".encode():
        put(1, bytes([byte]))
        time.sleep(0.005)


def drip(count: str) -> None:
    for number in range(int(count)):
        put(1, b"%d\n" % number)
        time.sleep(0.02)


def wait(_: str = "") -> None:
    while True:
        signal.pause()


def ignore(_: str) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def orphan(name: str) -> None:
    """Leave a process that has another group and no living parent. It appends to a file as long as it runs."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            ignore("")
            while True:
                with open(name, "a") as file:
                    file.write(".")
                time.sleep(0.02)
        os._exit(0)


def die(number: str) -> None:
    os.kill(os.getpid(), int(number))


def touch(name: str) -> None:
    with open(name, "w") as file:
        file.write("here")


def hands(count: str) -> None:
    prefix = os.environ["CLAUDE_CODE_SHELL_PREFIX"]
    taken = []
    for _ in range(int(count)):
        begun = time.monotonic()
        os.waitpid(os.posix_spawn(prefix, [prefix, "true"], os.environ), 0)
        taken.append(time.monotonic() - begun)
    put(1, b"%f" % sorted(taken)[len(taken) // 2])


def listing(name: str) -> None:
    put(1, json.dumps(sorted(os.listdir(name))).encode())


def walk(_: str) -> None:
    """Try to run every program in PATH, and some that are not in PATH. Returns how each attempt ended."""
    ended = {}
    folders = [*os.environ["PATH"].split(":"), "/sbin", "/usr/sbin", "/usr/local/bin", "/usr/games", "/workspace"]
    for folder in [*folders, "/usr/lib/git-core", "/usr/libexec", "/opt/bridge", "/opt/python/bin"]:
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            ended[f"{folder}/{name}"] = run(f"{folder}/{name}")
    put(1, json.dumps(ended).encode())


def run(program: str) -> object:
    try:
        pid = os.posix_spawn(program, [program, "-c", "exit 0"], os.environ)
    except OSError as error:
        return error.strerror
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def hog(size: str) -> None:
    """Take so many MiB in this process and as many in a child, and keep them."""
    os.fork()
    taken = bytearray(int(size) << 20)
    taken[::4096] = b"x" * len(taken[::4096])
    wait()


def handed(_: str) -> None:
    """Return the exit code of one command through the shell prefix, as the CLI sees it."""
    prefix = os.environ["CLAUDE_CODE_SHELL_PREFIX"]
    how = os.waitpid(os.posix_spawn(prefix, [prefix, "true"], os.environ), os.WUNTRACED)[1]
    put(1, b"stopped" if os.WIFSTOPPED(how) else b"%d" % os.waitstatus_to_exitcode(how))


STEPS = {
    "handed": handed,
    "hands": hands,
    "hog": hog,
    "out": lambda text: put(1, text.encode()),
    "err": lambda text: put(2, text.encode()),
    "ready": lambda _: put(1, b"ready\n"),
    "report": report,
    "cat": copy,
    "lines": copy_lines,
    "flood": flood,
    "halves": halves,
    "drip": drip,
    "wait": wait,
    "ignore": ignore,
    "orphan": orphan,
    "touch": touch,
    "walk": walk,
    "list": listing,
    "exit": lambda code: os._exit(int(code)),
    "die": die,
}

main()
