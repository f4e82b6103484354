"""tasks.py: the names of its table are the tasks' own, and a command loads only the modules of its own tasks."""

from __future__ import annotations

import subprocess
import sys

import pytest
from invoke import Collection, Task

import tasks
from pipeline.files import ROOT

HEAVY = ("rich", "pipeline.agents.clone", "pipeline.release", "pipeline.build.image", "agent.volumes")
"""What `agents.ps --json` does not need. All of it takes as long to load as the rest."""


def test_names_of_the_table_are_those_that_the_tasks_have() -> None:
    every = tasks.table({*tasks.TASKS})
    for module, names in tasks.TASKS.items():
        loaded = sys.modules[f"commands.{module}"]
        for name, called in names.items():
            found = getattr(loaded, called)
            assert found.name == name.rpartition(".")[2]
            assert isinstance(found, Collection) or every[name] is found
        here = [(name, each) for name, each in vars(loaded).items() if isinstance(each, Task)]
        own = {name for name, each in here if each.__module__ == loaded.__name__}
        assert own <= {*names.values()}, "a task that nobody can type"


@pytest.mark.parametrize(
    ("words", "modules"),
    [
        ("agents.ps --json", {"agents_look"}),
        ("--search-root /x --write-pyc agents.ps", {"agents_look"}),
        ("build.prod up --name agents.ps", {"build", "agents_run", "agents_look"}),
        ("build", {"build"}),
        ("lifecycle.dev", {"lifecycle"}),
        ("agents.exec up", {"agents", "agents_run"}),
        ("agents.pss", {*tasks.TASKS}),
        ("agents", {*tasks.TASKS}),
        ("-h agents.ps", {*tasks.TASKS}),
        ("--list", {*tasks.TASKS}),
        ("build --list", {*tasks.TASKS}),
        ("agents.ps -l", {*tasks.TASKS}),
        ("--complete -- agents.ps", {*tasks.TASKS}),
        ("", {*tasks.TASKS}),
    ],
)
def test_command_loads_the_modules_of_its_tasks(words: str, modules: set[str]) -> None:
    assert tasks.typed(["invoke", *words.split()]) == modules


def test_listing_agents_loads_little() -> None:
    code = (
        "import sys; sys.argv = ['invoke', 'agents.ps', '--json']; import tasks; tasks.namespace['agents.ps'];"
        f"print([name for name in sys.modules if name.startswith({HEAVY!r})])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "[]\n"
