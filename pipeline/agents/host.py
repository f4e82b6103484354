"""What an agent gets from its host besides the workspace: certificates, proxies, git's identity, an ssh agent.

compose.yaml hands these over, from the environment and .env. Here is what it cannot know: the identity that git has,
whether a socket answers, and which agents lack what the host has now.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
from docker.models.containers import Container
from docker.utils.config import load_general_config

from pipeline import bridge
from pipeline.agents import ps
from pipeline.agents.workspace import Owner
from pipeline.bootstrap.doctor import Finding
from pipeline.build.image import CA_VARIABLES, ca_bundle
from pipeline.errors import Problem
from pipeline.reporting import Say

CERTIFICATES = "/etc/ssl/host.pem"
MOUNTED = (CERTIFICATES, "/ssh-agent")
"""Where the template mounts files of the host. The source /dev/null means none."""

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
FILES_LABEL = f"{ps.LABEL}.files"
IMAGE_LABEL = "io.magents.variant"
IDENTITY = {"AGENT_GIT_NAME": "user.name", "AGENT_GIT_EMAIL": "user.email"}
PERSON = ["config", "--global"]
NO_IDENTITY = (
    "git here has no user.name and user.email, so the agent cannot commit until it has its own; run "
    "`git config --global user.name NAME` and `git config --global user.email ADDRESS`, or set AGENT_GIT_NAME and "
    "AGENT_GIT_EMAIL in .env, and run `bin/invoke up` again"
)

ANSWER_S = 3.0
REQUEST_IDENTITIES, IDENTITIES = 11, 12
"""Messages of the ssh agent's protocol."""


@dataclass(frozen=True)
class Host:
    """What a person chose for one agent, beyond what the environment and .env say."""

    certificates: Path | None = None
    ssh_agent: Path | None = None
    identity: Mapping[str, str] = field(default_factory=dict)
    """Variables of the agent, for what neither the environment nor .env says."""

    def values(self) -> dict[str, str]:
        """Return the values for the template."""
        chosen = {"AGENT_CA_BUNDLE": self.certificates, "AGENT_SSH_AGENT": self.ssh_agent}
        return {name: str(path) for name, path in chosen.items() if path}


def given(workspace: Path, owner: Owner, say: Say, *, certificates: str | None, ssh_agent: bool) -> Host:
    """Collect what this host gives to an agent that runs as `owner`. `certificates` is the file that a person named."""
    bundle = ca_bundle(certificates) if certificates else None
    return Host(bundle, answering_ssh_agent(owner, say) if ssh_agent else None, identity(workspace))


def settings(service: Mapping[str, Any], host: Host, say: Say) -> dict[str, dict[str, str | None]]:
    """Return what an agent's service needs beyond the template. `service` is the template's, with all values filled in.

    A variable with the value None is left out. The label changes when another file is at the path of a mounted one: the
    container keeps the old file until it is made anew.
    """
    found = service["environment"]
    environment: dict[str, str | None] = {name: value for name, value in host.identity.items() if not found.get(name)}
    if not all(environment.get(name) or found.get(name) for name in IDENTITY):
        say(NO_IDENTITY)
    if not any(found.get(name) for name in PROXIES):
        of_docker = proxies_of_docker()
        names = (*PROXIES, "NO_PROXY")
        environment |= {spelling: of_docker.get(name) for name in names for spelling in (name, name.lower())}
    sources = {mount["target"]: mount.get("source", "") for mount in service["volumes"]}
    for target in MOUNTED:
        _refuse_changeable(sources[target], sources.get("/workspace", ""))
    files = {target: file_at(sources[target]) for target in MOUNTED}
    if files[CERTIFICATES]:
        _refuse_private_keys(sources[CERTIFICATES])
    else:
        environment |= {name: None for name in CA_VARIABLES if not os.environ.get(name)}
    return {"environment": environment, "labels": {FILES_LABEL: " ".join(filter(None, files.values()))}}


def proxies_of_docker() -> dict[str, str]:
    """Return the proxies for containers in Docker's own config.json. Compose's template hides them."""
    found = load_general_config().get("proxies", {}).get("default", {})
    named = {name: found.get(f"{name.split('_')[0].lower()}Proxy") for name in PROXIES}
    proxies = {name: value for name, value in named.items() if value}
    if proxies:
        proxies["NO_PROXY"] = ",".join(filter(None, [found.get("noProxy"), "localhost,127.0.0.1,::1"]))
    return proxies


def file_at(path: str) -> str:
    """Return which file is at a path, as device and inode; empty for /dev/null. A missing one is a `Problem`."""
    if path == os.devnull:
        return ""
    try:
        found = Path(path).stat()
    except OSError as error:
        raise Problem(f"{path} is to be handed to the agent, but: {error.strerror}; name another file", 64) from None
    return f"{found.st_dev}:{found.st_ino}"


