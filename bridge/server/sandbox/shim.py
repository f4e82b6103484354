"""The program beside the CLI in its namespace: launcher, shell prefix, shell and git. It cannot import the rest of
bridge.

    shim.py COMMAND               the CLI's shell prefix: the server runs COMMAND in the container; this process ends
                                  with the same exit code or signal
    shim.py 'bridge-event NAME'   a hook of the bridge's own: tell the server what the session does
    bash -c 'shim.py COMMAND'     the same. The namespace has no shell: this program is installed in its place, and
                                  accepts only a command for the container
    git WORD...                   the same, for a git command line that only reads. The CLI asks git for the branch, the
                                  status and the last commits of the project. The container answers
    shim.py OPTION... -- CLI      prepares the namespace, then becomes the CLI:
        --at PATH DEV:INODE FD    exit unless PATH is this directory; close the descriptor used to mount it
        --apart                   mount in a namespace of its own from here on
        --fix PATH ro|rw          mount PATH on itself, so that nobody here can remove or rename it; ro: nor change it
        --from FD PATH            start in this open directory, which is called PATH
        --net PORT                listen on this namespace's loopback, and pass the listener to the server
        --as UID:GID              become this user permanently, without capabilities
        --drop                    lose all capabilities
        --in DIR                  change to DIR; exit unless it is in a directory of --at or --from
        --no-proc                 block the files in /proc that reveal facts about the CLI
        --only PROGRAM            the same, and allow no program to be executed except those named with --only
        --tty                     make the terminal the CLI's own, and report when the CLI has stopped (Ctrl-Z)

A message to the server is one packet of fields that end with NUL. The first field is its kind. Descriptors are sent
with it. The server answers a command with `exit N` or `signal N`, and the directory in which the command ended. If
this process is killed, its connection closes, and the server ends the command in the container. At TERM it asks the
server to end the command, and waits for that.
"""

# ruff: noqa: PTH109 - pathlib would cost every command 5 ms

from __future__ import annotations

import _socket
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SOCKET = os.environ.get("CLAUDE_BRIDGE_TOOLS", "/opt/bridge/tools")
PASSED = (
    b"AI_AGENT", b"CLAUDECODE", b"CLAUDE_CODE_CHILD_SESSION", b"CLAUDE_CODE_ENTRYPOINT",
    b"CLAUDE_CODE_SESSION_ATTENDED", b"CLAUDE_CODE_SESSION_ID", b"CLAUDE_EFFORT", b"CLAUDE_PROJECT_DIR",
    b"COREPACK_ENABLE_AUTO_PIN", b"GIT_EDITOR", b"NoDefaultCurrentDirectoryInExePath",
)  # fmt: skip
"""Variables that the CLI sets for its commands. None contains a secret."""

VARIABLES_FILE = b"CLAUDE_ENV_FILE"
EVENTS = (b"setup", b"sessionstart", b"cwdchanged", b"filechanged")
"""Hooks that may write variables for the commands that follow."""

MAX_FILES = 32
PEEKED = 65536
"""Bytes of a hook's input in which its conversation is looked for."""

ENDED_S = 3
"""How long a cancelled command may take to end, seconds. Then this process ends without its result."""

EVENT = b"bridge-event "
"""The start of the command of the bridge's own hooks. The name of the event follows."""
MAX_EVENT = 1 << 20
"""Bytes of an event's input. A longer one is not read as JSON: its name says enough."""

WRITTEN_MS = 300
"""How long a hook waits for its conversation to be written, ms."""

PLACE = b" && pwd -P >| "
SCM_RIGHTS = 1
TIOCSCTTY = 0x540E
FORWARDED = (1, 2, 3, 10, 12, 15, 18)


