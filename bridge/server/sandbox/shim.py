"""The program beside the CLI in its namespace: launcher, shell prefix and shell. It cannot import the rest of bridge.

    shim.py COMMAND               the CLI's shell prefix: hands COMMAND over and ends as it ended
    bash -c 'shim.py COMMAND'     the same: there is no shell in the namespace, this program stands where the CLI
                                  looks for one, and takes nothing but a command for the container
    shim.py OPTION... -- CLI      prepares the namespace, then becomes the CLI:
        --at PATH DEV:INODE FD    end unless PATH is this directory; close the descriptor that it was mounted by
        --from FD PATH            begin in this open directory, known as PATH
        --net PORT                give the server a listener on this namespace's loopback
        --as UID:GID              become this user, for good and without capabilities
        --in DIR                  go there; end unless it is a directory of those of --at
        --no-proc                 read nothing in /proc that tells of the CLI
        --only PROGRAM            the same; and run no other program (but those of further --only)
        --tty                     make the terminal the CLI's own, and tell when the CLI has stopped (Ctrl-Z)

A message to the server is one packet of fields that end with NUL. The first field is its kind; descriptors travel with
it. The server answers a command with `exit N` or `signal N`, and the directory in which it ended. When this process is
killed, its connection closes, and the server ends the command in the container.
"""

# ruff: noqa: PTH109 - pathlib would cost every command 5 ms

from __future__ import annotations

import _socket
import os
import sys

SOCKET = os.environ.get("CLAUDE_BRIDGE_HANDS", "/opt/bridge/hands")
PASSED = (b"CLAUDECODE", b"CLAUDE_CODE_ENTRYPOINT", b"CLAUDE_CODE_SESSION_ID", b"CLAUDE_PROJECT_DIR", b"GIT_EDITOR")
"""Variables that the CLI sets for its commands. None holds a secret."""

PLACE = b" && pwd -P >| "
SCM_RIGHTS = 1
TIOCSCTTY = 0x540E
FORWARDED = (1, 2, 3, 10, 12, 15, 18)


