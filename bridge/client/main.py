"""`claude-code` and `claude` in the container: run the host's Claude Code as if it were installed here.

Rules of this file: it starts in a few milliseconds (Python's `-IS`, no expensive imports), it blocks instead of
polling, and it ends with os._exit, because nothing needs cleaning up.

A call has three threads, and each blocks in one place only. This one reads the socket and writes stdout and stderr
in the order of arrival. One reads stdin while the server grants credit for it. One waits for signals and sends them
to the host. Commands that Claude runs here have their own threads: bridge/client/executor.py.
"""

from __future__ import annotations

import _thread
import os
import stat
import sys

from bridge.client import copies
from bridge.client.claude_md import project_memory

# ruff: noqa: PTH109 - pathlib costs the start 5 ms
from bridge.client.handshake import await_hello, connect, hello, receive, send
from bridge.client.project_files import nested, project_files
from bridge.protocol.errors import NO_CLI, FaultError
from bridge.protocol.frames import MAX_DATA, OF_SERVER, WINDOW, Event, Fields, Frame, ProtocolError, frame, resize
from bridge.protocol.link import CLIENT, Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    import signal as _signal
    from collections.abc import Callable

    from bridge.client.executor import Executor
    from bridge.client.terminal import Terminal
else:
    import _signal  # the same without the enumerations, which cost 3 ms

DEFAULT_SOCKET = "/host/claude-bridge.sock"

FORWARDED = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT)

LAST_SIGNAL = 3
"""At the third signal the client exits by itself, even if the host does not answer."""

ANSWER_S = 1.0
"""Seconds in which an Agent SDK sends its first request."""

MAX_VALUE = 256
"""Longest value of an environment variable that is always sent, bytes."""

DRAWN_MS = 30
"""Milliseconds without output after which a piece of the screen has come to its end. The CLI writes each at once."""

_KEEP_TITLE, _TITLE_BACK = b"\x1b[22;2t", b"\x1b[23;2t"
"""Let the terminal remember its title, and take the remembered one back."""

MAX_LONG_VALUE = 16 * 1024
MAX_LONG_VALUES = 64 * 1024
"""Longest value of a variable that MCP servers name (a token, for example), and all such values together, bytes."""


def main() -> None:
    """Make the call with the command line's arguments, and exit with its exit code."""
    _open_standard_files()
    path = os.environ.get("CLAUDE_BRIDGE_SOCKET") or DEFAULT_SOCKET
    argv = [os.fsencode(word) for word in sys.argv[1:]]
    try:
        code = (
            _answer_from_hello(path, argv[0])
            if len(argv) == 1 and argv[0] in _ANSWERED_BY_HELLO
            else _Call(path).run(argv)
        )
    except FaultError as fault:
        as_json = os.environ.get("CLAUDE_BRIDGE_ERRORS") == "json"
        _write_all(2, fault.report(path, as_json).encode("utf-8", "replace"))
        if any(word.endswith(b"stream-json") for word in argv) and _kind_of_stdin() == "pipe":
            _answer_request(fault)
        code = fault.code
    os._exit(code)


def _answer_request(fault: FaultError) -> None:
    """Answer the control request that an Agent SDK begins with, so that its exception carries the sentence."""
    import json
    import select

    data = b""
    try:
        while len(data) < MAX_DATA and b"\n" not in data and select.select([0], [], [], ANSWER_S)[0]:
            more = os.read(0, MAX_DATA)
            if not more:
                break
            data += more
        request = json.loads(data.partition(b"\n")[0])
        answer = {"subtype": "error", "request_id": request["request_id"], "error": f"bridge: {fault.text}"}
    except (OSError, ValueError, LookupError, TypeError):
        return  # ignored because stdin begins with something else, or with nothing
    _write_all(1, json.dumps({"type": "control_response", "response": answer}).encode() + b"\n")


def _open_standard_files() -> None:
    """Open /dev/null for closed standard descriptors, so that the socket does not get one of their numbers."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


_ANSWERED_BY_HELLO = {b"--version": b"", b"-v": b"", b"--help": b"help", b"-h": b"help"}


def _answer_from_hello(path: str, word: bytes) -> int:
    """Print the CLI's version or help. Both are part of the hello, so no process is started for them."""
    sock, link = connect(path), Link(CLIENT)
    want = _ANSWERED_BY_HELLO[word]
    send(sock, hello(link, want))
    answer = await_hello(sock, link)[0].fields
    if not answer.get("cli"):
        raise FaultError("no-cli", answer.text("problem"), NO_CLI)
    _write_all(1, answer.get("help") if want else answer.get("cli") + b"\n")
    return 0


