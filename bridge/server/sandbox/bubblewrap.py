"""The sandbox of one call: a bubblewrap namespace with what the CLI needs, and nothing else of the host.

    /workspace          the grant's workspace, at the same path as in the container; the shares likewise. Its protected
                        paths are read-only (protected.py)
    /claude             configuration of this call, in memory; the directories of conversations are bound into it
    /usr, /etc          libraries, time zones and certificates, read-only; no programs
    /tmp, /home/claude  empty and read-only, because the container would not see what is written there
    /opt/claude         the CLI, read-only
    /opt/bridge         the shell prefix and launcher (shim.py), and the socket of the call. /bin/sh and /bin/bash are
                        the prefix as well: what the CLI starts with a shell runs in the container or not at all.
                        So is /usr/bin/git: what the CLI asks about the repository is answered by the container's git
    (no network except its own loopback, where the server's proxy answers: proxy.py)

The launcher checks that the workspace and the shares are the granted directories, and becomes the grant's user.
From then on Landlock allows only the CLI and the prefix to be executed, and only a few files of /proc to be read.

The configuration is made for each call and removed after it. So two calls that start at the same time cannot
corrupt it, and what a call writes there (hooks, servers, keys) is never read by another.

As root, bubblewrap makes the namespaces itself, and shim.py becomes the grant's user inside. Otherwise the kernel
must allow user namespaces to the server's user.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from bridge.policy import Scope, environment
from bridge.policy.project_policy import Project
from bridge.policy.terms import WORKSPACE
from bridge.server.host import protected
from bridge.server.host.claude_cli import files_of, interpreters_of
from bridge.server.host.conversations import HISTORY, KEPT
from bridge.server.host.credentials import Credential
from bridge.server.host.grants import Grant
from bridge.server.host.places import Place
from bridge.server.host.state_directory import StateDirectory
from bridge.server.sandbox import proxy

MEMORY_LIMIT = 64 * 1024 * 1024
"""Size of each directory in memory, bytes."""

CAPABILITIES = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_DAC_READ_SEARCH")
"""Capabilities that root keeps until the launcher has become the grant's user. The last one is needed to enter the
workspace."""

MOUNTING = "CAP_SYS_ADMIN"
"""The launcher mounts the protected paths, within this namespace, and then loses this capability."""

LIBRARIES = ("lib", "lib32", "lib64", "libx32")
OF_USR = (*LIBRARIES, "share/ca-certificates", "share/locale", "share/pki", "share/terminfo", "share/zoneinfo")
"""Parts of /usr. There is no bin, so that there are no programs to start."""

ETC = ("ca-certificates", "crypto-policies", "ld.so.cache", "localtime", "pki/ca-trust", "pki/tls/cert.pem",
       "pki/tls/certs", "pki/tls/openssl.cnf", "ssl/cert.pem", "ssl/certs", "ssl/openssl.cnf")  # fmt: skip
"""Files of /etc that TLS and the dynamic loader read. The server's proxy looks up names."""

HOSTS = b"127.0.0.1 localhost claude\n::1 localhost\n"
AUTHORITIES = b"NODE_EXTRA_CA_CERTS"
"""The operator's variable that names a file with further certificate authorities. AUTHORITIES_AT is the file's path
inside."""
AUTHORITIES_AT = "/etc/ssl/operator.pem"

CLI_AT = "/opt/claude"
BRIDGE_AT = "/opt/bridge"
SHIM_AT = f"{BRIDGE_AT}/shim"
SHELLS = ("/usr/bin/bash", "/usr/bin/sh")
GIT = "/usr/bin/git"
TOOLS_AT = f"{BRIDGE_AT}/tools"
PROJECT_AT = f"{BRIDGE_AT}/project"
PYTHON_AT = "/opt/python"
SYSTEM_PYTHON = Path("/usr/bin/python3")
SHIM = Path(__file__).with_name("shim.py")
CONFIG_AT = environment.CONFIG.decode()


class ConfinementError(Exception):
    """A call cannot be confined as configured. The text says what to do."""


