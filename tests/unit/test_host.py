"""What an agent gets from its host: git's identity, the ssh agent, and the settings that only `up` can know."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.agents import host as hosts
from pipeline.agents.workspace import Owner
from pipeline.errors import Problem
from tests.support import certificate

ME = Owner(os.geteuid(), os.getegid())
NONE = {"source": os.devnull, "target": hosts.CERTIFICATES}, {"source": os.devnull, "target": "/ssh-agent"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person's home, where git finds its settings."""
    made = tmp_path / "home"
    made.mkdir()
    monkeypatch.setenv("HOME", str(made))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return made


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A workspace that is a clone."""
    made = tmp_path / "project"
    subprocess.run(["git", "init", "--quiet", str(made)], check=True)
    return made


def service(environment: dict[str, str | None], *volumes: dict[str, str]) -> dict[str, Any]:
    return {"environment": environment, "volumes": list(volumes or NONE)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[user]\nname = Ann "A" $B\nemail = a@b', {"AGENT_GIT_NAME": "Ann A $B", "AGENT_GIT_EMAIL": "a@b"}),
        ('[user]\nname = "Ünï \\"x\\""\nemail = " "', {"AGENT_GIT_NAME": 'Ünï "x"'}),
        ("[user]\nname = first\n[user]\nname = last", {"AGENT_GIT_NAME": "last"}),
        ("[core]\nautocrlf = true\n[credential]\nhelper = store", {}),
        ("[user\nname = broken", {}),
    ],
)
def test_identity_is_name_and_address_of_the_person_alone(
    home: Path, project: Path, text: str, expected: dict[str, str]
) -> None:
    (home / ".gitconfig").write_text(text + "\n")
    with (project / ".git" / "config").open("a") as file:
        file.write("[user]\nname = the project's\nemail = project@example.org\n")
    assert hosts.identity(project) == expected


def test_identity_may_depend_on_the_folder(home: Path, project: Path) -> None:
    (home / "work").write_text("[user]\nemail = at@work\n")
    condition = f'[user]\nname = Ann\nemail = at@home\n[includeIf "gitdir:{project}/"]\npath = work\n'
    (home / ".gitconfig").write_text(condition)
    assert hosts.identity(project)["AGENT_GIT_EMAIL"] == "at@work"
    assert hosts.identity(home)["AGENT_GIT_EMAIL"] == "at@home"
    if os.geteuid() == 0:  # root runs `up` on folders of other users
        subprocess.run(["chown", "-R", "1234:1234", str(project)], check=True)
        assert hosts.identity(project)["AGENT_GIT_EMAIL"] == "at@work"


@pytest.mark.parametrize("text", ["[include]\npath = ../pipe\n", "[user\n"])
def test_settings_of_a_project_cannot_hold_up_the_host(
    text: str, home: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "ANSWER_S", 1.0)
    os.mkfifo(project / "pipe")
    (project / ".git" / "config").write_text(text)
    (home / ".gitconfig").write_text("[user]\nname = Ann\n")
    assert hosts.identity(project) == {"AGENT_GIT_NAME": "Ann"}


def test_settings_of_the_environment_win_over_git_s() -> None:
    host = hosts.Host(identity={"AGENT_GIT_NAME": "git's", "AGENT_GIT_EMAIL": "git@here"})
    said: list[str] = []
    found = hosts.settings(service({"AGENT_GIT_NAME": "of .env", "HTTP_PROXY": "x"}), host, said.append)
    assert (found["environment"]["AGENT_GIT_EMAIL"], "AGENT_GIT_NAME" in found["environment"]) == ("git@here", False)
    both = {"AGENT_GIT_NAME": "of .env", "AGENT_GIT_EMAIL": "a@b"}
    hosts.settings(service({**both}), hosts.Host(), said.append)
    assert not said
    for name in both:  # git cannot commit with one of them
        hosts.settings(service({**both, name: None}), hosts.Host(), said.append)
    assert said == [hosts.NO_IDENTITY] * 2


PROXY_NAMES = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}


@pytest.mark.parametrize("proxy", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"])
def test_proxies_of_docker_s_own_settings_count_where_there_are_no_others(
    proxy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def added(value: str) -> dict[str, str | None]:
        return hosts.settings(service({proxy: value, "NO_PROXY": "x"}), hosts.Host(), print)["environment"]

    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert not added("http://p:1").keys() & PROXY_NAMES
    assert {name for name, value in added("").items() if value is None} >= PROXY_NAMES
    key = proxy.split("_")[0].lower() + "Proxy"
    (tmp_path / "config.json").write_text(
        json.dumps({"proxies": {"default": {key: "http://d:2", "noProxy": "inside"}}})
    )
    assert not added("http://p:1").keys() & PROXY_NAMES
    found = added("")
    assert found[proxy] == found[proxy.lower()] == "http://d:2"
    assert found["NO_PROXY"] == found["no_proxy"] == "inside,localhost,127.0.0.1,::1"


def test_container_is_made_anew_when_another_file_is_at_the_path_of_a_mounted_one(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("one")
    mounted = service({}, {"source": str(bundle), "target": hosts.CERTIFICATES}, NONE[1])

    def label() -> str | None:
        return hosts.settings(mounted, hosts.Host(), print)["labels"][hosts.FILES_LABEL]

    first = label()
    bundle.write_text("two")
    assert label() == first, "the container sees what is written to the same file"
    (tmp_path / "new").write_text("three")
    os.replace(tmp_path / "new", bundle)  # noqa: PTH105 - as update-ca-certificates does it
    assert label() != first
    bundle.unlink()
    with pytest.raises(Problem, match=rf"^{bundle} is to be handed to the agent, but: No such file"):
        label()


@pytest.mark.parametrize("kind", ["folder", "private key"])
def test_file_that_must_not_go_to_the_agent_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    if kind == "folder":
        path.mkdir()
    else:
        path.write_text("-----BEGIN EC PRIVATE KEY-----\n")
    with pytest.raises(Problem, match=f"{path} .*; name a"):
        hosts.settings(service({}, {"source": str(path), "target": hosts.CERTIFICATES}, NONE[1]), hosts.Host(), print)


# The ssh agent


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A real ssh agent that holds one key."""
    if not shutil.which("ssh-agent"):
        pytest.skip("this host has no ssh-agent")  # machines with git over ssh have it, so in the gate it never skips
    path = tmp_path / "agent.sock"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    subprocess.run(["ssh-add", "-q", str(tmp_path / "key")], check=True, capture_output=True)
    yield path
    process.terminate()
    process.communicate()