def connect() -> _socket.socket:
    """Connect to the server's socket for this call. Raises OSError."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    sock.connect(SOCKET)
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, 1 << 20)
    return sock


def send(sock: _socket.socket, fields: list[bytes], descriptors: tuple[int, ...] = ()) -> None:
    """Send one message."""
    numbers = b"".join(number.to_bytes(4, sys.byteorder) for number in descriptors)
    beside = [(_socket.SOL_SOCKET, SCM_RIGHTS, numbers)] if numbers else []
    sock.sendmsg([b"".join(field + b"\0" for field in fields)], beside)


def run_in_container(command: bytes, passed: tuple[bytes, ...] = PASSED) -> int:
    """Run the command in the container, with the variables in `passed`. Returns its exit code, or minus a signal."""
    at = command.rfind(PLACE)
    kind = b"run" if at >= 0 else b"sh"  # a hook or a server, which the CLI runs with /bin/sh
    place = command[at + len(PLACE) :].strip(b"'\"") if at >= 0 else b""
    if is_place(place):
        command = command[:at] + b" && pwd -P >&99"
    else:
        place = b""
    sock = connect()
    variables = [name + b"=" + os.environb[name] for name in passed if name in os.environb]
    back = os.environb.get(VARIABLES_FILE, b"") if passed is PASSED else b""
    if is_for_variables(back):
        variables.append(VARIABLES_FILE + b"=" + back)
    told = opened(command, kind == b"sh", back) if passed is PASSED else {}
    send(sock, [kind, command, os.getcwdb(), *variables, *told], (0, 1, 2, *told.values()))
    for descriptor in told.values():
        os.close(descriptor)
    on_term(lambda: send(sock, [b"cancel"]))
    answer = sock.recv(1 << 17)
    if not answer:
        os.write(2, b"bridge: the container has gone, and the command with it\n")
        return 125
    how, where, *more = answer.split(b"\0")[:-1]
    if place and where.startswith(b"/") and b"\n" not in where:
        write(place, where + b"\n")
    if more and is_for_variables(back):
        write(back, more[0])
    what, number = how.split()
    return int(number) if what == b"exit" else -int(number)


def run(command: bytes) -> int:
    """Run a command of the CLI's, or tell the server of an event. Returns the exit code, or minus a signal."""
    return tell(command[len(EVENT) :]) if command.startswith(EVENT) else run_in_container(command)


def tell(event: bytes) -> int:
    """Tell the server of an event of the session. Writes nothing, because the CLI would show it. Returns 0: an event
    that is not told is no reason to stop the session."""
    import json

    data = b""
    try:
        while len(data) < MAX_EVENT and (more := os.read(0, 65536)):
            data += more
        facts = json.loads(data)
        sock = connect()
        send(sock, [b"event", event, *(str(facts.get(name, ""))[:200].encode("ascii", "replace") for name in TOLD)])
    except (OSError, ValueError, AttributeError):
        return 0  # ignored because the server has gone, or the input is none of the CLI's
    return 0


TOLD = ("session_id", "source", "notification_type", "tool_name")
"""Fields of an event that the server is told."""


def on_term(cancel: Callable[[], None]) -> None:
    """Do this at the first TERM, and stay until the command has ended: it may have a handler of its own for TERM,
    whose output the CLI waits for. The container ends each command in less time than the alarm's."""
    import _signal  # type: ignore[import-not-found]  # signal without its enumerations, which cost 3 ms

    def handle(_number: int, _frame: object) -> None:
        _signal.signal(_signal.SIGTERM, _signal.SIG_IGN)
        _signal.alarm(ENDED_S)
        try:
            cancel()
        except OSError:
            return  # ignored because the server has gone, and the result never comes

    _signal.signal(_signal.SIGTERM, handle)


