"""git in a live container: who commits, and ssh to a real server, with the operator's ssh agent and without.

The server is Debian's sshd in a second container. It would ask for a password, and so would ssh.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from tests.support.containers import LABEL, SESSION, Agent, Agents, agents
from tests.support.waiting import wait_until

UID = 1234
FORGE = """
set -eu
apt-get update -q=2 -o Acquire::Retries=3
DEBIAN_FRONTEND=noninteractive apt-get install -y -q=2 --no-install-recommends openssh-server > /dev/null 2>&1
mkdir -p /run/sshd
echo "$KEY" > /srv/keys
git init -q --bare /srv/hello.git
git -C /srv/hello.git -c user.name=x -c user.email=x@y commit-tree -m x "$(git -C /srv/hello.git mktree < /dev/null)" \
    > /srv/commit
git -C /srv/hello.git update-ref refs/heads/master "$(cat /srv/commit)"
exec /usr/sbin/sshd -D -e -o AuthorizedKeysFile=/srv/keys -o StrictModes=no -o PasswordAuthentication=yes
"""
INSTALL_S = 120
PROMPT_S = 15.0
"""An answer takes a second on a calm machine. A question would wait for ever."""


@dataclass(frozen=True)
class Desk:
    """An agent with an identity and the operator's ssh agent, and the address of a repository over ssh."""

    agent: Agent
    repository: str

    def sh(self, script: str) -> str:
        return self.agent.sh(f"set -e; {script}")

    def author(self, folder: str, variables: str = "") -> str:
        self.sh(f"cd {folder} && {variables} git commit -q --allow-empty -m x")
        return self.sh(f"git -C {folder} log -1 --format='%an <%ae>'")


@pytest.fixture(scope="module")
def ssh_agent() -> Iterator[tuple[Path, str]]:
    """The operator's ssh agent, with one key: its socket, and the public key."""
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are root's
    os.chown(folder, UID, UID)
    path, key = folder / "agent.sock", folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.PIPE, user=UID, group=UID)
    try:
        assert process.stdout
        process.stdout.readline()
        added = {**os.environ, "SSH_AUTH_SOCK": str(path)}
        subprocess.run(["ssh-add", "-q", str(key)], check=True, capture_output=True, env=added)
        yield path, key.with_suffix(".pub").read_text().strip()
    finally:
        process.terminate()
        process.communicate()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def desk(image: str, client: docker.DockerClient, ssh_agent: tuple[Path, str]) -> Iterator[Desk]:
    path, key = ssh_agent
    network = client.networks.create(f"magents-test-{uuid.uuid4().hex[:8]}", labels={LABEL: SESSION})
    try:
        with agents(image) as made:
            yield from _on_network(made, str(network.name), path, key)
    finally:
        network.remove()


def _on_network(made: Agents, network: str, path: Path, key: str) -> Iterator[Desk]:
    forge = made.start("-c", FORGE, entrypoint="bash", user="0:0", network=network, environment={"KEY": key})
    agent = made.healthy(
        user=f"{UID}:{UID}",
        group_add=["61000"],
        network=network,
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        tmpfs={"/tmp": "mode=1777"},
        volumes=[f"{path}:/ssh-agent:ro"],
        environment={
            "SSH_AUTH_SOCK": "/ssh-agent",
            "AGENT_GIT_NAME": "The Host",
            "AGENT_GIT_EMAIL": "host@example.org",
        },
    )
    forge.wait_log("Server listening on 0.0.0.0", INSTALL_S)
    yield Desk(agent, f"ssh://root@{forge.id}/srv/hello.git")


# Who commits


def test_host_s_identity_has_the_last_word_after_everybody_else_s(desk: Desk) -> None:
    desk.sh("git init -q /workspace/own; git init -q /workspace/other")
    assert desk.author("/workspace/own") == "The Host <host@example.org>"
    desk.sh("git -C /workspace/own config user.name 'The Project'")
    assert desk.author("/workspace/own") == "The Project <host@example.org>"
    assert desk.author("/workspace/other") == "The Host <host@example.org>"
    desk.sh("git config --global user.name 'The Agent'")
    assert desk.author("/workspace/other") == "The Agent <host@example.org>"
    assert desk.author("/workspace/own") == "The Project <host@example.org>"
    assert desk.author("/workspace/own", "GIT_AUTHOR_NAME='The Command'") == "The Command <host@example.org>"
    desk.sh("git config --global --unset user.name")


