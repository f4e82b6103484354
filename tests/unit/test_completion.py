"""Completion of tasks and of agents' names: what the shells show, driven as they drive it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tasks
from commands.completion import table
from pipeline.files import ROOT
from tests.support.completion import AGENTS, ENGINE, run, with_docker

COMPLETE = [sys.executable, "-IS", str(ROOT / "bin" / "complete")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A folder for PATH with a `docker` that knows two agents."""
    return with_docker(tmp_path / "path", ENGINE)


def offered(path: Path, *words: str, folder: Path = ROOT) -> list[str]:
    return [line.split("\t")[0] for line in run([*COMPLETE, *words], path, folder)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["agents.wa"], ["agents.wait"]),
        (["agents.wait", ""], AGENTS),
        (["agents.wait", "shop", "c"], ["cart-2"]),
        (["agents.wait", "--until", "idle", "s"], ["shop"]),
        (["agents.wait", "shop", "--until", ""], ["idle", "waiting", "finished", "healthy"]),
        (["agents.wait", "--until=f"], ["--until=finished"]),
        (["agents.logs", "--follow", ""], AGENTS),
        (["agents.logs", "--name=s"], ["--name=shop"]),
        (["agents.logs", "--name", ""], AGENTS),
        (["agents.logs", "shop", "--tail", ""], []),
        (["agents.logs", "shop", "agents.p"], ["agents.ps", "agents.push"]),
        (["agents.logs", "--fo"], ["--follow"]),
        (["up", "--vari"], ["--variant"]),
        (["up", "--variant", ""], ["prod", "dev"]),
        (["up", "--workspace", ""], []),
        (["bui"], ["build.all", "build", "build.prod", "build.dev"]),
        (["build", "--pu"], ["--pull"]),
        (["nosuch", "agents.wait", "--"], ["--name", "--until", "--timeout", "--json", "--help", "--list"]),
    ],
)
@pytest.mark.parametrize("program", ["bin/invoke", "invoke"])
def test_words_that_are_offered(path: Path, program: str, words: list[str], expected: list[str]) -> None:
    assert offered(path, program, *words) == expected


def test_every_task_and_option_is_in_the_table() -> None:
    found = table(tasks.namespace)
    assert found.keys() >= {*tasks.namespace.task_names}
    assert all(each["help"] for each in found.values())
    assert found["agents.logs"]["options"].keys() == {"--name", "--follow", "-f", "--tail", "-n"}


def test_table_is_made_again_after_a_change_of_the_tasks(path: Path, tmp_path: Path) -> None:
    """The clone is one with a Python and two tasks of its own."""
    clone = tmp_path / "clone"
    for name in ("bin/complete", "commands/completion.py", "pipeline/build/image.py", "pipeline/agents/wait.py"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    (clone / ".venv").mkdir()
    (clone / "commands" / "completion.py").write_text("def table(found):\n    return found\n")

    def ask() -> list[str]:
        command = [sys.executable, "-IS", str(clone / "bin" / "complete"), "invoke", ""]
        return run(command, path, clone)

    for name in ("one", "two"):
        text = {name: {"help": "Do it.", "options": {}, "words": [], "any_number": False}}
        (clone / "tasks.py").write_text(f"namespace = {text!r}\n")
        made = clone / ".venv" / "completion.json"
        if made.exists():  # as if some time had passed
            os.utime(made, (1, 1))
        assert ask() == [f"{name}\tDo it."]
        (clone / "commands" / "completion.py").rename(clone / "commands" / "away")
        assert ask() == [f"{name}\tDo it."], "the table is kept"
        (clone / "commands" / "away").rename(clone / "commands" / "completion.py")


@pytest.mark.parametrize("script", ["#!/bin/sh\necho no engine >&2\nexit 1\n", "#!/bin/sh\nexec sleep 60\n"])
def test_engine_that_does_not_answer_is_no_error_on_the_terminal(tmp_path: Path, script: str) -> None:
    assert offered(with_docker(tmp_path / "path", script), "bin/invoke", "agents.wait", "") == []


@pytest.mark.parametrize("words", [[], ["bin/invoke"], ["bin/invoke", "agents.wait", "x"], ["/nosuch/invoke", "a"]])
def test_nothing_to_offer_is_silent_and_lets_the_shell_offer_files(tmp_path: Path, words: list[str]) -> None:
    env = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run([*COMPLETE, *words], cwd=ROOT, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_tasks_of_another_project_are_completed_by_invoke(path: Path, tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("from invoke import task\n\n@task\ndef other(_):\n    pass\n")
    folder = Path(sys.executable).parent
    assert offered(Path(f"{folder}:{path}"), "invoke", "o", folder=tmp_path) == ["other"]
    assert offered(path, str(tmp_path / "invoke"), "", folder=tmp_path) == []