def write(path: bytes, data: bytes) -> None:
    """Write a small file of the CLI's."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    while data:
        data = data[os.write(descriptor, data) :]
    os.close(descriptor)


def is_for_variables(path: bytes) -> bool:
    """Return whether a path is where the CLI reads a hook's variables from. It puts their text in front of each
    command, and commands run in the container."""
    home = os.environb.get(b"CLAUDE_CONFIG_DIR", b"")
    directory, _, name = path.rpartition(b"/")
    event, _, number = name.partition(b"-hook-")
    session = directory.rpartition(b"/")[2].replace(b"-", b"")
    named = event in EVENTS and number.endswith(b".sh") and number[:-3].isdigit() and session.isalnum()
    return bool(home and named and directory.rpartition(b"/")[0] == home + b"/session-env")


def opened(command: bytes, is_hook: bool, back: bytes) -> dict[bytes, int]:
    """Open the CLI's own files that a command is told of: those that it names, the conversation of a hook, and the
    long results of this session. Returns the descriptors by path. The server brings copies to the container."""
    home, temporary = (os.environb.get(name, b"") for name in (b"CLAUDE_CONFIG_DIR", b"TMPDIR"))
    session = os.environb.get(b"CLAUDE_CODE_SESSION_ID", b"")
    if not home or not temporary:
        return {}
    starts = (home + b"/projects/", home + b"/plans/", temporary + b"/claude-")
    names = conversations() if is_hook else [name for start in starts for name in named(command, start)]
    if session.replace(b"-", b"").isalnum():
        names += [b"%s%s/%s/tool-results" % (starts[0], name, session) for name in listed(starts[0])]
    if is_for_variables(back):
        names.append(back)
    real = [os.path.realpath(start) for start in (*starts[:2], temporary)]
    found: dict[bytes, int] = {}
    for name in names:
        for path in [name, *(name + b"/" + below for below in listed(name))]:
            inside = any(os.path.realpath(path).startswith(start + b"/") for start in real) or path == back
            if path in found or len(found) == MAX_FILES or not inside:
                continue
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            except OSError:
                continue
            if os.fstat(descriptor).st_mode & 0o170000 == 0o100000:
                found[path] = descriptor
            else:
                os.close(descriptor)
    return found


def named(command: bytes, start: bytes) -> list[bytes]:
    """Return the paths in a command that begin with `start`. A pattern stands for its directory."""
    found = []
    at = command.find(start)
    while at >= 0:
        end = at
        while command[end : end + 1] not in (b"", *ENDS):
            end += 1
        path = command[at:end]
        found.append(path.rpartition(b"/")[0] if command[end : end + 1] in PATTERNS else path.rstrip(b"/"))
        at = command.find(start, end)
    return found[:MAX_FILES]


PATTERNS = (b"*", b"?", b"[", b"{")
ENDS = (*PATTERNS, b" ", b"\t", b"\n", b"'", b'"', b"`", b";", b"|", b"&", b"<", b">", b"(", b")", b"$", b"\\")


def conversations() -> list[bytes]:
    """Return the conversations that a hook's input names, without taking anything from it."""
    import select

    try:
        stdin = _socket.socket(fileno=0)
    except OSError:
        return []
    try:
        poll = select.poll()
        poll.register(0, select.POLLIN)
        text = stdin.recv(PEEKED, _socket.MSG_PEEK) if poll.poll(1000) else b""
    finally:
        stdin.detach()
    if not text.startswith(b'{"session_id":"'):
        return []
    keys = (b',"transcript_path":"', b',"agent_transcript_path":"')
    paths = [text.partition(key)[2].partition(b'"')[0] for key in keys if key in text]
    begins = any(b'"hook_event_name":"' + event + b'"' in text for event in (b"SessionStart", b"UserPromptSubmit"))
    for _ in range(0 if begins else WRITTEN_MS // 10):  # the CLI writes a new conversation a moment later
        if all(map(os.path.exists, paths)):
            break
        select.select([], [], [], 0.01)
    return paths


def listed(directory: bytes) -> list[bytes]:
    """Return the names in a directory; none if it is something else."""
    try:
        return sorted(os.listdir(directory))[:256]  # noqa: PTH208 - as above
    except OSError:
        return []


def is_place(path: bytes) -> bool:
    """Return whether a path is where the CLI reads a command's last directory from.

    The container writes the text of hooks and servers, and chooses the directory. Neither may name another file of
    the CLI.
    """
    directory, _, name = path.rpartition(b"/")
    middle = name[len(b"claude-") : -len(b"-cwd")]
    named = name.startswith(b"claude-") and name.endswith(b"-cwd") and middle.isalnum() and b"/." not in path
    home = os.environb.get(b"TMPDIR", b"")
    return bool(named and home and (directory + b"/").startswith(home + b"/"))


SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_@%+=:,./-")
"""Characters without a special meaning to a shell at any position."""


def unquoted(text: str) -> str | None:
    """Return the single word that a shell would read from the text; None if a shell would read anything else."""
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
    """Act as the shell: run a command for the container, and nothing else."""
    prefix = os.environ.get("CLAUDE_CODE_SHELL_PREFIX", "") + " "
    if words[:-1] in (["-c"], ["-c", "-l"]) and len(prefix) > 1 and words[-1].startswith(prefix):
        command = unquoted(words[-1][len(prefix) :])
        if command is not None:
            return run(os.fsencode(command))
    return 126


GIT_READS = frozenset(
    ("cat-file", "check-ignore", "describe", "diff", "for-each-ref", "log", "ls-files", "merge-base", "name-rev",
     "rev-list", "rev-parse", "show", "show-ref", "status", "version")
)  # fmt: skip
"""Commands of git that only read."""
GIT_QUESTIONS = {
    "branch": ("--show-current", "--list", "-a", "-r", "--all"),
    "config": ("--get", "--get-all", "--includes", "--list", "--local", "--global", "--null", "--worktree", "-z", "-l"),
    "remote": ("-v", "get-url", "--verbose"),
    "stash": ("list",),
    "symbolic-ref": ("-q", "--quiet", "--short"),
    "worktree": ("--porcelain", "list"),
}
"""Commands of git that only read with these words and at most one name besides; and they do need one of the two."""
GIT_VARIABLES = (b"GIT_OPTIONAL_LOCKS", b"GIT_TERMINAL_PROMPT", b"GIT_NO_LAZY_FETCH", b"GIT_NO_REPLACE_OBJECTS")


def git(words: list[str]) -> int:
    """Act as git: let the container answer a question about the project. Its answer is text, and only that."""
    if not only_reads(words):
        os.write(2, b"bridge: only commands of git that read are run for Claude Code itself\n")
        return 126
    command = "git " + " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)
    return run_in_container(os.fsencode(command), GIT_VARIABLES)


def only_reads(words: list[str]) -> bool:
    """Return whether a git command line changes nothing."""
    at = 0
    while words[at : at + 1] and words[at].startswith("-"):
        at += 2 if words[at] in ("-c", "-C", "--git-dir", "--work-tree") else 1
    command, rest = (words[at], words[at + 1 :]) if at < len(words) else ("", [])
    if command in GIT_QUESTIONS:
        names = [word for word in rest if word not in GIT_QUESTIONS[command]]
        return len(names) <= 1 and not any(name.startswith("-") for name in names) and bool(rest or command == "remote")
    return command in GIT_READS or (not command and words == ["--version"])


def launch(words: list[str]) -> None:
    """Prepare the namespace, and become the CLI."""
    import _signal

    for number in FORWARDED:  # a server started in the background may have inherited ignored signals
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
        "--apart": lambda: apart(),
        "--fix": lambda: fix(take(), take()),
        "--from": lambda: shared.append(begin(int(take()), take())),
        "--in": lambda: enter(take(), shared),
        "--as": lambda: become(*map(int, take().split(":"))),
        "--drop": lambda: drop(),
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
    """Exit unless `path` is the granted directory. bubblewrap used a name, which may now lead to another directory."""
    os.close(descriptor)
    found = os.lstat(path)
    if f"{found.st_dev}:{found.st_ino}" != identity:
        fail(b"moved")
    return path


def apart() -> None:
    """Mount in a namespace of this process's own user from here on. Without it, mounting fails, and says so."""
    libc("unshare", CLONE_NEWNS)


def fix(path: str, how: str) -> None:
    """Mount a path on itself. No link is followed, because a container may put some there.

    The descriptors are closed: they lead to what is below the new mount, where all can be written.
    """
    done = -1
    try:
        at = reach(path)
        done = mount(at, at, MS_BIND | MS_REC)
        os.close(at)
        if not done and how == "ro":
            at = reach(path)
            found = os.fstatvfs(at).f_flag  # the kernel refuses to take one of these away
            kept = found & KEPT_FLAGS | (MS_RELATIME if found & ST_RELATIME else 0)
            done = mount(None, at, MS_REMOUNT | MS_BIND | MS_RDONLY | kept)
            os.close(at)
    except OSError:
        done = -1
    if done:
        fail(b"moved")


def reach(path: str) -> int:
    """Open a path without following links. Raises OSError."""
    at = os.open("/", os.O_PATH)
    for name in path.split("/")[1:]:
        above, at = at, -1
        try:
            at = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=above)
        finally:
            os.close(above)
    if os.fstat(at).st_mode & 0o170000 == 0o120000:
        raise OSError
    return at