def _refuse_changeable(path: str, workspace: str) -> None:
    """Refuse a file in a place where an agent could put a link to any file of this host, to be mounted next time."""
    if path == os.devnull:
        return
    if workspace.startswith("/") and Path(path).resolve().is_relative_to(Path(workspace).resolve()):
        raise Problem(
            f"{path} is in the agent's own workspace, where it could put another file of this machine; name a file "
            "outside of it",
            64,
        )
    bridge.refuse_links_of_containers(Path(path))


def _refuse_private_keys(path: str) -> None:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise Problem(f"the certificates in {path} cannot be read: {error.strerror}; name another file", 64) from None
    if b"PRIVATE KEY-----" in content:
        raise Problem(f"{path} holds a private key, which the agent could read; name a file of certificates alone", 64)


def identity(workspace: Path) -> dict[str, str]:
    """Return git's identity on this host, as variables of the agent. Nothing that a project says counts.

    The workspace only decides which of the person's own files counts (`includeIf`), also when it is another user's.
    """
    where = ["-c", "safe.directory=*", "-C", str(workspace), "config"]
    found = {variable: _of_git(where, key) for variable, key in IDENTITY.items()}
    return {variable: value for variable, value in found.items() if value}


def _of_git(where: list[str], key: str) -> str:
    command = ["git", *where, "--show-scope", "--null", "--get-all", key]
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=ANSWER_S)
        broken = done.returncode not in (0, 1)  # 1: there is no such value
    except FileNotFoundError:
        return ""  # ignored because an agent works without; `up` says that it has none
    except subprocess.TimeoutExpired:
        broken = True
    if broken:  # by the project's settings, as a pipe among them would
        return "" if where == PERSON else _of_git(PERSON, key)
    words = done.stdout.decode(errors="replace").split("\0")
    own = [value for scope, value in zip(words[::2], words[1::2], strict=False) if scope in ("system", "global")]
    return own[-1].strip() if own else ""


def answering_ssh_agent(owner: Owner, say: Say) -> Path:
    """Return the socket of this person's ssh agent. Raises a `Problem` where the agent could not use it."""
    named = os.environ.get("SSH_AUTH_SOCK")
    start = "start one with `eval $(ssh-agent)` and `ssh-add`"
    if not named:
        raise Problem(f"there is no ssh agent to hand over, as SSH_AUTH_SOCK is not set; {start}")
    path = Path(named).resolve()
    try:
        keys = _count_keys(path)
        found = path.stat()
    except OSError as error:
        raise Problem(f"no ssh agent answers at {named} ({error.strerror or error}); {start}") from None
    if found.st_uid != owner.person and not found.st_mode & stat.S_IWOTH:
        raise Problem(
            f"the ssh agent at {named} belongs to uid {found.st_uid} and refuses uid {owner.person}, which the agent "
            f"runs as; start an ssh agent as uid {owner.person}, or use a workspace of uid {found.st_uid}"
        )
    if not keys:
        say("the ssh agent holds no key, so it opens nothing; run `ssh-add`")
    say(f"the agent may use the keys of {named} as long as that ssh agent lives; `up` without --ssh-agent ends it")
    return path


def _count_keys(path: Path) -> int:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_S)
        connection.connect(str(path))
        connection.sendall(struct.pack(">IB", 1, REQUEST_IDENTITIES))
        head = b""
        while len(head) < 9 and (more := connection.recv(9 - len(head))):
            head += more
    if len(head) < 9 or head[4] != IDENTITIES:
        raise OSError("it is something else")
    return int.from_bytes(head[5:], "big")


# What agents lack


def findings(client: docker.DockerClient) -> Iterator[Finding]:
    """Compare what the host's network needs with what each running agent has."""
    try:
        bundle = ca_bundle(None)
    except Problem as problem:
        yield Finding("network", "warning", str(problem), "unset that variable, or name another file")
        return
    needed = [name for name in PROXIES if _value(os.environ, name)]
    words = [f"certificates in {bundle}" if bundle else "no certificates of its own", *needed]
    yield Finding("network", "ok", f"{', '.join(words)}{'' if needed else ', no proxy'}")
    for container in client.containers.list(filters={"label": IMAGE_LABEL}, ignore_removed=True):
        lacks = [name for name in needed if not _value(_environment(container), name)]
        lacks += _certificates_lacking(container, bundle)
        if lacks:
            remedy = ps.up_again(container) if ps.LABEL in container.labels else "start it anew with compose.yaml"
            yield Finding(str(container.name), "warning", f"lacks what this host has: {', '.join(lacks)}", remedy)


def _certificates_lacking(container: Container, bundle: Path | None) -> list[str]:
    sources = {mount["Destination"]: mount.get("Source", "") for mount in container.attrs["Mounts"]}
    source = sources.get(CERTIFICATES, "")
    if source in ("", os.devnull):
        return ["its certificates"] if bundle and not source else []  # /dev/null may have been chosen
    files = container.labels.get(FILES_LABEL, "").split()
    try:
        return ["its present certificates"] if files and file_at(source) not in files else []
    except Problem:
        return ["its certificates, whose file is gone"]


def _environment(container: Container) -> dict[str, str]:
    return dict(line.partition("=")[::2] for line in container.attrs["Config"]["Env"])


def _value(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name) or environ.get(name.lower()) or ""