def _write_all(fd: int, data: bytes) -> bool:
    """Write all bytes. Returns False if the reader has gone."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # another process made the descriptor non-blocking
            import select

            select.select([], [fd], [])
        except OSError:
            return False
    return True


class _Call:
    """One call, the only one on its connection."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._argv: list[bytes] = []
        self._link = Link(CLIENT)
        self._sock = connect(path)
        self._sending = _thread.allocate_lock()
        self._counting = _thread.allocate_lock()  # two threads change the link's credit
        self._credited = _thread.allocate_lock()
        self._credited.acquire()
        self._listening = {Frame.STDOUT: True, Frame.STDERR: True}
        self._consumed = {Frame.STDOUT: 0, Frame.STDERR: 0}
        self._number = 0
        self._prints_notes = False
        self._copies = b""
        self._told_hold = b""
        self._has_reported = False
        self._title = b""
        """What to write to the terminal's title: what the session waits for, or the title that it had before."""
        self._has_own_title = False
        self._executor: Executor | None = None
        self._terminal: Terminal | None = None
        self._feeding = _thread.allocate_lock()
        """Held while stdin is sent."""
        self._paused, self._pause = os.pipe()
        """What is written here stops the reading of the keyboard, or wakes a session that is asleep."""
        self._is_asleep = self._is_lost = False
        self._fresh: list[Event] | None = None
        """The first events of a new connection."""
        self._again = b""
        """How the session goes on after sleep; empty if it has not slept."""
        self._prompts = 0
        """Prompts that the session had before it slept."""
        self._keys: bytes | None = None
        """Keys for a session that is not ready for them yet. Its terminal would cut long ones, and change Enter."""
        self._last_output = b""
        self._drawn = 0
        """Bytes that the CLI has drawn since it started."""

    def run(self, argv: list[bytes]) -> int:
        """Make the call and return its exit code. Raises FaultError."""
        kind = _kind_of_stdin()
        self._argv = argv
        self._prints_notes = _wants_notes(argv)
        events = self._ask(kind)
        self._watch_signals()
        if kind in ("pipe", "file"):
            self._begin_feeding()
        try:
            code = self._follow(events)
        except FaultError:
            self._give_terminal_back(was_cut_off=True)
            raise
        finally:
            if self._executor is not None:
                self._executor.copies.remove()
        self._give_terminal_back(was_cut_off=self._is_asleep or self._wakes)
        return code

    def _ask(self, stdin: str) -> list[Event]:
        """Send the hello and the call. Returns the first events. Raises FaultError."""
        try:
            cwd = _directory()
            self._copies = copies.directory()
            asked = {**_circumstances(stdin, cwd), "copies": self._copies, "again": self._again or None}
            if self._again:
                asked["prompts"] = self._prompts
            below, large = nested(cwd)
            texts = project_files(cwd, below) + _texts_of_flags(self._argv)
            variables = _variables([*self._argv, *(text for _, text in texts)])
            project = texts + project_memory(cwd, below, is_excluded=_exclusion(self._argv, texts)) + large
            self._number, call = self._link.open(self._argv, variables, project, **asked)
        except ProtocolError as error:
            raise FaultError("usage", str(error)) from None
        # Sent together, so that the server can begin before this side has read its hello.
        send(self._sock, hello(self._link) + call)
        return await_hello(self._sock, self._link)

    def _follow(self, events: list[Event]) -> int:
        """Handle events until the call is over. Returns the exit code."""
        while True:
            for event in events:
                code = self._on(event)
                if code is not None:
                    return code
                if self._fresh is not None:
                    break
            if self._fresh is not None:
                events, self._fresh = self._fresh, None
                continue
            data = self._read()
            with self._counting:
                events = receive(self._link, data)

    def _read(self) -> bytes:
        if self._title and not self._is_readable():
            self._write_title()
        try:
            data = self._sock.recv(MAX_DATA + 64)
        except OSError:
            data = b""
        if not data:
            raise FaultError("lost", "the connection to the host broke in the middle of the call")
        return data

    def _send(self, data: bytes, sock: _socket.socket | None = None) -> None:
        with self._sending:
            send(sock or self._sock, data)

    # From the host

    def _on(self, event: Event) -> int | None:
        """Handle a frame. Returns the exit code if it ends the call."""
        if event.channel >= OF_SERVER:
            self._execute(event)
        elif event.kind in self._consumed:
            self._output(event.kind, event.payload)
        elif event.kind == Frame.CREDIT:
            self._wake()
        elif event.kind == Frame.STATE and event.fields.get("state") == b"asleep":
            self._again, self._prompts = event.fields.get("again"), event.fields.number("prompts")
            return self._sleep()
        elif event.kind == Frame.STATE:
            self._report_state(event.fields)
        elif event.kind == Frame.PING:
            self._send(frame(Frame.PONG, 0, event.payload))
        elif event.kind == Frame.ERROR:
            fault = FaultError.from_frame(event.fields)
            if self._wakes and fault.kind in PASSING:
                return self._sleep(fault.text)
            raise fault
        elif event.kind == Frame.EXIT:
            return None if self._begins_anew(event.fields) else _exit_code(event.fields)
        return None

    def _output(self, stream: int, data: bytes) -> None:
        if self._keys is not None and stream == Frame.STDOUT:
            self._look_for_prompt(data)
        if self._listening[stream]:
            # The reader may stop reading (`| head`). The call goes on, as with the host's own CLI.
            self._listening[stream] = _write_all(1 if stream == Frame.STDOUT else 2, data)
        self._consumed[stream] += len(data)
        if self._consumed[stream] >= WINDOW // 2:
            self._send(self._link.grant(self._number, stream, self._consumed[stream]))
            self._consumed[stream] = 0

    def _execute(self, event: Event) -> None:
        """Pass a frame to the executor of the commands that Claude runs here."""
        if self._executor is None:
            from bridge.client.executor import Executor

            sock = self._sock  # not that of a later connection
            self._executor = Executor(self._link, lambda data: self._send(data, sock), self._counting, self._copies)
        self._executor.on(event)

    def _report_state(self, state: Fields) -> None:
        """Handle the call's state: print notes and limits, take the terminal, suspend, or show the queue."""
        notes = state.all("limit") + (state.all("note") if self._prints_notes else [])
        for note in () if self._again else notes:
            _write_all(2, b"bridge: " + note + b"\n")
        if state.get("terminal"):
            self._take_terminal()
        elif state.get("state") == b"stopped":
            self._suspend()
        elif state.get("state") == b"drowsy":
            self._agree_to_sleep()
        elif state.get("state") == b"awake":
            self._begin_feeding()
        elif self._terminal is not None and state.get("state") == b"queued":
            # While a session that was woken waits for its start, Ctrl-C ends it. Enter stays Enter for what follows.
            self._terminal.take(has_signals=True)
            self._report_queue(state)
        elif self._terminal is not None:
            self._choose_title(state)
        elif os.isatty(2):
            self._report_queue(state)
        elif state.get("why"):
            self._report_hold(state)

    def _report_hold(self, state: Fields) -> None:
        """Print once why new work is held, and until when, although nobody may be at a terminal: it can be hours."""
        told = _waiting(state)
        if told != self._told_hold:
            self._told_hold = told
            _write_all(2, told + b"\n")

    def _report_queue(self, state: Fields) -> None:
        """Show on a terminal that the call waits in the queue. (Nothing is printed if stderr is no terminal.)"""
        if state.get("state") == b"queued":
            self._has_reported = True
            _write_all(2, b"\r\x1b[K" + _waiting(state, "; Ctrl-C ends it"))
        else:
            self._end_report()

    def _end_report(self) -> None:
        if self._has_reported:
            self._has_reported = False
            _write_all(2, b"\r\x1b[K")

    # The title of the terminal, as long as a session waits for its turn. Its screen belongs to the CLI.

    def _choose_title(self, state: Fields) -> None:
        if state.get("state") == b"waiting":
            self._title = b"\x1b]2;" + _waiting(state) + b"\x07"
        else:
            self._title = _TITLE_BACK if self._has_own_title else b""

    def _is_readable(self) -> bool:
        """Wait until there is more from the host, at most DRAWN_MS: a piece of the screen may not have come to its
        end."""
        import select

        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(DRAWN_MS))

    def _write_title(self) -> None:
        """Write the title. It is written again after each piece of the screen, because the CLI sets its own."""
        if self._title == _TITLE_BACK:
            _write_all(1, self._title)
            self._title, self._has_own_title = b"", False
        else:
            _write_all(1, self._title if self._has_own_title else _KEEP_TITLE + self._title)
            self._has_own_title = True

    # The terminal

    def _take_terminal(self) -> None:
        from bridge.client.terminal import Terminal

        self._end_report()
        if self._terminal is None:
            self._terminal, self._keys = Terminal(), b""
        self._terminal.take(has_signals=True)  # Ctrl-C ends a CLI that does not come up
        _write_all(1, TAKES_KEYS)  # what is pasted now is marked, too
        self._send_size()
        _thread.start_new_thread(self._give_up_waiting, (self._sock,))

    def _send_size(self) -> None:
        from bridge.client.terminal import size

        self._send(resize(self._number, *size()))

    def _suspend(self) -> None:
        """Handle Ctrl-Z: the CLI has stopped on the host, so this process stops too, and the shell takes over."""
        if self._terminal is not None:
            self._terminal.give_back()
            os.kill(os.getpid(), _signal.SIGTSTP)  # returns after the shell's `fg`, or at once without a shell
            self._terminal.take()
            self._send(frame(Frame.SIGNAL, self._number, bytes([_signal.SIGCONT])))
            self._send_size()

    def _give_terminal_back(self, was_cut_off: bool = False) -> None:
        if self._keys is not None and not was_cut_off:
            _write_all(1, NO_MARKS)
        if self._has_own_title:
            _write_all(1, _TITLE_BACK)
        if self._terminal is not None:
            self._terminal.give_back(was_cut_off)

    # Sleep

    def _agree_to_sleep(self) -> None:
        """Let the host end the CLI, unless a command has left something that runs here. The keyboard is not read from
        now on, so that no key goes to a CLI that ends."""
        if self._terminal is not None and not (self._executor is not None and self._executor.has_background):
            self._stop_feeding()
            self._send(frame(Frame.SIGNAL, self._number, bytes([_signal.SIGTSTP])))

    def _sleep(self, why: str = "") -> int | None:
        """Wait until somebody wants to go on with the session, and call again. Returns an exit code if the call is
        over instead. `why` says why the session could not go on. Raises FaultError."""
        from bridge.client.sleep import Sleeper

        assert self._terminal is not None
        kept, self._keys = self._keys or b"", None
        self._end_report()
        if not self._terminal.is_raw:
            self._terminal.take()
        if self._executor is not None:
            self._executor.copies.remove()
        sleeper = Sleeper(self._terminal, self._paused)
        self._is_asleep = True
        while True:
            keys = sleeper.wait(None if self._is_lost else self._sock, self._on_asleep, why)
            if isinstance(keys, int):
                return keys
            kept += keys
            try:
                self._connect_again()
                break
            except FaultError as fault:
                self._is_lost, why = True, fault.text
        self._is_asleep, self._keys, self._drawn = False, kept, 0
        return None

    def _on_asleep(self) -> int | None:
        """Handle what has come from the host while the session is asleep. Returns the exit code if the call is over.
        A host that goes away ends nothing: the session goes on when the host is back. Raises FaultError."""
        try:
            data = self._read()
            with self._counting:
                events = receive(self._link, data)
            for event in events:
                code = self._on(event)
                if code is not None:
                    return code
        except FaultError as fault:
            if fault.kind != "lost":
                raise
            self._is_lost = True
        return None

    def _connect_again(self) -> None:
        """Make a new connection, and on it the call again. Raises FaultError."""
        self._sock.close()  # ends the call that stands for the sleeping session
        self._link, self._executor, self._is_lost = Link(CLIENT), None, False
        self._listening = dict.fromkeys(self._listening, True)
        self._consumed = dict.fromkeys(self._consumed, 0)
        self._sock = connect(self._path)
        self._fresh = self._ask("tty")

    def _begins_anew(self, fields: Fields) -> bool:
        """Begin a new conversation if the earlier one could not be resumed. Returns whether that was so."""
        if not self._wakes or self._again in (b"same", b"new") or _exit_code(fields) != 1:
            return False
        _write_all(2, b"\r\nbridge: the conversation %s could not be resumed; this is a new one\r\n" % self._again)
        self._again = b"new"
        self._connect_again()
        return True

    @property
    def _wakes(self) -> bool:
        """Whether the session was woken and is not ready for keys yet."""
        return bool(self._again) and self._keys is not None

    def _look_for_prompt(self, data: bytes) -> None:
        """Pass the held keys on once the CLI takes keys: then it asks the terminal to mark what is pasted."""
        self._drawn += len(data)
        seen, self._last_output = self._last_output + data, data[-len(TAKES_KEYS) :]
        if TAKES_KEYS in seen:
            self._pass_keys_on()

    def _give_up_waiting(self, sock: _socket.socket) -> None:
        """Thread: pass the held keys on although the CLI does not look ready for them: it has drawn, and rests. It may
        be a command of the CLI's that reads lines."""
        import select

        before = 0
        while sock is self._sock and not self._is_asleep and self._keys is not None:
            select.select([], [], [], READY_S)
            if before and self._drawn == before:
                _write_all(1, NO_MARKS)
                self._pass_keys_on()
                return
            before = self._drawn

    def _pass_keys_on(self) -> None:
        with self._counting:
            keys, self._keys = self._keys, None
        if keys is not None and self._terminal is not None:
            self._terminal.take()
            self._begin_feeding(keys)

    # stdin

    def _begin_feeding(self, first: bytes = b"") -> None:
        """Start to send stdin, unless it is sent already. `first` is sent before what is read."""
        if self._feeding.acquire(blocking=False):
            _thread.start_new_thread(self._feed_until_paused, (first,))

    def _stop_feeding(self) -> None:
        """Stop to read stdin, and wait until nothing that was read is on the way."""
        os.write(self._pause, b"-")
        self._wake()
        with self._feeding:
            os.read(self._paused, 64)

    def _feed_until_paused(self, first: bytes) -> None:
        try:
            self._feed(first)
        finally:
            self._feeding.release()

    def _wake(self) -> None:
        """Wake the stdin thread, so that it checks its credit again."""
        if self._credited.locked():
            self._credited.release()

    def _feed(self, first: bytes) -> None:
        """Thread: send stdin to the host within the credit, and then its end."""
        data = b"-"
        while data:
            size = self._link.allowance(self._number, Frame.STDIN)
            if not size:
                self._credited.acquire()
                if self._terminal is not None and self._is_paused():
                    return
                continue
            if first:
                data, first = first[:size], first[size:]
            elif self._terminal is not None and self._is_paused(0):
                return
            else:
                try:
                    data = os.read(0, size)
                except BlockingIOError:
                    import select

                    select.select([0], [], [])
                    continue
                except OSError:
                    data = b""
            with self._counting:
                if self._number not in self._link.channels:
                    return
                sent = self._link.data(self._number, Frame.STDIN, data)
            self._send(sent)

    def _is_paused(self, *keyboard: int) -> bool:
        """Return whether stdin is to be read no longer. With the keyboard, wait until there is something to do."""
        import select

        return self._paused in select.select([self._paused, *keyboard], [], [], None if keyboard else 0)[0]

    # Signals

    def _watch_signals(self) -> None:
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        _signal.set_wakeup_fd(writing)
        for number in (*FORWARDED, _signal.SIGWINCH):
            if _signal.getsignal(number) != _signal.SIG_IGN:  # ignored signals stay ignored (nohup)
                _signal.signal(number, _ignore)
        _thread.start_new_thread(self._forward, (reading,))

    def _forward(self, reading: int) -> None:
        """Thread: send each signal to the host."""
        count = 0
        while True:
            for number in os.read(reading, 64):
                if number in FORWARDED:
                    count += 1
                    if count == LAST_SIGNAL or (self._is_asleep and self._is_lost):
                        self._give_terminal_back(was_cut_off=True)
                        os._exit(128 + number)
                    self._send(frame(Frame.SIGNAL, self._number, bytes([number])))
                elif number == _signal.SIGWINCH and self._is_asleep:
                    os.write(self._pause, b"-")  # somebody was attached
                elif number == _signal.SIGWINCH and self._terminal is not None:
                    self._send_size()


