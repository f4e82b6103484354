"""The errors between a container and the host's Claude: a sentence for each, and the steps that solve it."""

from __future__ import annotations

import os

# ruff: noqa: PTH112, PTH120, PTH123 - pathlib costs the start of the client 5 ms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bridge.protocol.frames import Fields

BRIDGE_FAILED, POLICY_REFUSED, NO_CLI = 125, 126, 127

SERVE = "`claude-bridge-server serve`, or `bin/invoke bridge.up` in a clone"
UP = f"on the host: {SERVE}"
LOOK = "on the host: `claude-bridge-server status` and `claude-bridge-server doctor`"
SAME_VERSION = (
    "on the host: run the version of the bridge that this image was built from; "
    "in a clone `bin/invoke build bridge.down bridge.up`"
)
MOUNT = "mount the grant's directory at {directory}: `claude-bridge-server grant NAME --workspace DIR` prints it"

STEPS = {
    "not-mounted": (UP, MOUNT),
    "missing": (UP, "if the grant was revoked, make it anew and restart the container"),
    "dead": (UP, "the container need not be restarted"),
    "permission": ("run the container as the user it was made for, or look at the socket's mode", LOOK),
    "selinux": ("start the container with `--security-opt label=disable`",),
    "silent": (LOOK,),
    "foreign": ("check CLAUDE_BRIDGE_SOCKET", LOOK),
    "version": (SAME_VERSION,),
    "protocol": (SAME_VERSION,),
    "stuck": ("in the container: `find /workspace -type p` lists the pipes",),
    "memory": ("on the host: raise limits.memory in bridge.yaml, if the call needs it",),
    "changed": (
        "on the host: `invoke up` for this agent, or `claude-bridge-server grant` with its folder and then "
        "`docker restart` of this container",
    ),
    "workspace": ("mount the grant that belongs to this container's /workspace",),
    "full": (LOOK,),
    "budget": ("on the host: `claude-bridge-server usage` shows what was used; `budgets` in bridge.yaml sets it",),
    "timeout": (LOOK,),
    "held": ("begin again then", "on the host: limits.held in bridge.yaml lets calls wait longer"),
    "stopping": ("in a moment, begin again, or go on with `claude-code --continue`",),
    "lost": (LOOK, "then go on with `claude-code --continue -p ...`"),
    "revoked": ("ask the host's operator for a grant",),
    "login": ("on the host: `claude-bridge-server login`",),
    "start": (LOOK,),
    "policy": ("on the host: `claude-bridge-server explain -- ARGUMENTS` shows the rules",),
    "no-cli": ("on the host: install Claude Code, then `claude-bridge-server doctor`",),
    "cli": (),
    "usage": (),
}


class FaultError(Exception):
    """The call could not be made or finished. Holds the error's kind, its sentence and the exit code."""

    def __init__(self, kind: str, text: str, code: int = BRIDGE_FAILED) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.code = code

    @classmethod
    def from_frame(cls, fields: Fields) -> FaultError:
        """Make the error from the fields of an ERROR frame."""
        kind = fields.text("kind", "lost")
        return cls(kind, fields.text("text", "the server gave no reason"), fields.number("code", BRIDGE_FAILED) & 255)

    def report(self, path: str, as_json: bool) -> str:
        """Return the sentence and the steps for people, or one JSON object on one line for programs."""
        steps = [step.format(directory=os.path.dirname(path) or "/") for step in STEPS.get(self.kind, ())]
        if as_json:
            import json

            facts = {
                "error": self.kind,
                "message": self.text,
                "code": self.code,
                "steps": steps,
                "socket": path,
            }
            return json.dumps(facts) + "\n"
        if self.kind == "cli":
            return self.text + "\n"  # the CLI's own words
        return "".join([f"bridge: {self.text}\n", *(f"bridge:   {step}\n" for step in steps)])


def not_connected(error: OSError, path: str) -> FaultError:
    """Return the error for a failed connect to the socket at `path`."""
    import errno

    directory = os.path.dirname(path) or "/"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        if not os.path.isdir(directory):
            return FaultError("not-mounted", f"the host's bridge is not mounted: there is no directory {directory}")
        return FaultError("missing", f"the host's bridge is not there: {path} does not exist")
    if error.errno == errno.ECONNREFUSED:
        return FaultError("dead", f"the host's bridge has stopped: nobody listens at {path}")
    if error.errno in (errno.EACCES, errno.EPERM):
        if _is_selinux():
            return FaultError("selinux", f"SELinux keeps this container from {path}")
        return FaultError("permission", f"user {os.getuid()} may not open {path}")
    if error.errno in (errno.EAGAIN, errno.ETIMEDOUT):
        return FaultError("full", f"the host's bridge is full: too many connect to {path} at once")
    return FaultError("dead", f"{path} cannot be connected to: {error.strerror}")


def _is_selinux() -> bool:
    """Return whether SELinux confines this process. Its denials look like wrong file permissions."""
    try:
        with open("/proc/self/attr/current", "rb") as file:
            label = file.read(256)
    except OSError:
        return False
    return label.count(b":") >= 3
