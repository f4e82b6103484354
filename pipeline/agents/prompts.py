"""Give a text to the program in an agent's tmux session, as if a person pasted it and pressed Enter.

For an interactive session of Claude, the bridge's status tells when the prompt was taken. Nothing is typed while it
waits for a person: the text could be the answer to a question.
"""

from __future__ import annotations

import re
import subprocess
import uuid

import docker

from pipeline.agents import overview, ps, states
from pipeline.agents.logs import plain
from pipeline.errors import NO_DOCKER_COMMAND, Problem
from pipeline.waiting import wait_until

LONGEST = 1 << 20
"""Bytes of a text."""
ANSWER_S = 20
"""tmux needs milliseconds; a container with a fork bomb never answers."""
TAKEN_S = 60.0
AGAIN_S = 3.0
"""A paste is drawn before Enter counts. Enter is pressed again where a session still idles after so long."""
INTERACTIVE = "interactive"
UNWANTED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]")

FIND = """/usr/bin/tmux list-panes -s -t =agent: -F '#{window_active}#{pane_active} #{pane_id} #{pane_tty}' |
while read -r active pane tty; do
    case $active in 11) echo "active $pane" ;; esac
    /usr/bin/ps -o stat=,args= -t "$tty" | /usr/bin/grep -Eq '^[^ ]*[+].*[/ ]claude(-code)?( |$)' && echo "claude $pane"
done; :"""
"""Prints the panes of the agent's session: the one that people see, and those with Claude in the foreground."""
PASTE = """/usr/bin/tmux load-buffer -b "$1" - && exec /usr/bin/tmux paste-buffer -dp -b "$1" -t "$2" """
PRESS = """exec /usr/bin/tmux send-keys -t "$1" Enter"""


def checked(text: str) -> str:
    """Return the text as it can be pasted. Raises a `Problem` for what is no text for a prompt."""
    text = text.replace("\r\n", "\n").rstrip("\n")
    if not text.strip():
        raise Problem("the text is empty, so nothing was sent", 64)
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise Problem("the text is not UTF-8, so nothing was sent", 64) from None
    if size > LONGEST:
        raise Problem(f"the text has more than {LONGEST:,} bytes, so nothing was sent; put it into a file there", 64)
    if found := UNWANTED.search(text):
        raise Problem(
            f"the text holds the control character {found[0]!a}, which a terminal takes for a key, so nothing was "
            "sent; take it out",
            64,
        )
    return text


def send(client: docker.DockerClient, name: str, text: str, limit_s: float = TAKEN_S) -> str:
    """Give a text to the agent's program. Returns one line that says who took it."""
    text = checked(text)
    container = ps.require(client, name)
    if container.status != "running":
        raise Problem(
            f"agent {name} does not run ({container.status}), so nothing was sent; run `{ps.up_again(container)}`"
        )
    call = _session(client, name)
    if call is None:
        _type(name, text, _pane(name, has_claude=False))
        return f"agent {name}: the text is typed into its pane"
    if call.state == states.WAITING_FOR_PERSON:
        raise Problem(
            f"agent {name} waits for a person ({call.waits_for}), and the text could be taken for the answer, so "
            f"nothing was sent; answer with `bin/invoke agents.attach {name}`"
        )
    pane = _pane(name, has_claude=True)
    if call.state == states.ASLEEP:
        call = _wake(client, name, pane, limit_s)
    _type(name, text, pane)
    _wait_until_taken(client, name, call, pane, limit_s)
    return f"agent {name}: its Claude has taken the prompt"


def _session(client: docker.DockerClient, name: str) -> states.Call | None:
    """Return the interactive session of the agent's Claude; the one that changed last, where there are several."""
    found = overview.some(client, [name])[name]
    own = [call for call in (found.calls if found else ()) if call.kind == INTERACTIVE and not call.nested]
    return max(own, key=lambda call: call.since, default=None)


def _wake(client: docker.DockerClient, name: str, pane: str, limit_s: float) -> states.Call:
    _in(name, PRESS, pane)
    awake: list[states.Call] = []

    def is_awake() -> bool:
        call = _session(client, name)
        awake[:] = [call] if call and call.state not in (states.ASLEEP, states.STARTING) else []
        return bool(awake)

    wait_until(
        is_awake,
        limit_s,
        f"the Claude of agent {name} sleeps and did not wake within {limit_s:.0f} s; nothing was sent",
    )
    return awake[0]


def _wait_until_taken(client: docker.DockerClient, name: str, before: states.Call, pane: str, limit_s: float) -> None:
    """Wait until the session has one more prompt. Enter is pressed again only while it idles: no question is open."""
    late = (
        f"the text is on the screen of agent {name}, and its Claude has not taken it within {limit_s:.0f} s; look "
        f"with `bin/invoke agents.attach {name}`"
    )

    def is_taken() -> bool:
        call = _session(client, name)
        if call is None:
            raise Problem(f"the Claude of agent {name} ended before it took the text")
        if call.session is None:  # its hooks are off, so nobody counts its prompts
            return before.state == states.IDLE and call.state in (states.WORKING, states.WAITING_FOR_TURN)
        return call.prompts > before.prompts

    waited = 0.0
    while True:
        step = min(AGAIN_S, limit_s - waited)
        try:
            wait_until(is_taken, step, late)
        except Problem as problem:
            waited += step
            call = _session(client, name)
            if str(problem) != late or waited >= limit_s:
                raise
            if call and call.state == states.IDLE:
                _in(name, PRESS, pane)
        else:
            return


# In the container


def _type(name: str, text: str, pane: str) -> None:
    _in(name, PASTE, f"magents-{uuid.uuid4().hex[:8]}", pane, given=text)
    _in(name, PRESS, pane)


def _pane(name: str, *, has_claude: bool) -> str:
    """Return the pane to type into: with Claude in it, or the one that people see."""
    panes: dict[str, str] = {}
    for line in _in(name, FIND).splitlines():
        what, _, pane = line.partition(" ")
        if re.fullmatch(r"%[0-9]{1,9}", pane):
            panes.setdefault(what, pane)
    chosen = panes.get("claude") if has_claude else None
    chosen = chosen or panes.get("active")
    if chosen is None:
        raise Problem(f"agent {name} has no pane in its tmux session, so nothing was sent; see `bin/invoke agents.ps`")
    return chosen


def _in(name: str, script: str, *words: str, given: str = "") -> str:
    """Run a script of ours in the agent's container, with whole paths and a deadline. Returns what it printed."""
    command = [
        "docker",
        "exec",
        "-i",
        "--workdir",
        "/",
        ps.container_name(name),
        "/bin/sh",
        "-c",
        script,
        "send",
        *words,
    ]
    try:
        done = subprocess.run(command, input=given.encode(), capture_output=True, timeout=ANSWER_S)
    except FileNotFoundError:
        raise Problem(NO_DOCKER_COMMAND) from None
    except subprocess.TimeoutExpired:
        raise Problem(f"tmux in agent {name} did not answer within {ANSWER_S} s, so nothing more was sent") from None
    if done.returncode:
        lines = plain(done.stderr.decode(errors="replace")).strip().splitlines() or [f"exit code {done.returncode}"]
        raise Problem(f"agent {name} has no tmux session to type into: {lines[-1][:200]}")
    return done.stdout[:100_000].decode(errors="replace")