TAKES_KEYS = b"\x1b[?2004h"
"""What the CLI writes once it takes keys: it asks the terminal to mark what is pasted."""

PASSING = ("full", "login", "no-cli", "start", "stopping", "timeout")
"""Kinds of errors that may be over soon. A session that cannot go on because of one stays asleep."""

NO_MARKS = b"\x1b[?2004l"

READY_S = 5.0
"""Seconds without output after which a session gets the keys that were held for it, in any case."""


def _exit_code(fields: Fields) -> int:
    """Return the exit code for the end of a call: 128 more than a signal's number."""
    number = fields.number("signal")
    return 128 + number if number else fields.number("code", 125) & 255


def _waiting(state: Fields, more: str = "") -> bytes:
    """Return what is shown to a person whose call waits; `more` if it can be for long."""
    if state.get("why"):
        from bridge.protocol.moment import moment

        return f"bridge: {state.text('why')}; waiting until {moment(state.number('until'))}{more}".encode()
    ahead = state.number("ahead")
    place = b"next in line" if not ahead else b"1 call ahead" if ahead == 1 else b"%d calls ahead" % ahead
    return b"bridge: waiting for a turn, " + place


def _ignore(number: int, where: object) -> None:
    """Do nothing: the thread that reads the wake-up pipe handles the signal."""