@dataclasses.dataclass
class Command:
    """A program to start, and the descriptors that it inherits. The caller that starts it closes them."""

    argv: list[bytes]
    env: dict[bytes, bytes]
    directory: str = "/"
    descriptors: list[int] = dataclasses.field(default_factory=list)
    status: int | None = None
    """Descriptor on which bubblewrap reports the first process of the namespace."""
    scratch: Path | None = None
    """Directory to remove after the call."""
    identity: tuple[int, int] | None = None
    """User and group to become first."""
    terminal: bool = False
    """Whether the program gets a terminal instead of pipes."""

    def inherit(self, descriptor: int) -> bytes:
        """Let the program inherit a descriptor. Returns its number as text."""
        self.descriptors.append(descriptor)
        return b"%d" % descriptor

    def close(self) -> None:
        """Close the descriptors for the program."""
        while self.descriptors:
            os.close(self.descriptors.pop())

    def document(self, data: bytes) -> bytes:
        """Let the program inherit a descriptor from which it can read `data`. Returns its number as text."""
        descriptor = os.memfd_create("bridge", os.MFD_CLOEXEC)
        number = self.inherit(descriptor)
        os.write(descriptor, data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return number

    def abandon(self) -> None:
        """Close everything, because the program is not going to be started."""
        self.close()
        if self.status is not None:
            os.close(self.status)
            self.status = None


@dataclasses.dataclass(frozen=True)
class SandboxSpec:
    """What to run in the sandbox of one call. The policy has checked all of it."""

    grant: Grant
    program: Path
    argv: list[str]
    env: dict[bytes, bytes]
    cwd: str
    memory: bytes
    credential: Credential | None
    project: Project
    scratch: Path
    """A directory for this call only, with its socket `tools`. It is removed after the call."""
    runs_commands: bool = False
    interactive: bool = False
    offer: str = ""
    """Text that the interface shows at its start."""


def sandboxed(spec: SandboxSpec, state: StateDirectory, scope: Scope) -> Command:
    """Return the command that runs a call under bubblewrap. Raises ConfinementError, OSError, PlaceError or
    ProtectionError."""
    env = environment.through_proxy(spec.env, proxy.PORT)
    command = Command([b"bwrap"], env, scratch=spec.scratch, terminal=spec.interactive)
    try:
        _confine(command, spec, state, scope)
    except BaseException:
        command.abandon()
        raise
    return command


def kill_left(scratch: Path) -> None:
    """Kill what a killed server has left of its calls. `scratch` is the directory with the scratch of each call.

    The processes of a call end with their server. But one that was killed while bubblewrap started could leave them,
    because bubblewrap watches for the end of its parent only later.
    """
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # ignored because it has ended, or is another user's
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if words[0] == b"bwrap" and any(_is_tools(Path(os.fsdecode(word)), scratch) for word in words):
                    os.kill(int(entry.name), signal.SIGKILL)


def _is_tools(path: Path, scratch: Path) -> bool:
    return path.name == "tools" and path.parent.parent == scratch


def _confine(command: Command, spec: SandboxSpec, state: StateDirectory, scope: Scope) -> None:
    visible, program = files_of(spec.program)
    inside = f"{CLI_AT}/{program.relative_to(visible)}" if visible != program else f"{CLI_AT}/claude"
    python, binds = interpreter()
    words: list[str | bytes] = [*_namespaces(), "--cap-add", MOUNTING, "--unshare-net"]
    words += [*_system(command), *binds, *_identity(command, spec)]
    words += _configuration(command, spec, state, scope)
    words += ["--perms", "0755", "--ro-bind-data", command.document(shim_source(python)), SHIM_AT]
    if spec.runs_commands:
        words += ["--symlink", SHIM_AT, GIT]
    words += ["--ro-bind", str(spec.scratch / "tools"), TOOLS_AT]
    only = [python, SHIM_AT, inside, *loaders()]
    for name, path in interpreters_of(program).items():
        words += ["--ro-bind", path, name]
        only.append(name)
    launcher: list[str] = []
    for place, target, bind in _directories(spec.grant):
        descriptor = command.inherit(place.open()).decode()
        words += [bind, f"/proc/self/fd/{descriptor}", target]
        launcher += ["--at", target, f"{place.device}:{place.inode}", descriptor]
    protection = protected.prepare(spec.grant.place, spec.grant.choice)
    if os.geteuid() != 0:
        launcher.append("--apart")  # bubblewrap has put the launcher below the user whose mounts these are
    for path in protection.identities:
        launcher += ["--fix", f"{WORKSPACE}/{path}", "ro" if path in protection.paths else "rw"]
    words += ["--ro-bind", str(visible), inside if visible == program else CLI_AT]
    reading, writing = os.pipe2(os.O_CLOEXEC)
    command.status = reading
    words += ["--json-status-fd", command.inherit(writing), "--remount-ro", "/", "--chdir", "/", "--"]
    launcher += ["--net", str(proxy.PORT)]
    launcher += ["--as", "{}:{}".format(*spec.grant.user)] if os.geteuid() == 0 else ["--drop"]
    launcher += ["--in", spec.cwd]
    launcher += [word for path in only for word in ("--only", path)]
    words += [SHIM_AT, *launcher, *(["--tty"] if spec.interactive else []), "--"]
    if spec.runs_commands:
        command.env[b"CLAUDE_CODE_SHELL_PREFIX"] = SHIM_AT.encode()
    _attach(command, spec)
    command.argv += [os.fsencode(word) for word in (*words, inside, *spec.argv)]


def _directories(grant: Grant) -> Iterator[tuple[Place, str, str]]:
    """Yield the directories of a grant: the place, its path in the namespace, and the option that binds it."""
    yield grant.place, WORKSPACE, "--bind"
    for share in grant.shares:
        yield share.source, share.target, "--ro-bind" if share.readonly else "--bind"


def shim_source(python: str) -> bytes:
    """Return the source of the program that runs beside the CLI (shim.py), for this interpreter."""
    return f"#!{python} -IS\n".encode() + SHIM.read_bytes()


def interpreter() -> tuple[str, list[str]]:
    """Return the path of a Python in the namespace, and the options that bind it. It is not in PATH."""
    if SYSTEM_PYTHON.exists():  # its library is in /usr/lib
        inside = f"{PYTHON_AT}/bin/{SYSTEM_PYTHON.resolve().name}"
        return inside, ["--ro-bind", str(SYSTEM_PYTHON.resolve()), inside]
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base = Path(sys.base_prefix)
    words: list[str] = []
    for part in (f"bin/{version}", f"lib/{version}"):
        words += ["--ro-bind", str((base / part).resolve()), f"{PYTHON_AT}/{part}"]
    for library in (base / "lib").glob("libpython3*.so*"):
        words += ["--ro-bind", str(library.resolve()), f"{PYTHON_AT}/lib/{library.name}"]
    return f"{PYTHON_AT}/bin/{version}", words


@functools.cache
def loaders() -> list[str]:
    """Return the dynamic loaders. The kernel starts one for each program with shared libraries."""
    return sorted(str(path) for folder in LIBRARIES for path in Path("/", folder).glob("ld-*.so*"))


def unconfined(spec: SandboxSpec, state: StateDirectory, call_id: str) -> Command:
    """Return the command that runs a call as the grant's user without a namespace: `confinement: none`.

    Nothing of the host is hidden. Raises OSError or PlaceError.
    """
    uid, gid = spec.grant.user
    scratch = spec.scratch
    private = state.private(spec.grant)
    program = scratch / "shim"
    program.write_bytes(shim_source(str(SYSTEM_PYTHON) if SYSTEM_PYTHON.exists() else sys.executable))
    program.chmod(0o755)
    (scratch / ".claude.json").write_bytes(_first_start(spec, spec.grant.workspace))
    (scratch / "settings.json").write_bytes(_settings(spec, str(scratch)))
    _write(spec.project.files | _memory(spec), scratch)
    for name in KEPT:
        (scratch / name).symlink_to(private / name)
    (scratch / HISTORY).hardlink_to(private / HISTORY)  # the CLI refuses a symbolic link
    for path in (scratch, *scratch.rglob("*")):
        os.chown(path, uid, gid, follow_symlinks=False)
    env = {**spec.env, b"CLAUDE_CONFIG_DIR": os.fsencode(scratch), b"HOME": os.fsencode(scratch)}
    env |= {b"TMPDIR": os.fsencode(scratch), MARK: call_id.encode()}
    env[b"CLAUDE_BRIDGE_TOOLS"] = os.fsencode(scratch / "tools")
    if spec.runs_commands:
        env[b"CLAUDE_CODE_SHELL_PREFIX"] = os.fsencode(program)
        (scratch / "bin").mkdir()
        (scratch / "bin/git").symlink_to(program)
        env[b"PATH"] = os.fsencode(scratch / "bin") + b":" + env.get(b"PATH", b"/usr/bin:/bin")
    argv = [word.replace(f"(/{CONFIG_AT}/", f"(/{scratch}/") for word in spec.argv]  # rules for its own directory
    command = Command([], env, scratch=scratch, terminal=spec.interactive)
    if os.geteuid() == 0:
        command.identity = spec.grant.user
    place = command.inherit(spec.grant.place.open()).decode(), spec.grant.workspace
    launcher = [str(program), "--from", *place, "--in", f".{spec.cwd.removeprefix(WORKSPACE)}", "--no-proc"]
    words = [*launcher, *(["--tty"] if spec.interactive else []), "--", str(spec.program), *argv]
    command.argv += [os.fsencode(word) for word in words]
    _attach(command, spec)
    return command


MARK = b"CLAUDE_BRIDGE_CALL"
"""A variable that marks the processes of a call without a namespace, so that they can be found."""


def _first_start(spec: SandboxSpec, *more: str) -> bytes:
    """Return the answers to the CLI's first-run prompts. The grant already answers them.

    `more` are trusted directories besides those of the namespace.
    """
    trusted = {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}
    answers: dict[str, object] = {
        "hasCompletedOnboarding": True,
        "autoUpdates": False,
        "theme": "dark",
        "bypassPermissionsModeAccepted": True,
        "hasSeenAutoDefaultNotice": True,
        "hasSeenAutoDefaultNudge": True,
        "projects": dict.fromkeys([WORKSPACE, spec.cwd, *more], trusted),
    }
    return json.dumps(answers).encode()


def _settings(spec: SandboxSpec, directory: str) -> bytes:
    """Return the project's settings. If tools run in the container, the bypass mode needs no further confirmation.

    `directory` is the CLI's configuration directory. Instructions are loaded from there only: the CLI would also load
    rules of the workspace and what CLAUDE.md imports, and follow their links. The client has read these files already,
    in the container.
    """
    own: dict[str, object] = {"skipDangerousModePermissionPrompt": True} if spec.runs_commands else {}
    if spec.offer:
        own["companyAnnouncements"] = [spec.offer]
    return json.dumps(own | spec.project.settings | _only(directory)).encode()


def _only(directory: str) -> dict[str, object]:
    return {"claudeMdExcludes": [f"!{directory}/{{CLAUDE.md,rules/**}}"]}


def _memory(spec: SandboxSpec) -> dict[str, bytes]:
    return {"CLAUDE.md": spec.memory} if spec.memory else {}


def _write(files: Mapping[str, bytes], directory: Path) -> None:
    """Write files, readable for the CLI's user. The policy has checked their names. Raises OSError."""
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        path = directory / name
        for folder in reversed(path.relative_to(directory).parents[:-1]):
            made = directory / folder
            if not made.is_dir():
                made.mkdir()
                made.chmod(0o755)
        path.write_bytes(text)
        path.chmod(0o644)


def _attach(command: Command, spec: SandboxSpec) -> None:
    if spec.credential:
        number = command.inherit(spec.credential.descriptor(*spec.grant.user))
        command.env[spec.credential.variable.encode()] = number


def _namespaces() -> list[str]:
    words = [
        "--unshare-pid",
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-cgroup-try",
        "--hostname",
        "claude",
    ]
    words += ["--die-with-parent", "--new-session"]
    if os.geteuid() == 0:
        words += ["--cap-drop", "ALL"]
        for capability in CAPABILITIES:
            words += ["--cap-add", capability]
    return words


def _system(command: Command) -> list[str | bytes]:
    words: list[str | bytes] = []
    for directory in ("/usr/bin", "/usr/share"):  # bubblewrap makes others for root alone
        words += ["--perms", "0755", "--dir", directory]
    for name in OF_USR:
        words += ["--ro-bind-try", f"/usr/{name}", f"/usr/{name}"]
    for name in ("bin", "sbin"):
        words += ["--symlink", "usr/bin", f"/{name}"]
    words += _libraries()
    python = PYTHON_AT, f"{PYTHON_AT}/bin"
    for directory in ("/etc", "/etc/ssl", "/etc/claude-code", "/opt", CLI_AT, BRIDGE_AT, *python, "/home"):
        words += ["--perms", "0755", "--dir", directory]
    for shell in SHELLS:
        words += ["--symlink", SHIM_AT, shell]
    for name in ETC:
        if name.startswith("pki/") and Path("/etc", name).exists():
            words += ["--perms", "0755", "--dir", "/etc/pki", "--perms", "0755", "--dir", "/etc/pki/tls"]
        words += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    words += ["--perms", "0644", "--ro-bind-data", command.document(HOSTS), "/etc/hosts"]
    named = os.fsdecode(command.env.get(AUTHORITIES, b""))
    if named and Path(named).is_file():
        words += ["--ro-bind", named, AUTHORITIES_AT]
        command.env[AUTHORITIES] = AUTHORITIES_AT.encode()
    return [*words, "--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]


def _libraries() -> list[str]:
    words: list[str] = []
    for name in LIBRARIES:
        path = Path("/", name)
        if path.is_symlink():
            words += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    return words


def _identity(command: Command, spec: SandboxSpec) -> list[str | bytes]:
    """Return the options for the only user of the namespace, and its directories."""
    uid, gid = spec.grant.user
    users = f"claude:x:{uid}:{gid}:Claude:{environment.HOME.decode()}:/bin/sh\n".encode()
    groups = f"claude:x:{gid}:\n".encode()
    words: list[str | bytes] = ["--perms", "0644", "--ro-bind-data", command.document(users), "/etc/passwd"]
    words += ["--perms", "0644", "--ro-bind-data", command.document(groups), "/etc/group"]
    # The container would never see what is written into /tmp and the home directory. And the CLI could be made to
    # write its memory to a file there, which could then be read.
    for directory in ("/tmp", environment.HOME):  # noqa: S108
        words += ["--perms", "1777", "--tmpfs", directory, "--remount-ro", directory]
    words += ["--size", str(MEMORY_LIMIT), "--perms", "0777", "--tmpfs", CONFIG_AT]
    return [*words, "--perms", "0777", "--dir", environment.TMP]


def _configuration(command: Command, spec: SandboxSpec, state: StateDirectory, scope: Scope) -> list[str | bytes]:
    words: list[str | bytes] = ["--perms", "0666", "--file", command.document(_first_start(spec))]
    words.append(f"{CONFIG_AT}/.claude.json")
    # Links into the read-only root. With --ro-bind-data, a file would count as deleted: see below.
    for name, text in ({"settings.json": _settings(spec, CONFIG_AT)} | _memory(spec)).items():
        words += ["--perms", "0644", "--file", command.document(text), f"{PROJECT_AT}/{name}"]
        words += ["--symlink", f"{PROJECT_AT}/{name}", f"{CONFIG_AT}/{name}"]
    # A directory of the disk, because a project can have a thousand files, and bubblewrap takes 9,000 words.
    _write(spec.project.files, spec.scratch / "project")
    for name in sorted({name.partition("/")[0] for name in spec.project.files}):
        words += ["--ro-bind", str(spec.scratch / "project" / name), f"{CONFIG_AT}/{name}"]
    private = state.private(spec.grant)
    for name in (*KEPT, HISTORY):  # the CLI refuses a history that is a link; it appends to the file in its place
        words += ["--bind", str(private / name), f"{CONFIG_AT}/{name}"]
    # A file of the read-only root, not --ro-bind-data. CLI 2.1.197 takes a file that was deleted after it was
    # mounted for a broken link, and ignores the settings in it.
    settings = managed_settings(scope) | (hooks_of_session(scope.cli) if spec.interactive else {})
    managed = command.document(json.dumps(settings).encode())
    words += ["--perms", "0644", "--file", managed, "/etc/claude-code/managed-settings.json"]
    return words


def managed_settings(scope: Scope) -> dict[str, object]:
    """Return the settings with the highest precedence in the CLI, as a second layer behind the policy."""
    permissions: dict[str, object] = {"deny": list(scope.denials)}
    # The CLI ignores a whole file with a setting that it does not accept, and a project's settings can have one.
    settings: dict[str, object] = {"permissions": permissions, "strictKnownMarketplaces": []} | _only(CONFIG_AT)
    if not scope.runs_commands:
        permissions["disableBypassPermissionsMode"] = "disable"
        settings |= {"disableAutoMode": "disable", "allowManagedHooksOnly": True}
    return settings


SESSION_EVENTS = (
    "SessionStart", "UserPromptSubmit", "PermissionRequest", "PostToolUse", "Elicitation", "ElicitationResult",
    "Notification", "StopFailure",
)  # fmt: skip
"""Events of an interactive session that the server is told of. Each is a process of the shim's for some 30 ms, so the
one for tools is only for those that ask a person."""
ASKING_TOOLS = "AskUserQuestion|ExitPlanMode"
STOP = "Stop"
SHOWS_NO_STOP_SINCE = (2, 1, 332)
"""An older CLI shows for a moment that a hook runs at the end of an answer. There, silence is the end (gate.py)."""


def hooks_of_session(version: tuple[int, ...]) -> dict[str, object]:
    """Return the settings with the hooks that tell the server what an interactive session does.

    They are managed settings, so they also count where a project says `disableAllHooks`, and they leave the project's
    own hooks alone. They write nothing, and the CLI does not wait for them. So neither the model nor the person sees
    them.
    """

    def hook(event: str) -> list[object]:
        matcher = {"matcher": ASKING_TOOLS} if event == "PostToolUse" else {}
        return [{**matcher, "hooks": [{"type": "command", "command": f"bridge-event {event}", "async": True}]}]

    events = (*SESSION_EVENTS, STOP) if version >= SHOWS_NO_STOP_SINCE else SESSION_EVENTS
    return {"hooks": {event: hook(event) for event in events}}


CLOSED_SINCE = (2, 1, 332)
"""From this version on, the CLI's file tools read nothing in /proc, even through a link."""

SECRET = re.compile(r"SECRET|PASSWORD|(?:^|_)(?:TOKEN|KEY)(?:_|$)|CREDENTIAL|CUSTOM_HEADERS")


@functools.cache
def has_landlock() -> bool:
    """Return whether the kernel has Landlock, which keeps the CLI from reading /proc."""
    return int(ctypes.CDLL(None).syscall(444, None, 0, 1)) > 0


def refuse_what_could_be_read(environment: Mapping[str, str], version: str) -> None:
    """Refuse secrets in the variables of an older CLI without Landlock, because its file tools could read them.

    Raises ConfinementError.
    """
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:3])
    named = next((name for name, value in environment.items() if value and SECRET.search(name)), None)
    if named and numbers < CLOSED_SINCE and not has_landlock():
        wanted = ".".join(map(str, CLOSED_SINCE))
        raise ConfinementError(
            f"this kernel has no Landlock, and a container could have this Claude Code read {named} in its process; "
            f"install Claude Code {wanted} or newer, or take {named} out of bridge.yaml"
        )


def check() -> None:
    """Check that bubblewrap works here. Raises ConfinementError, which says what to do."""
    if shutil.which("bwrap") is None:
        raise ConfinementError(
            "bubblewrap is missing; run `apt-get install bubblewrap` (or set `confinement: none` in bridge.yaml: "
            "a container can then read what the grant's user can read on the host)"
        )
    # Not the whole of /: bubblewrap fails if one of its mounts goes meanwhile, such as a container's.
    places = ["--ro-bind", "/usr", "/usr", *_libraries(), "--proc", "/proc", "--dev", "/dev"]
    probe = ["bwrap", *_namespaces(), "--unshare-net", *places, "/usr/bin/true"]
    try:
        done = subprocess.run(probe, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfinementError(f"bubblewrap cannot be run: {error}") from None
    if done.returncode == 0:
        return
    said = " ".join(done.stderr.split())
    if Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").exists() and os.geteuid() != 0:
        raise ConfinementError(
            f"this system's AppArmor keeps user namespaces from bubblewrap ({said}); run the bridge as "
            "root, or install the profile bwrap-userns-restrict of the package apparmor-profiles"
        )
    raise ConfinementError(f"bubblewrap may not make namespaces here ({said}); run the bridge as root")