def test_ssh_agent_that_answers_is_handed_over(running: Path) -> None:
    said: list[str] = []
    assert hosts.answering_ssh_agent(ME, said.append) == running
    assert not [line for line in said if "no key" in line]
    subprocess.run(["ssh-add", "-q", "-D"], check=True, capture_output=True)
    hosts.answering_ssh_agent(ME, said.append)
    assert [line for line in said if "holds no key" in line]


def test_ssh_agent_refuses_another_user(running: Path) -> None:
    with pytest.raises(Problem, match=f"belongs to uid {ME.uid} and refuses uid 54321"):
        hosts.answering_ssh_agent(Owner(54321, 54321), print)


@pytest.mark.parametrize("kind", ["unset", "gone", "dead", "file"])
def test_ssh_agent_that_cannot_work_is_told_before_anything_starts(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "agent.sock"
    if kind == "dead":
        subprocess.run(["python3", "-c", f"import socket; socket.socket(1).bind({str(path)!r})"], check=True)
    if kind == "file":
        path.write_text("")
    monkeypatch.setenv("SSH_AUTH_SOCK", "" if kind == "unset" else str(path))
    with pytest.raises(Problem, match=r"start one with `eval \$\(ssh-agent\)`"):
        hosts.answering_ssh_agent(ME, print)


def test_file_in_the_workspace_is_not_handed_over(project: Path, home: Path) -> None:
    """The agent could put a link to any file of this host in its place, and it would be mounted next time."""
    certificate.make(project)
    volumes = {"source": str(project / "certificate.pem"), "target": hosts.CERTIFICATES}, NONE[1]
    with pytest.raises(Problem, match="is in the agent's own workspace"):
        hosts.settings(service({}, *volumes, {"source": str(project), "target": "/workspace"}), hosts.Host(), print)