def connect() -> _socket.socket:
    """The server's socket for this call."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    sock.connect(SOCKET)
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, 1 << 20)
    return sock


def send(sock: _socket.socket, fields: list[bytes], descriptors: tuple[int, ...] = ()) -> None:
    """One message."""
    numbers = b"".join(number.to_bytes(4, sys.byteorder) for number in descriptors)
    beside = [(_socket.SOL_SOCKET, SCM_RIGHTS, numbers)] if numbers else []
    sock.sendmsg([b"".join(field + b"\0" for field in fields)], beside)


def hand(command: bytes) -> int:
    """Have the command run in the container; its exit code, or minus a signal."""
    at = command.rfind(PLACE)
    place = command[at + len(PLACE) :].strip(b"'\"") if at >= 0 else b""
    if is_place(place):
        command = command[:at] + b" && pwd -P >&99"
    else:
        place = b""
    sock = connect()
    variables = [name + b"=" + os.environb[name] for name in PASSED if name in os.environb]
    send(sock, [b"run", command, os.getcwdb(), *variables], (0, 1, 2))
    answer = sock.recv(65536)
    if not answer:
        os.write(2, b"bridge: the container has gone, and the command with it\n")
        return 125
    how, where = answer.split(b"\0")[:2]
    if place and where.startswith(b"/") and b"\n" not in where:
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        os.write(descriptor, where + b"\n")
        os.close(descriptor)
    kind, number = how.split()
    return int(number) if kind == b"exit" else -int(number)


def is_place(path: bytes) -> bool:
    """Whether it is where the CLI itself reads a command's last directory from.

    Hooks and servers are the container's words, and so is the directory: neither may name another file of the CLI's.
    """
    directory, _, name = path.rpartition(b"/")
    middle = name[len(b"claude-") : -len(b"-cwd")]
    named = name.startswith(b"claude-") and name.endswith(b"-cwd") and middle.isalnum() and b"/." not in path
    home = os.environb.get(b"TMPDIR", b"")
    return bool(named and home and (directory + b"/").startswith(home + b"/"))


SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_@%+=:,./-")
"""Characters that mean themselves to a shell wherever they stand."""


def unquoted(text: str) -> str | None:
    """The one word that a shell would make of the text; None when it would make anything else of it."""
    word, at = [], 0
    while at < len(text):
        char = text[at]
        if char == "'":
            end = text.find("'", at + 1)
            if end < 0:
                return None
            word.append(text[at + 1 : end])
        elif char == '"':
            end = at + 1
            while text[end : end + 1] not in ('"', ""):
                end += 2 if text[end] == "\\" else 1
            inner = text[at + 1 : end]
            if text[end : end + 1] != '"' or any(special in inner for special in "$`\\!"):
                return None
            word.append(inner)
        elif char == "\\" and text[at + 1 : at + 2] not in ("", "\n"):
            end = at + 1
            word.append(text[end])
        elif char in SAFE:
            end = at
            word.append(char)
        else:
            return None
        at = end + 1
    return "".join(word) if text else None


def shell(words: list[str]) -> int:
    """Stand in for a shell: hand the command for the container over, and run nothing else."""
    prefix = os.environ.get("CLAUDE_CODE_SHELL_PREFIX", "") + " "
    if words[:-1] in (["-c"], ["-c", "-l"]) and len(prefix) > 1 and words[-1].startswith(prefix):
        command = unquoted(words[-1][len(prefix) :])
        if command is not None:
            return hand(os.fsencode(command))
    return 126


def launch(words: list[str]) -> None:
    """Prepare the namespace, and become the CLI."""
    import _signal  # type: ignore[import-not-found]  # signal without its enumerations, which cost 3 ms

    for number in FORWARDED:  # a server that was started in the background may have been told to ignore some
        _signal.signal(number, _signal.SIG_DFL)
    flags: set[str] = set()
    only: list[str] = []
    shared: list[str] = []

    def take() -> str:
        return words.pop(0)

    options = {
        "--tty": lambda: flags.add("--tty"),
        "--no-proc": lambda: flags.add("--no-proc"),
        "--net": lambda: listen(int(take())),
        "--at": lambda: shared.append(make_sure(take(), take(), int(take()))),
        "--from": lambda: shared.append(begin(int(take()), take())),
        "--in": lambda: enter(take(), shared),
        "--as": lambda: become(*map(int, take().split(":"))),
        "--only": lambda: only.append(take()),
    }
    while (option := take()) != "--":
        if option not in options:
            os._exit(126)
        options[option]()
    closed = "--no-proc" in flags
    if "--tty" in flags:
        attend(words, only, closed)
    restrict(only, closed)
    os.execv(words[0], words)


def make_sure(path: str, identity: str, descriptor: int) -> str:
    """End unless the path is the directory that was granted: bubblewrap went by a name, which may lead elsewhere."""
    os.close(descriptor)
    found = os.lstat(path)
    if f"{found.st_dev}:{found.st_ino}" != identity:
        fail(b"moved")
    return path


def begin(descriptor: int, path: str) -> str:
    """Go to an open directory, without a namespace."""
    try:
        os.fchdir(descriptor)
    except OSError:
        fail(b"nowhere")
    os.close(descriptor)
    return path


def enter(directory: str, shared: list[str]) -> None:
    """Go to the call's directory: as its user, and when nothing of the host's is open that a link could name."""
    try:
        os.chdir(directory)
        real = os.getcwd()
    except OSError:
        real = ""
    if not any((real + "/").startswith(place + "/") for place in shared):
        fail(b"nowhere")
    os.environ["PWD"] = directory if directory.startswith("/") else real


def fail(why: bytes) -> None:
    """Report to the server why the CLI is not started, and end."""
    sock = connect()
    send(sock, [b"failed", why])
    sock.recv(16)  # until the server has received it, and hangs up
    os._exit(125)


def listen(port: int) -> None:
    """Give the server a listener on this namespace's loopback."""
    listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", port))
    listener.listen(64)
    sock = connect()
    send(sock, [b"net"], (listener.fileno(),))
    sock.recv(16)
    sock.close()
    listener.close()


PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38
LAST_CAPABILITY, CAPABILITY_VERSION = 63, 0x20080522
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""Landlock's system calls, the same on every architecture."""
EXECUTE, READ_FILE, READ_DIR, REFER, TRUNCATE = 1 << 0, 1 << 2, 1 << 3, 1 << 13, 1 << 14
FILES = (1 << 13) - 1 - EXECUTE
"""Reading, writing, making and removing, of Landlock's first version."""