# ssh


@pytest.mark.parametrize("place", ["exec", "exec -t", "tmux"])
def test_without_a_key_ssh_fails_with_a_line_and_asks_nothing(desk: Desk, place: str) -> None:
    """With a terminal, ssh would ask for root's password, and for the key of a host that it does not know."""
    desk.sh("rm -f ~/.ssh/known_hosts")
    command = f"SSH_AUTH_SOCK= git ls-remote {desk.repository} > /tmp/said 2>&1; echo ended $? >> /tmp/said"
    desk.sh("rm -f /tmp/said")
    if place == "tmux":
        desk.agent.tmux("new-window", "-d", command)
    else:
        flags = ["-t"] if place == "exec -t" else []
        started = ["docker", "exec", "--detach", *flags, desk.agent.id, "bash", "-c", command]
        subprocess.run(started, check=True, capture_output=True)
    said = wait_until(
        lambda: found if "ended" in (found := desk.sh("cat /tmp/said 2> /dev/null || true")) else "",
        PROMPT_S,
        "git to end",
    )
    assert "Permission denied (publickey" in said
    assert said.endswith("ended 128")
    assert desk.sh("wc -l < /agent/home/.ssh/known_hosts").strip() != "0"


def test_operator_s_ssh_agent_opens_the_repository_and_keeps_its_key(desk: Desk) -> None:
    assert "refs/heads/master" in desk.sh(f"git ls-remote {desk.repository}")
    assert desk.sh("ssh-add -l").count("ED25519") == 1
    assert desk.sh("ls -A /agent/home/.ssh").split() == ["known_hosts"]


def test_another_key_of_a_known_host_is_refused_without_a_question(desk: Desk) -> None:
    host = desk.repository.split("@")[1].split("/")[0]
    desk.sh(f"ssh-keygen -q -t ed25519 -N '' -f /tmp/other; echo {host} $(cat /tmp/other.pub) > ~/.ssh/known_hosts")
    code, said = desk.agent.try_run("git", "ls-remote", desk.repository)
    desk.sh("rm ~/.ssh/known_hosts")
    assert (code, "Host key verification failed" in said) == (128, True)


def test_person_may_choose_to_be_asked(desk: Desk) -> None:
    chosen = "ssh -T -G somewhere | grep batchmode"
    assert desk.sh(chosen) == "batchmode yes"
    assert desk.sh(chosen.replace("-T", "-T -o BatchMode=no")) == "batchmode no"
    desk.sh("printf 'Host some*\\n BatchMode no\\n' > ~/.ssh/config")
    assert desk.sh(f"{chosen}; rm ~/.ssh/config") == "batchmode no"


# Clones in clones


def test_submodule_and_nested_clone_work(desk: Desk) -> None:
    desk.sh(
        f"git init -q /workspace/outer; cd /workspace/outer; git submodule --quiet add {desk.repository} sub; "
        f"git commit -q -m sub; git clone -q --recurse-submodules /workspace/outer /workspace/outer/nested"
    )
    assert (
        desk.sh("git -C /workspace/outer/sub status --short; git -C /workspace/outer/nested/sub log --format=%s") == "x"
    )


def test_clone_of_somebody_else_says_what_to_type(desk: Desk) -> None:
    desk.agent.sh("git init -q /workspace/vendor", user="0:0")
    code, said = desk.agent.try_run("git", "-C", "/workspace/vendor", "status")
    (remedy,) = [line.strip() for line in said.splitlines() if "safe.directory" in line]
    assert (code, remedy) == (128, "git config --global --add safe.directory /workspace/vendor")
    desk.sh(f"{remedy}; git -C /workspace/vendor status --short")
