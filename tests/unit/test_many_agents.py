"""What a person asks of `agents.up`, what of it stays, and how several agents are worked on at the same time."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import docker
import docker.errors
import pytest
from docker.models.containers import Container
from invoke import Exit

from commands.wishes import Asked, refuse_unknown, wanted
from pipeline.agents import clone, compose, many, names, prompts, records, settings, starting, updating
from pipeline.agents.host import Host
from pipeline.agents.overview import Overview
from pipeline.agents.settings import Lasting, Settings
from pipeline.agents.starting import Checked
from pipeline.agents.states import IDLE, WAITING_FOR_PERSON, WORKING, State
from pipeline.agents.workspace import Owner
from pipeline.build import image
from pipeline.errors import Problem
from pipeline.files import ROOT
from tests.support.bridge_host import OWNER
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("CLAUDE_BRIDGE_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


# Settings that stay


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"cpus": "many"}, "--cpus many is no number of processors"),
        ({"cpus": "9999"}, "more than this machine has"),
        ({"cpus": "-1"}, "is no number of processors"),
        ({"memory": "lots"}, "--memory lots is no size"),
        ({"memory": "1m"}, "too little for an agent"),
        ({"memory": "-4g"}, "is no size"),
        ({"memory": "999999999999g"}, "more than this machine has"),
        ({"env": ["TOKEN=secret"]}, "type `export TOKEN=...` and then --env TOKEN$"),
        ({"env": ["A B"]}, "is no name of a variable"),
        ({"env": ["HOST_HAS_IT_NOT"]}, "it is not set in this shell, so nothing was started"),
        ({"env": ["", "A"]}, "is no name of a variable"),
        ({"env": ["AGENT_NAME"]}, "the image sets that one itself"),
        ({"env": ["PATH"]}, "the image sets that one itself"),
        ({"command": "x" * 100_001}, "more than 100,000 bytes"),
    ],
)
def test_setting_that_cannot_be_is_refused_in_one_line(words: dict[str, Any], why: str) -> None:
    given = {"command": None, "cpus": None, "memory": None, "env": [], **words}
    with pytest.raises(Problem, match=why) as refused:
        Lasting.of(**given)
    assert refused.value.code == 64
    assert "secret" not in str(refused.value)


def test_settings_stay_until_others_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("A", "B"):
        monkeypatch.setenv(name, "")
    first = Lasting.of("claude", "0.5", "2g", ["B", "A", "B"]).over(Settings())
    assert (first.command, first.cpus, first.memory, first.env) == ("claude", "0.5", "2g", ("B", "A"))
    assert Lasting.of(None, None, None, []).over(first) == first
    assert Lasting.of("", "0", "0", [""]).over(first) == Settings()


def test_settings_are_read_from_a_record_again(tmp_path: Path) -> None:
    chosen = Settings("claude", env=("A",), protect=("x", "y"), clone=True)
    agent = names.claim(tmp_path, "shop", print, choose=lambda before: dataclasses.replace(before, **vars(chosen)))
    assert names.claim(tmp_path, "shop", print) == agent, "who starts a bridge chooses nothing"
    assert (records.named("shop"), agent.settings) == (agent, chosen)
    (file,) = records.every()
    (path,) = (tmp_path / "state" / "agents").glob("*.json")
    earlier = json.loads(path.read_text())
    del earlier["settings"]
    path.write_text(json.dumps(earlier))
    assert records.every() == [dataclasses.replace(file, settings=None)], "a record of an earlier version"


def test_values_of_variables_are_this_shell_s_when_asked_for_and_the_container_s_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = cast("Container", SimpleNamespace(attrs={"Config": {"Env": ["A=old", "B=x=y"]}}))
    monkeypatch.setenv("A", "new")
    monkeypatch.delenv("B", raising=False)
    assert settings.values(["A", "B"], ["A"], "shop", before) == {"A": "new", "B": "x=y"}
    assert settings.values(["A", "B"], [], "shop", before) == {"A": "old", "B": "x=y"}
    assert settings.values(["A"], [], "shop", None) == {"A": "new"}
    with pytest.raises(Problem, match="agent shop is to have B, which is not set in this shell"):
        settings.values(["A", "B"], ["B"], "shop", before)


# What a person asks for


@pytest.fixture
def shops(tmp_path: Path) -> Path:
    """A folder that is not root's."""
    place = tmp_path / "shops"
    place.mkdir()
    if os.geteuid() == 0:
        os.chown(place, OWNER, OWNER)
    return place