def mount(source: int | None, target: int, flags: int) -> int:
    """Call mount for open files. Returns 0 if it worked."""
    name = None if source is None else b"/proc/self/fd/%d" % source
    return libc("mount", name, b"/proc/self/fd/%d" % target, None, flags, None)


def begin(descriptor: int, path: str) -> str:
    """Change to an open directory; used without a namespace."""
    try:
        os.fchdir(descriptor)
    except OSError:
        fail(b"nowhere")
    os.close(descriptor)
    return path


def enter(directory: str, shared: list[str]) -> None:
    """Change to the call's directory. This is done as the call's user, and while no descriptor of the host is open
    that a link could lead through."""
    try:
        os.chdir(directory)
        real = os.getcwd()
    except OSError:
        real = ""
    if not any((real + "/").startswith(place + "/") for place in shared):
        fail(b"nowhere")
    os.environ["PWD"] = directory if directory.startswith("/") else real


def fail(why: bytes) -> None:
    """Report to the server why the CLI is not started, and exit."""
    sock = connect()
    send(sock, [b"failed", why])
    sock.recv(16)  # wait until the server has received it and closes the connection
    os._exit(125)


def listen(port: int) -> None:
    """Listen on this namespace's loopback, and pass the listener to the server."""
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
"""Rights to read, write, make and remove files, as in Landlock's first version."""


