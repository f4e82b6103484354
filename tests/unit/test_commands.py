"""The tasks: one list of build options, and thin modules over a library that does not import Invoke."""

from __future__ import annotations

import ast
import re
from dataclasses import fields

import pytest
from invoke import Argument, Collection, Context, Exit, task
from invoke.parser import Parser, ParserContext

import tasks
from commands import options, output
from pipeline.build import image
from pipeline.errors import Problem
from pipeline.files import ROOT
from pipeline.release import hub, tags


@pytest.mark.parametrize("task", ["up", "build.all", "build.prod", "build.dev"])
def test_task_that_builds_has_every_option_of_a_build(task: str) -> None:
    explained = {argument.name.replace("_", "-"): argument.help for argument in tasks.namespace[task].get_arguments()}
    wanted = {each.name.replace("_", "-"): each.metadata["help"] for each in fields(image.Options)}
    assert wanted.items() <= explained.items()


def test_options_of_a_build_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[tuple[str, image.Options]] = []
    monkeypatch.setattr(image, "build", lambda _, variant, options, __: got.append((variant.name, options)))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    monkeypatch.setattr("docker.DockerClient", Engine)
    defaults = {each.name: each.default for each in fields(image.Options)}
    tasks.namespace["build.dev"](Context(), **{**defaults, "node": "22", "pull": True})
    assert got == [("dev", image.Options(node="22", pull=True))]


class Engine:
    """A stand-in for an engine's client."""

    def __init__(self, **_: object) -> None:
        pass

    def close(self) -> None:
        pass


def parsed(*words: str, tasks: Collection = tasks.namespace) -> dict[str, object]:
    """Return what Invoke makes of the words for a task."""
    found = Parser(initial=ParserContext(), contexts=tasks.to_contexts()).parse_argv(list(words))
    return {argument.name: argument.value for argument in found[-1].args.values()}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["agents.logs"], {"name": "", "follow": False}),
        (["agents.logs", "shop", "--follow"], {"name": "shop", "follow": True}),
        (["agents.logs", "--follow", "build"], {"name": "build", "follow": True}),
        (["agents.logs", "--name", "shop", "--tail", "5"], {"name": "shop", "tail": "5"}),
        (["agents.logs", "--tail", "5", "shop"], {"name": "shop", "tail": "5"}),
        (["agents.exec", "ls", "--name", "shop"], {"name": "shop", "command": "ls"}),
    ],
)
def test_first_word_of_a_task_is_the_agent_and_may_be_left_out(words: list[str], expected: dict[str, object]) -> None:
    assert expected.items() <= parsed(*words).items()


@pytest.mark.parametrize("words", [["agents.exec", "--help"], ["diff", "-h"], ["diff", "one", "--help"]])
def test_help_is_shown_for_a_task_that_lacks_its_words(words: list[str]) -> None:
    core = ParserContext(args=[Argument(names=("help", "h"), optional=True, kind=str)])
    found = Parser(initial=core, contexts=tasks.namespace.to_contexts()).parse_argv(words)
    assert found[0].args["help"].value == words[0]


@task(iterable=["name"], positional=["name"])
def several(_: Context, name: list[str], until: str = "idle", all: bool = False) -> None:  # noqa: A002
    """Take the names of agents."""


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], []),
        (["shop"], ["shop"]),
        (["shop", "build", "up"], ["shop", "build", "up"]),
        (["shop", "--until", "finished", "build"], ["shop", "build"]),
        (["--all", "shop", "--name", "build", "cart"], ["shop", "build", "cart"]),
    ],
)
def test_words_of_a_task_for_several_agents_are_their_names(words: list[str], names: list[str]) -> None:
    assert parsed("several", *words, tasks=Collection(several, tasks.namespace["build.all"]))["name"] == names


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["agents.logs", "one", "two"], "No idea what 'two' is; see `bin/invoke agents.logs --help`"),
        (["agents.ps", "--more"], "No idea what '--more' is; see `bin/invoke agents.ps --help`"),
        (["more"], "No idea what 'more' is; see `bin/invoke --list`"),
        (
            ["agents.logs", "--tail"],
            "Flag --tail needed value and was not given one; see `bin/invoke agents.logs --help`",
        ),
        (["agents.fetch", "--minutes", "soon"], "--minutes is 'soon'; give a whole number"),
    ],
)
def test_words_that_mean_nothing_are_refused_with_a_line_and_64(words: list[str], told: str) -> None:
    with pytest.raises(Exit) as caught:
        parsed(*words)
    assert (caught.value.message, caught.value.code) == (told, 64)


def test_every_option_has_a_help_text_and_a_chosen_name() -> None:
    for context in tasks.namespace.to_contexts():
        for argument in context.args.values():
            where = f"{context.name} {argument.names}"
            assert argument.help, where
            assert len(argument.names[0]) > 1, where
            assert set(argument.nicknames) <= {options.SHORT.get(argument.names[0])}, where
            if argument.kind is not bool:
                assert re.search(r"(=(STRING|INT)|\[=STRING\])$", context.help_for(f"--{argument.names[0]}")[0]), where
        for flag in [word for told, _ in context.help_tuples() for word in told.split(", ")]:
            assert re.match(r"--(\[no-\])?[a-z][a-z-]+(\[?=|$)|-[a-z]( |$)", flag), f"{context.name} {flag}"


def test_library_imports_no_invoke() -> None:
    for path in (ROOT / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] in {"invoke", "commands", "tasks"}], path


def test_newest_release_leaves_out_what_is_none() -> None:
    assert tags.newest(["1.2.3", "1.10.0", "2.0.0-rc.1"]) == "v1.10.0"
    assert tags.newest([]) == "main"


def test_description_names_every_variable_that_is_not_set() -> None:
    assert hub.credentials({hub.USER: "u", hub.TOKEN: "t"}) == ("u", "t")
    with pytest.raises(Problem, match=f"^{hub.USER} and {hub.TOKEN} must be set") as caught:
        hub.credentials({hub.TOKEN: ""})
    assert caught.value.code == 64


def test_table_for_a_pipe_has_one_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    rows = output.table("agent", "workspace")
    rows.add_row("shop", "/home/me/" + "long/" * 60)
    output.print_table(rows)
    assert len(capsys.readouterr().out.splitlines()) == 2