def test_so_many_agents_get_folders_of_their_own(shops: Path) -> None:
    wishes = wanted({}, Asked(workspace=str(shops), count="3"), "shop")
    places = [shops / f"shop-{number}" for number in (1, 2, 3)]
    assert [(each.name, each.workspace) for each in wishes] == [(place.name, place) for place in places]
    assert all(place.is_dir() and place.stat().st_uid == shops.stat().st_uid for place in places)
    assert wanted({}, Asked(workspace=str(shops), count="3"), "shop")[0].workspace == places[0], "once more"
    assert [each.name for each in wanted({}, Asked(workspace=str(shops), count="2"), "")] == [
        f"{names.of_folder(shops)}-{number}" for number in (1, 2)
    ]


def test_so_many_clones_are_of_one_repository(tmp_path: Path) -> None:
    wishes = wanted({}, Asked(clone=str(tmp_path), count="2", command="claude"), "shop")
    assert [(each.name, each.workspace, each.clone) for each in wishes] == [
        ("shop-1", tmp_path, True),
        ("shop-2", tmp_path, True),
    ]
    assert list(tmp_path.iterdir()) == []


def test_link_in_the_place_of_a_folder_leads_nowhere_new(shops: Path) -> None:
    (shops / "shop-1").symlink_to("/etc/nothing")
    with pytest.raises(Problem, match="shop-1 is no folder"):
        wanted({}, Asked(workspace=str(shops), count="1"), "shop")
    (shops / "shop-1").unlink()
    (shops / "shop-2").write_text("")
    with pytest.raises(Problem, match="shop-2 is no folder"):
        wanted({}, Asked(workspace=str(shops), count="2"), "shop")


@pytest.mark.parametrize(
    ("asked", "name", "why"),
    [
        (Asked(count="2"), "shop", "--count needs a place"),
        (Asked(workspace=".", count="-2"), "shop", "between 1 and 1,000"),
        (Asked(workspace=".", count="0"), "shop", "--count is '0'; give a whole number between 1 and 1,000"),
        (Asked(workspace=".", count=""), "shop", "between 1 and 1,000"),
        (Asked(workspace=".", count="x"), "shop", "between 1 and 1,000"),
        (Asked(workspace=".", count="1001"), "shop", "between 1 and 1,000"),
        (Asked(workspace=".", clone=".", count="1"), "shop", "give the agent one of them"),
        (Asked(workspace=".", count="100"), "s" * 60, "cannot be called"),
        (Asked(clone_with=[".env"]), "shop", "--clone-with counts with --clone only"),
        (Asked(clone=True, protect=["x"]), "shop", "not for a clone"),
    ],
)
def test_words_that_do_not_fit_are_refused(asked: Asked, name: str, why: str) -> None:
    with pytest.raises(Problem, match=why) as refused:
        wanted({}, asked, name)
    assert refused.value.code == 64


