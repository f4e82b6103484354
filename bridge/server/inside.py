"""What runs in the CLI's namespace beside the CLI: read-only there, and alone, without the rest of the package.

    inside.py COMMAND             the CLI's shell prefix: hands COMMAND over and ends as it ended
    inside.py --net PORT -- CLI   gives the server a listener on this namespace's loopback, then becomes the CLI
    inside.py --tty -- CLI        makes the terminal the CLI's own, and tells when the CLI has stopped (Ctrl-Z)

A message is one packet of fields that end with NUL, the first of which says what is wanted; descriptors travel
beside it. The server answers a command with `exit N` or `signal N` and the directory in which it ended. When this
process is killed, its connection closes, and the server ends the command where it runs.
"""

# ruff: noqa: PTH109 - pathlib would cost every command 5 ms

from __future__ import annotations

import _socket
import os
import sys

SOCKET = os.environ.get("CLAUDE_BRIDGE_HANDS", "/opt/bridge/hands")
PASSED = (b"CLAUDECODE", b"CLAUDE_CODE_ENTRYPOINT", b"CLAUDE_CODE_SESSION_ID", b"CLAUDE_PROJECT_DIR", b"GIT_EDITOR")
"""What the CLI tells its commands about itself, and no secret is among it."""

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


def launch(words: list[str]) -> None:
    """Prepare the namespace, and become the CLI."""
    interactive = False
    while words[0] != "--":
        if words[0] == "--net":
            listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
            listener.bind(("127.0.0.1", int(words.pop(1))))
            listener.listen(64)
            sock = connect()
            send(sock, [b"net"], (listener.fileno(),))
            sock.recv(16)
            sock.close()
            listener.close()
        elif words[0] == "--tty":
            interactive = True
        words.pop(0)
    words.pop(0)
    if interactive:
        attend(words)
    os.execv(words[0], words)


def attend(words: list[str]) -> None:
    """Start the CLI as the terminal's foreground job, and follow it to its end."""
    import fcntl
    import signal

    os.dup2(0, 2)
    os.setsid()
    fcntl.ioctl(0, TIOCSCTTY, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    sock = connect()
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpid())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
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


if len(sys.argv) == 2:
    try:
        end(hand(os.fsencode(sys.argv[1])))
    except KeyboardInterrupt:
        end(-2)
else:
    launch(sys.argv[1:])
