"""Which engine is chosen, and the error when it does not answer."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
from pathlib import Path

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


def test_current_context_counts(bare: Path) -> None:
    host = "tcp://127.0.0.1:2376"
    kept = bare / "contexts" / "meta" / hashlib.sha256(b"far").hexdigest() / "meta.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(json.dumps({"Name": "far", "Metadata": {}, "Endpoints": {"docker": {"Host": host}}}))
    (bare / "config.json").write_text(json.dumps({"currentContext": "far"}))
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