def test_agent_that_is_known_goes_on_as_it_was_started(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"there is no agent shop \(there are: none\)"):
        refuse_unknown(Asked(), "shop")
    kept = Settings("claude", variant="dev", image="mine:1", clone=True, ssh_agent=True, as_root=True)
    names.claim(tmp_path, "shop", print, choose=lambda _: kept)
    refuse_unknown(Asked(), "shop")
    (again,) = wanted({}, Asked(memory="1g"), "shop")
    assert (again.workspace, again.variant, again.reference) == (tmp_path, image.VARIANTS["dev"], "mine:1")
    assert (again.clone, again.ssh_agent, again.as_root) == (True, True, True)
    assert again.settings(kept) == dataclasses.replace(kept, memory="1g")
    (other,) = wanted({}, Asked(variant="prod"), "shop")
    assert (other.variant, other.reference) == (image.VARIANTS["prod"], None)
    (elsewhere,) = wanted({}, Asked(workspace=str(tmp_path)), "shop")
    assert (elsewhere.clone, elsewhere.ssh_agent) == (False, False), "with a folder, a person says it all anew"
    with pytest.raises(Exit, match="there is no variant web"):
        wanted({}, Asked(variant="web"), "shop")


def test_folder_of_root_s_gets_no_sub_folders(shops: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would be root's for ever, also after the folder was given to somebody."""
    made = os.stat_result((0o40755, 1, 1, 2, 0, 0, 0, 0, 0, 0))
    monkeypatch.setattr(Path, "stat", lambda *_, **__: made)
    with pytest.raises(Problem, match="belongs to root"):
        wanted({}, Asked(workspace=str(shops), count="2"), "shop")
    assert os.listdir(shops) == []  # noqa: PTH208 - pathlib asks `stat`, which is replaced here


def test_image_that_cannot_be_run_is_not_kept(tmp_path: Path) -> None:
    """Neither as an agent's image for the next time, nor a name as one that is known."""

    def get(_: str) -> None:
        raise docker.errors.ImageNotFound("none")

    client = cast("docker.DockerClient", SimpleNamespace(images=SimpleNamespace(get=get)))
    wish = starting.Wanted(tmp_path, "shop", reference="nosuch:1")
    with pytest.raises(Problem, match="image nosuch:1 is not on this machine, so nothing was started"):
        starting.claim(client, [Checked(wish, Owner(1000, 1000), Host())], image.require, print)
    assert records.every() == []


def test_several_are_claimed_at_once_and_again(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("a", "b")]
    for place in places:
        place.mkdir()
    wishes = [(place, place.name) for place in places]
    first = names.claim_each(wishes, print)
    assert [agent.name for agent in first] == ["a", "b"]
    assert names.claim_each(wishes, print) == first
    with pytest.raises(Problem, match="agent a belongs to"):
        names.claim_each([(places[1], "c"), (places[1], "a")], print)
    together = [(tmp_path, f"clone-{number}") for number in (1, 2)]
    assert [(agent.name, agent.folder) for agent in names.claim_each(together, print)] == [
        ("clone-1", str(tmp_path)),
        ("clone-2", str(tmp_path)),
    ]


# Several at a time


def test_several_are_at_work_at_the_same_time_and_each_failure_is_told() -> None:
    meeting = threading.Barrier(3, timeout=20)
    told: list[str] = []

    def work(name: str) -> str:
        if name == "bad":
            raise Problem("it is broken", 3)
        meeting.wait()
        return name.upper()

    everyone = ["a", "b", "bad", "c"]
    results = many.at_once(everyone, work, 4, lambda name, found: told.append(f"{name} {found}"))
    assert sorted(told) == ["a A", "b B", "bad it is broken", "c C"]
    with pytest.raises(Problem, match=r"^1 of 4 agents could not be started \(bad\), for the reasons above") as failed:
        many.raise_failures(results, "started")
    assert failed.value.code == 3
    with pytest.raises(Problem, match=r"^it is broken$"):
        many.raise_failures({"bad": results["bad"]}, "started")
    del results["bad"]
    assert many.raise_failures(results, "started") == ["A", "B", "C"]


def test_what_all_agents_say_is_said_once_and_counted() -> None:
    said: list[str] = []
    told = many.Told(said.append)
    for number in (1, 2, 3):
        tell = told.of(f"shop-{number}", f"/srv/shop-{number}")
        tell(f"missing in /srv/shop-{number}: .envrc")
        tell(f"init-volumes: 1 changed, 0.0{number} s")
    told.of("shop-2")("another line")
    told.finish()
    assert said == [
        "missing in /srv/shop-1: .envrc",
        "shop-1: init-volumes: 1 changed, 0.01 s",
        "shop-2: another line",
        "likewise for 2 more agents: missing in /srv/shop-1: .envrc",
        "likewise for 2 more agents: shop-1: init-volumes: 1 changed, 0.01 s",
    ]


def test_lock_of_an_agent_is_held_until_everybody_who_has_it_ends(state: Path) -> None:
    """A Compose whose caller was killed holds the lock as well."""
    said: list[str] = []
    with names.busy_with("shop", said.append) as lock:
        heir = os.dup(lock)
    waiting, entered = threading.Event(), threading.Event()

    def say(line: str) -> None:
        said.append(line)
        waiting.set()

    def enter() -> None:
        with names.busy_with("shop", say):
            entered.set()

    thread = threading.Thread(target=enter)
    thread.start()
    assert waiting.wait(20)
    assert not entered.is_set()
    os.close(heir)
    assert entered.wait(20)
    thread.join()
    assert said == ["another command is at work on this; waiting for it ..."]


def test_those_at_work_are_updated_last() -> None:
    states = {"a": WORKING, "b": WAITING_FOR_PERSON, "c": IDLE, "d": "waiting_for_turn"}
    found = {name: cast("Overview", SimpleNamespace(state=State(state))) for name, state in states.items()}
    assert sorted(states, key=lambda name: (updating.rank(found[name]), name)) == ["c", "b", "a", "d"]


# Texts for a pane


def test_text_is_checked_before_it_is_typed() -> None:
    assert prompts.checked("--a\r\n\t'ä🙂'\n\n") == "--a\n\t'ä🙂'"
    for text, why in {
        " \n": "is empty",
        "a\x1b[201~b": "control character '.x1b'",
        "a\rb": "control character",
        "a\x9bb": "control character",
        "\udcff": "is not UTF-8",
        "x" * (prompts.LONGEST + 1): "more than 1,048,576 bytes",
    }.items():
        with pytest.raises(Problem, match=why) as refused:
            prompts.checked(text)
        assert refused.value.code == 64


KILLS_ITS_CALLER = """#!/bin/sh
kill -KILL "$PPID"
cat >"$0.read.part" && mv "$0.read.part" "$0.read"
"""


def test_compose_reads_the_whole_file_of_a_caller_that_is_killed(tmp_path: Path) -> None:
    """Else it would take what it has read for the whole, and make another agent with other volumes."""
    stub = tmp_path / "docker"
    stub.write_text(KILLS_ITS_CALLER)
    stub.chmod(0o755)
    label = "x" * 300_000  # more than a pipe holds
    code = (
        "from pipeline.agents.compose import Project\n"
        f"Project('up-magents-shop', 'prod', 'i', service={{'labels': {{'x': '{label}'}}}})._compose('config')"
    )
    script = tmp_path / "caller.py"
    script.write_text(code)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, script], env=environment).returncode == -signal.SIGKILL
    read = tmp_path / "docker.read"
    wait_until(read.exists, 20, "the stand-in for Compose to end")
    assert json.loads(read.read_text())["services"]["agent"]["labels"] == {"x": label}


def test_compose_holds_the_lock_of_its_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So nobody else works on the agent while a Compose is at it whose caller was killed."""
    (tmp_path / "docker").write_text("#!/bin/sh\nreadlink /proc/$$/fd/*\nexit 0\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with names.busy_with("shop", print) as lock:
        project = compose.Project("up-magents-shop", "prod", "magents/agent:latest", lock=lock)
        assert str(tmp_path / "state/agents/shop.lock") in project._compose("config").splitlines()


def test_half_made_clone_counts_as_something_to_end(state: Path) -> None:
    assert clone.unfinished() == []
    (state.with_name("magents") / "clones" / "shop" / "clone.new").mkdir(parents=True)
    assert clone.unfinished() == ["shop"]