CLONE_NEWNS = 1 << 17
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_RELATIME, ST_RELATIME = 1 << 0, 1 << 5, 1 << 12, 1 << 14, 1 << 21, 1 << 12
KEPT_FLAGS = 0b1110 | 3 << 10
"""Flags of a mount with the same number in statvfs and in mount: nosuid, nodev, noexec, noatime, nodiratime."""

OF_PROC = ("cpuinfo", "meminfo", "self/maps", "self/stat", "self/statm", "self/status", "stat", "version")
"""Files in /proc that programs read about the machine and themselves. They reveal nothing sensitive, and programs
also work without them."""


def libc(name: str, *arguments: int | bytes | None) -> int:
    """Call a function of the C library. Importing ctypes, which is based on this module, takes 1.4 ms more."""
    import _ctypes

    function = _ctypes.dlsym(_ctypes.dlopen(None, os.RTLD_NOW), name)  # type: ignore[arg-type]  # None is this process
    return int(_ctypes.call_function(function, arguments))


def become(uid: int, gid: int) -> None:
    """Become this user permanently, without capabilities. Root without them is like any other user, except for its
    own files."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    for capability in range(LAST_CAPABILITY + 1):
        libc("prctl", PR_CAPBSET_DROP, capability, 0, 0, 0)  # ignored if there is no such capability
    os.setresuid(uid, uid, uid)
    drop()


def drop() -> None:
    """Lose all capabilities. The launcher has no way to get one back: restrict() forbids new privileges."""
    if libc("capset", CAPABILITY_VERSION.to_bytes(4, sys.byteorder) + bytes(4), bytes(24)):
        os._exit(125)


def restrict(only: list[str], closed: bool) -> None:
    """Use Landlock: allow only these programs to be executed, and only a few files in /proc to be read.

    Without programs in `only`, any may be executed. If `closed` is false as well, nothing changes.

    The kernel's other files about the CLI (variables, arguments, memory, mounts) contain data of the operator.
    Files that are not below the namespace's root belong to the host; they can be neither read nor written. Without
    Landlock, the protection is the CLI's own rule against /proc, and that the namespace contains no other programs.
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
    """Start the CLI as the terminal's foreground job, and wait until it ends. Does not return."""
    import fcntl
    import signal

    os.dup2(0, 2)
    if os.getsid(0) != os.getpid():  # without a namespace this process already leads a session
        os.setsid()
    fcntl.ioctl(0, TIOCSCTTY, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    sock = connect()
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpid())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        restrict(only, closed)  # here, because the rules for /proc allow only this process's own files
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
    """Exit with the code or the signal of another process."""
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
    elif sys.argv[0].rpartition("/")[2] == "git":
        end(git(sys.argv[1:]))
    elif len(sys.argv) == 2:
        end(run(os.fsencode(sys.argv[1])))
    else:
        launch(sys.argv[1:])
except KeyboardInterrupt:
    end(-2)