def _kind_of_stdin() -> str:
    """Return the kind of stdin: `tty`, `file`, `pipe`, or `none`."""
    if os.isatty(0):
        return "tty"
    mode = os.fstat(0).st_mode
    if stat.S_ISREG(mode):
        return "file"
    return "pipe" if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else "none"


def _variables(texts: list[bytes]) -> dict[bytes, bytes]:
    """Return the environment. Long values are sent only if one of the texts names their variable: `${NAME}`.

    The server uses only the few variables that are safe, and for MCP servers those that their entries name.
    """
    left = MAX_LONG_VALUES
    sent = {}
    for name, value in os.environb.items():
        if len(value) > MAX_VALUE:
            if len(value) > min(left, MAX_LONG_VALUE) or not any(b"${" + name in text for text in texts):
                continue
            left -= len(value)
        sent[name] = value
    return sent


def _wants_notes(argv: list[bytes]) -> bool:
    """Return whether to print notes about what is left out: at a terminal, unless a program reads the output."""
    if os.environ.get("CLAUDE_BRIDGE_NOTES") == "always":
        return True
    return os.isatty(2) and not _JSON.intersection(argv)


_JSON = frozenset((b"json", b"stream-json", b"--output-format=json", b"--output-format=stream-json"))


def _directory() -> bytes:
    """Return the working directory. One that was removed has no name, unless the whole workspace was removed."""
    try:
        return os.getcwdb()
    except OSError:
        return b"/" if _has_workspace() else b"/workspace"


