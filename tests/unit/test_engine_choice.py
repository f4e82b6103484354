"""Which engine is chosen, and the error when it does not answer."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker.errors
import pytest
import requests.exceptions

from pipeline.bootstrap import engine, engine_setup
from pipeline.errors import Problem, docker_errors_as_problems
from pipeline.files import ROOT


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No variable names an engine, and Docker's configuration is empty."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_local_socket_by_default() -> None:
    assert engine.chosen().where in engine_setup.LOCAL_SOCKETS


def test_docker_host_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:2375")
    assert engine.chosen().where == "tcp://127.0.0.1:2375"


def test_unknown_context_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "nowhere")
    with pytest.raises(Problem, match="no Docker context nowhere"):
        engine.chosen()


def test_engine_away_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{unused.getsockname()[1]}")
        assert engine.version() is None


def make_context(bare: Path, host: str) -> None:
    """Make `far` the current context of Docker's command."""
    kept = bare / "contexts" / "meta" / hashlib.sha256(b"far").hexdigest() / "meta.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(json.dumps({"Name": "far", "Metadata": {}, "Endpoints": {"docker": {"Host": host}}}))
    (bare / "config.json").write_text(json.dumps({"currentContext": "far"}))


def test_current_context_counts(bare: Path) -> None:
    host = "tcp://127.0.0.1:2376"
    make_context(bare, host)
    found = subprocess.run(
        [sys.executable, "-c", "from pipeline.bootstrap import engine; print(engine.chosen().where)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == host


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (docker.errors.DockerException("x"), "no Docker engine answers at HERE"),
        (requests.exceptions.ConnectionError("x"), "no Docker engine answers at HERE"),
        (requests.exceptions.ReadTimeout("x"), "did not answer in time"),
        (docker.errors.APIError("x", explanation="full up"), "refused: full up"),
    ],
)
def test_what_the_sdk_raises_is_told_in_one_line(raised: Exception, expected: str) -> None:
    with pytest.raises(Problem, match=expected) as caught, docker_errors_as_problems("HERE"):
        raise raised
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("task", ["build.prod", "agents.ps", "agents.down"])
def test_task_without_an_engine_says_so_in_one_line(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    done = subprocess.run([sys.executable, "-m", "invoke", task], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "no Docker engine answers at unix:///nowhere.sock; run `bin/invoke engine.up`, "
        "or `bin/invoke engine.doctor` for why"
    ]


@pytest.mark.parametrize(
    ("variables", "way_back"),
    [
        ({"DOCKER_HOST": "tcp://{here}"}, "unset DOCKER_HOST"),
        ({"DOCKER_HOST": "ssh://somebody@{here}"}, "unset DOCKER_HOST"),
        ({"DOCKER_CONTEXT": "far"}, "unset DOCKER_CONTEXT"),
        ({}, "docker context use default"),
    ],
    ids=["tcp", "ssh", "context", "current-context"],
)
def test_engine_elsewhere_gets_no_agent_and_no_connection(
    variables: dict[str, str], way_back: str, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as far:
        far.setblocking(False)
        here = f"127.0.0.1:{far.getsockname()[1]}"
        make_context(bare, f"tcp://{here}")
        monkeypatch.setenv("CLAUDE_BRIDGE_STATE", str(bare / "bridge"))
        for name, value in variables.items():
            monkeypatch.setenv(name, value.format(here=here))
        done = subprocess.run([sys.executable, "-m", "invoke", "up"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1
        assert (done.stdout, done.stderr.count("\n")) == ("", 1)
        assert f"{here} is reached over the network, so it cannot mount folders of this machine" in done.stderr
        assert f"type `{way_back}`" in done.stderr
        with pytest.raises(BlockingIOError):
            far.accept()
    assert not (bare / "bridge").exists()


FACTS: dict[str, dict[str, Any]] = {
    "usual": {"SecurityOptions": ["name=seccomp,profile=builtin"], "DockerRootDir": "/var/lib/docker"},
    "old": {"SecurityOptions": None, "DockerRootDir": "/var/lib/docker"},
    "rootless": {
        "SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless"],
        "DockerRootDir": "/home/me/.local/share/docker",
    },
    "remapped": {
        "SecurityOptions": ["name=seccomp,profile=builtin", "name=userns"],
        "DockerRootDir": "/var/lib/docker/165536.165536",
    },
}
PODMAN = [{"Name": "Podman Engine", "Version": "4.3.1"}, {"Name": "Conmon"}]


@pytest.mark.parametrize(
    ("facts", "components", "expected"),
    [
        ("usual", [{"Name": "Engine"}], engine.USUAL),
        ("old", None, engine.USUAL),
        ("rootless", [{"Name": "Engine"}], engine.Kind(person=os.geteuid())),
        ("remapped", [{"Name": "Engine"}], engine.Kind(first=165536)),
        ("usual", PODMAN, engine.Kind(is_podman=True)),
        ("rootless", PODMAN, engine.Kind(person=os.geteuid(), is_podman=True)),
    ],
)
def test_kind_of_an_engine_comes_from_its_own_facts(facts: str, components: object, expected: engine.Kind) -> None:
    """The facts are those of real engines; tests/image/test_other_engines.py asks some."""

    answers: Any = SimpleNamespace(info=lambda: FACTS[facts], version=lambda: {"Components": components})
    assert engine.kind_of(answers, "unix:///nowhere.sock") == expected


def test_engine_elsewhere_is_never_started_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    monkeypatch.setattr(engine_setup, "plugin_version", lambda _: "1.0.0")
    with pytest.raises(Problem, match=r"unix:///nowhere\.sock; start it, or unset DOCKER_HOST"):
        engine_setup.up(print)


def test_suite_is_announced_before_it_is_added_with_the_way_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_setup, "APT_FILES", tmp_path)
    for folder in ("sources.list.d", "preferences.d"):
        (tmp_path / folder).mkdir()
    (tmp_path / "sources.list").write_text("deb http://mirror.example/debian bookworm main\n")
    there_when_told: list[bool] = []
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        there_when_told.append((tmp_path / "sources.list.d" / "magents-trixie.sources").exists())

    engine_setup._add_suite("trixie", say)
    (line,) = said
    assert there_when_told == [False]
    assert "trixie is added to apt's sources" in line
    undo = line.partition("to undo: rm ")[2].partition(" && apt-get update")[0].split()
    assert sorted(map(str, tmp_path.rglob("magents-*"))) == sorted(undo)
    assert "URIs: http://mirror.example/debian\n" in Path(undo[0]).read_text()
