"""Provide a Docker engine: use the one that answers, or install one from the distribution's packages and start it.

Debian 12's own engine (20.10, without buildx and Compose 2) is too old, so four packages come from the next suite
there. That suite is added with a priority so low that no other package is taken from it. Its address is derived from
the machine's own sources.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.bootstrap import engine
from pipeline.errors import Problem
from pipeline.files import replace
from pipeline.reporting import Say
from pipeline.waiting import wait_until

START_S = 60  # dockerd needs 3 s on two cores; a cold disk with many layers to check needs more
STOP_S = 60  # an engine first stops its containers: 10 s each, all at the same time
RUN = Path("/run")
APT_FILES = Path("/etc/apt")
LOG = Path("/var/log/magents-engine.log")
LOCAL_SOCKETS = ("unix:///var/run/docker.sock", "unix:///run/docker.sock")
APT = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"]
ELSEWHERE = (
    "install Docker Engine 25 or newer with its buildx and Compose plugins (Docker Desktop has all three), start it, "
    "and run the same command again"
)


@dataclass(frozen=True)
class Source:
    """The packages of a distribution's engine, and the later suite to take them from, if any."""

    packages: tuple[str, ...]
    suite: str | None = None


SOURCES: dict[tuple[str, str | None], Source] = {
    ("debian", "bookworm"): Source(("docker.io", "docker-cli", "docker-buildx", "docker-compose"), "trixie"),
    ("debian", None): Source(("docker.io", "docker-cli", "docker-buildx", "docker-compose")),
    ("ubuntu", None): Source(("docker.io", "docker-buildx", "docker-compose-v2")),
}


def up(say: Say) -> str:
    """Make sure that an engine with buildx and Compose runs. Returns one line that says which it is."""
    with _one_at_a_time():
        running = engine.version()
        missing = _missing_parts(engine_too=running is None)
        if missing:
            _install(say, missing)
        if running is None:
            _start(say)
            running = engine.version()
    return f"Docker engine {running} answers at {engine.chosen().where}"


def down(say: Say) -> None:
    """Stop the engine that `up` started, and no other."""
    state = _started_by_us()
    if state is None:
        running = engine.version()
        say("no engine runs" if running is None else f"engine {running} was not started by engine.up; it is left alone")
        return
    if state["how"] == "systemd":
        subprocess.run(["systemctl", "stop", "docker.socket", "docker"], check=True)
    else:
        pid = int(state["pid"])
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not _is_alive(pid, state["since"]), STOP_S, f"engine {pid} does not stop; see {LOG}")
    _state_file().unlink()
    say("the engine that engine.up started is stopped")


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Let only one call at a time provide an engine. Where /run is not writable, nothing is started anyway."""
    if os.geteuid() != 0 or not RUN.is_dir():
        yield
        return
    with (RUN / "magents-engine.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# What is there


def plugin_version(plugin: str) -> str | None:
    """Return the version of a plugin of Docker's command (`buildx`, `compose`), or None where it is missing."""
    if not shutil.which("docker"):
        return None
    answer = subprocess.run(["docker", plugin, "version"], capture_output=True, text=True)
    found = re.search(r"\d+\.\d+\.\d+", answer.stdout)
    return found[0] if answer.returncode == 0 and found else None


def _missing_parts(*, engine_too: bool) -> list[str]:
    missing = [f"docker {plugin}" for plugin in ("buildx", "compose") if plugin_version(plugin) is None]
    if engine_too and engine.chosen().where in LOCAL_SOCKETS and not shutil.which("dockerd"):
        missing.insert(0, "dockerd")
    return missing


# Installing


def _install(say: Say, missing: list[str]) -> None:
    source = _distribution()
    what = ", ".join(missing)
    if source is None:
        raise Problem(f"{what} missing; {ELSEWHERE}")
    if os.geteuid() != 0:
        raise Problem(f"{what} missing, and installing needs root; run `sudo bin/invoke engine.up`, or {ELSEWHERE}")
    say(f"{what} missing: installing {' '.join(source.packages)} from the distribution ...")
    if source.suite:
        _add_suite(source.suite, say)
    apt("update")
    names = [f"{name}/{source.suite}" if source.suite else name for name in source.packages]
    apt("install", "-y", "--no-install-recommends", *names, "iptables", "ca-certificates")
    still = _missing_parts(engine_too=True)
    if still:
        raise Problem(f"installed, but {', '.join(still)} is still missing; run `bin/invoke engine.doctor`")