def _has_workspace() -> bool:
    try:
        return os.stat("/workspace").st_nlink > 0  # noqa: PTH116 - pathlib costs the start 5 ms
    except OSError:
        return False


def _texts_of_flags(argv: list[bytes]) -> list[tuple[str, bytes]]:
    """Return the fields with the texts of the files that flags name."""
    if not any(word.startswith(_FLAGS_WITH_FILES) for word in argv):
        return []
    from bridge.client.flag_files import flag_files

    return [("text", text) for text in flag_files(argv)]


def _exclusion(argv: list[bytes], texts: list[tuple[str, bytes]]) -> Callable[[bytes], bool]:
    """Return a function that says whether the settings exclude a CLAUDE.md file or a rule."""
    lines = {"file": 1, "text": 2}  # before the text of such a field
    sent = [text.split(b"\n", lines[name])[-1] for name, text in texts if name in lines and text]
    named = [text for text in [*sent, *argv] if b"claudeMdExcludes" in text]
    if not named:
        return lambda _: False
    from bridge.client.excludes import exclusion

    return exclusion(text.removeprefix(b"--settings=") for text in named)


_FLAGS_WITH_FILES = (b"--mcp-", b"--settings", b"--system-", b"--append-", b"--agents")


def _circumstances(stdin: str, cwd: bytes) -> dict[str, bytes | str | int | None]:
    stdout = "tty" if os.isatty(1) else "other"
    return {"cwd": cwd, "stdin": stdin, "stdout": stdout, "hands": 1}