OF_PROC = ("cpuinfo", "meminfo", "self/maps", "self/stat", "self/statm", "self/status", "stat", "version")
"""What programs read of the machine and of themselves; it tells nothing of anyone. They go on without it, too."""


def libc(name: str, *arguments: int | bytes | None) -> int:
    """Call a function of the C library. The package ctypes, of which this is the ground, takes 1.4 ms more."""
    import _ctypes

    function = _ctypes.dlsym(_ctypes.dlopen(None, os.RTLD_NOW), name)  # type: ignore[arg-type]  # None is this process
    return int(_ctypes.call_function(function, arguments))


def become(uid: int, gid: int) -> None:
    """Become this user for good, without capabilities. Root without them is like any user, but for its own files."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    for capability in range(LAST_CAPABILITY + 1):
        libc("prctl", PR_CAPBSET_DROP, capability, 0, 0, 0)  # ignored where there is no such capability
    os.setresuid(uid, uid, uid)
    if libc("capset", CAPABILITY_VERSION.to_bytes(4, sys.byteorder) + bytes(4), bytes(24)):
        os._exit(125)


def restrict(only: list[str], closed: bool) -> None:
    """By Landlock: run these programs alone, and read nothing in /proc but a few files, whatever leads there.

    With no program named, any may be run; with nothing `closed` either, nothing changes.

    What the kernel tells in the others of the CLI (variables, arguments, memory, mounts) is the operator's. What does
    not lie below the namespace's root, and so is the host's, is neither read nor written. Without Landlock there is the
    CLI's own rule against /proc, and nothing to run but what is listed.
    """
    version = libc("syscall", CREATE_RULESET, None, 0, 1)
    if version < 1 or not (only or closed):
        return
    moving = REFER if version > 1 else 0
    handled = FILES | moving | (TRUNCATE if version > 2 else 0) | (EXECUTE if only else 0)
    rules = libc("syscall", CREATE_RULESET, handled.to_bytes(8, sys.byteorder), 8, 0)

    def allow(path: str, rights: int) -> None:
        descriptor = os.open(path, os.O_PATH)
        rule = rights.to_bytes(8, sys.byteorder) + descriptor.to_bytes(4, sys.byteorder)
        libc("syscall", ADD_RULE, rules, 1, rule, 0)
        os.close(descriptor)

    allow("/", moving | READ_DIR)
    for name in os.listdir("/"):  # noqa: PTH208 - as above
        if name != "proc":
            allow("/" + name, handled & ~EXECUTE)
    for name in OF_PROC:
        allow("/proc/" + name, READ_FILE)
    for path in only:
        allow(path, EXECUTE | READ_FILE)
    libc("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc("syscall", RESTRICT_SELF, rules, 0):
        os.write(2, b"bridge: the kernel refuses to restrict Claude Code\n")
        os._exit(125)
    os.close(rules)


def attend(words: list[str], only: list[str], closed: bool) -> None:
    """Start the CLI as the terminal's foreground job, and follow it to its end."""
    import fcntl
    import signal

    os.dup2(0, 2)
    if os.getsid(0) != os.getpid():  # without a namespace it is a session's leader already
        os.setsid()
    fcntl.ioctl(0, TIOCSCTTY, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    sock = connect()
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpid())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        restrict(only, closed)  # here, because what it may read of /proc is this process's own
        os.execv(words[0], words)
    for number in FORWARDED:
        signal.signal(number, lambda number, _: os.kill(child, number))
    while True:
        _, how = os.waitpid(child, os.WUNTRACED)
        if not os.WIFSTOPPED(how):
            break
        send(sock, [b"stopped"])
    end(-os.WTERMSIG(how) if os.WIFSIGNALED(how) else os.WEXITSTATUS(how))


def end(code: int) -> None:
    """End as someone else has ended."""
    if code < 0:
        import signal

        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
        os._exit(128 - code)
    os._exit(code)


try:
    if sys.argv[0].rpartition("/")[2] in ("bash", "sh"):
        end(shell(sys.argv[1:]))
    elif len(sys.argv) == 2:
        end(hand(os.fsencode(sys.argv[1])))
    else:
        launch(sys.argv[1:])
except KeyboardInterrupt:
    end(-2)