def _distribution() -> Source | None:
    """Return the packages for this machine's distribution, or None where it is neither Debian nor Ubuntu."""
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except OSError:
        return None
    facts = {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}
    if not shutil.which("apt-get"):
        return None
    name = facts.get("ID", "")
    return SOURCES.get((name, facts.get("VERSION_CODENAME"))) or SOURCES.get((name, None))


def apt(*arguments: str) -> None:
    """Run apt-get to its end, after other runs of it have ended. Raises a `Problem` when it fails."""
    command = [*APT, *arguments]
    done = subprocess.run(command, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise Problem(f"`{' '.join(command)}` failed, the lines above say why; no network, or a full disk?")


def _add_suite(suite: str, say: Say) -> None:
    """Add `suite` beside the present one, with a priority so low that only explicitly named packages come from it."""
    uris, keyring = _present_source()
    signed = f"Signed-By: {keyring}\n" if keyring else ""
    source = APT_FILES / "sources.list.d" / f"magents-{suite}.sources"
    pin = APT_FILES / "preferences.d" / f"magents-{suite}"
    say(
        f"this distribution's own engine is too old, so {suite} is added to apt's sources; nothing but the engine and "
        f"what it needs is taken from it; to undo: rm {source} {pin} && apt-get update"
    )
    replace(source, f"Types: deb\nURIs: {uris}\nSuites: {suite}\nComponents: main\n{signed}")
    replace(pin, f"Package: *\nPin: release n={suite}\nPin-Priority: 50\n")


def _present_source() -> tuple[str, str]:
    """Return the address and keyring of this machine's first Debian source, in either file format."""
    etc = APT_FILES
    for path in sorted((etc / "sources.list.d").glob("*.sources")):
        for stanza in path.read_text().split("\n\n"):
            fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", stanza, re.MULTILINE))
            if "bookworm" in fields.get("Suites", "").split():
                return fields["URIs"], fields.get("Signed-By", "")
    for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*.list"))]:
        text = path.read_text() if path.exists() else ""
        found = re.search(r"^deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+bookworm\s", text, re.MULTILINE)
        if found:
            keyring = re.search(r"signed-by=(\S+)", found[1] or "")
            return found[2], keyring[1] if keyring else ""
    raise Problem("no source for bookworm found under /etc/apt, so the next suite cannot be derived; " + ELSEWHERE)


# Starting


def _state_file() -> Path:
    return RUN / "magents-engine.json"


def _start(say: Say) -> None:
    where = engine.chosen().where
    if where not in LOCAL_SOCKETS:
        raise Problem(f"no Docker engine answers at {where}; start it, or unset DOCKER_HOST and DOCKER_CONTEXT")
    if os.geteuid() != 0:
        raise Problem("the Docker engine is installed but does not answer; run `sudo bin/invoke engine.up`")
    if Path("/run/systemd/system").is_dir():
        say("starting the Docker engine (systemctl start docker) ...")
        subprocess.run(["systemctl", "start", "docker"], check=False)
        wait_until(
            lambda: engine.version() is not None,
            START_S,
            "the engine does not answer; see `journalctl -u docker`",
        )
        replace(_state_file(), json.dumps({"how": "systemd"}))
        return
    say(f"starting the Docker engine (dockerd, its log is {LOG}) ...")
    with LOG.open("ab") as log:
        process = subprocess.Popen(
            ["dockerd"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True
        )
    replace(_state_file(), json.dumps({"how": "process", "pid": process.pid, "since": _start_time(process.pid)}))
    wait_until(
        lambda: process.poll() is not None or engine.version() is not None,
        START_S,
        f"the engine does not answer; see {LOG}",
    )
    if process.poll() is not None:
        _state_file().unlink()
        lines = LOG.read_text(errors="replace").splitlines() or ["nothing in its log"]
        raise Problem(f"dockerd ended with {process.returncode}: {lines[-1]} (all of it: {LOG})")


def _started_by_us() -> dict[str, str] | None:
    try:
        state: dict[str, str] = json.loads(_state_file().read_text())
    except (OSError, ValueError):
        return None
    if state["how"] == "systemd":
        return state if engine.version() else None
    return state if _is_alive(int(state["pid"]), state["since"]) else None


def _start_time(pid: int) -> str | None:
    """Return the kernel's start time of a process, which tells it from a later one with the same pid."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _is_alive(pid: int, since: str) -> bool:
    return _start_time(pid) == since
