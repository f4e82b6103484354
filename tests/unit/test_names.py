"""An agent's name comes from its folder. What the agent keeps follows the folder, and is no other folder's."""

from __future__ import annotations

import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any, cast

import docker
import pytest

from bridge.server.operator.api import Operator
from pipeline.agents import names, ps, records
from pipeline.agents.records import Agent
from pipeline.errors import Problem
from pipeline.files import ROOT


@dataclass
class Engine:
    """A stand-in for an engine with containers of agents, and volumes. Each has its folder."""

    agents: dict[str, Path] = field(default_factory=dict)
    kept: dict[str, str | None] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    @property
    def client(self) -> docker.DockerClient:
        found = SimpleNamespace(
            api=SimpleNamespace(base_url="", get_adapter=lambda _: None),  # it has no socket
            containers=SimpleNamespace(list=self._containers),
            volumes=SimpleNamespace(list=self._volumes),
        )
        return cast("docker.DockerClient", found)

    def _volumes(self, **_: Any) -> list[Any]:
        labelled = {name: {ps.WORKSPACE_LABEL: folder} if folder else None for name, folder in self.kept.items()}
        return [SimpleNamespace(name=name, attrs={"Labels": labels}) for name, labels in labelled.items()]

    def _containers(self, *, filters: dict[str, str], sparse: bool = False, **_: Any) -> list[Any]:
        if sparse:
            return [name for name in self.agents if re.search(filters["name"], f"/{ps.container_name(name)}")]
        return [
            SimpleNamespace(
                labels={ps.LABEL: name, ps.WORKSPACE_LABEL: str(folder)},
                attrs={"Mounts": [{"Destination": "/agent", "Name": ps.volume_name(name)}]},
            )
            for name, folder in self.agents.items()
        ]

    def up(self, folder: Path, name: str | None = None, *, replace: bool = False) -> Agent:
        """Do what `up` does to names, containers and volumes."""
        agent = names.claim(folder, name, self.told.append, client=self.client, replace=replace)
        self.agents[agent.name] = folder
        self.kept.setdefault(agent.volume, str(folder))
        return agent


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("CLAUDE_BRIDGE_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def converse(state: Path, name: str, place: Path) -> Path:
    """Keep a conversation of a grant, also of one that has ended, and return its file."""
    Operator().own_directory("private")
    kept = state / "private" / name / records.key(str(place)) / "projects"
    kept.mkdir(parents=True)
    (kept / "said").touch()
    return kept / "said"


@pytest.mark.parametrize(
    ("called", "expected"),
    [
        ("shop", "shop"),
        ("My Shop (2).x_", "my-shop-2-x"),
        ("Läden & Straße", "laden-strasse"),
        ("2024-report", "2024-report"),
        (".config", "config"),
        ("商店", "agent"),
        ("---", "agent"),
        ("all", "agent-all"),
        ("Default", "agent-default"),
        ("a" * 23 + "-" + "b" * 200, "a" * 23),
    ],
)
def test_name_comes_from_the_folder(called: str, expected: str) -> None:
    assert names.of_folder(Path("/src", called)) == expected
    names.check(expected)


def test_workspace_beside_the_template_is_default() -> None:
    assert names.of_folder(ROOT / "workspace") == "default"
    assert names.of_folder(Path("/root")) == "root"
    assert names.of_folder(Path("/")) == "agent"


@pytest.mark.parametrize("name", ["", "all", "Shop", "a b", "-a", "a-", "a.b", "a_b", "é", "a/b", "a" * 64, "a\n"])
def test_name_that_the_engine_could_not_take_is_refused_with_one_that_it_could(name: str) -> None:
    with pytest.raises(Problem, match=r"^an agent cannot be called .* for example `--name ([a-z0-9-]+)`$") as caught:
        names.check(name)
    names.check(re.findall(r"--name ([a-z0-9-]+)", str(caught.value))[0])


def test_folders_of_one_name_get_names_of_their_own_and_keep_them(engine: Engine, tmp_path: Path) -> None:
    a, b, c = (folder(tmp_path / place / "shop") for place in "abc")
    assert [engine.up(place).name for place in (a, b, c, b, a)] == ["shop", "shop-2", "shop-3", "shop-2", "shop"]
    engine.agents.clear()  # as `agents.down` does
    assert [engine.up(place).name for place in (c, a, b)] == ["shop-3", "shop", "shop-2"]
    assert len(engine.kept) == 3


def test_container_that_is_no_agent_keeps_its_name(engine: Engine, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(ps, "is_taken", lambda _client, name: name == "shop")
    assert engine.up(folder(tmp_path / "shop")).name == "shop-2"


def test_name_of_another_folder_is_refused_until_it_is_taken(engine: Engine, state: Path, tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a"), folder(tmp_path / "b")
    engine.up(a, "shop")
    said = converse(state, "shop", a)
    with pytest.raises(Problem, match=rf"^agent shop belongs to {a}, so {b} does not get .* --replace to end shop .*$"):
        engine.up(b, "shop")
    engine.agents.clear()
    with pytest.raises(Problem, match="belongs to"):
        engine.up(b, "shop")
    engine.kept.clear()  # another engine has volumes of its own
    taken = engine.up(b, "shop", replace=True)
    assert taken.volume not in {"magents-shop-agent", ""}, "what the one folder's agent kept is no other's"
    again = engine.up(a)
    assert (again.name, again.volume) == ("a", "magents-shop-agent")
    assert (said.exists(), (state / "private/a" / records.key(str(a)) / "projects/said").exists()) == (False, True)
    assert engine.up(b) == taken


def test_folder_with_two_agents_asks_which(engine: Engine, tmp_path: Path) -> None:
    a = folder(tmp_path / "a")
    one, two = engine.up(a), engine.up(a, "web")
    assert one.volume != two.volume
    with pytest.raises(Problem, match=r"has the agents a, web, so nothing was started; add `--name a`"):
        engine.up(a)
    assert engine.up(a, "web") == two


def test_what_a_folder_has_moves_with_it(engine: Engine, state: Path, tmp_path: Path) -> None:
    old, new = folder(tmp_path / "shop"), tmp_path / "store"
    before = engine.up(old)
    converse(state, "shop", old)
    old.rename(new)
    after = engine.up(new)
    assert (after.name, after.volume) == (before.name, before.volume)
    assert engine.told == [f"agent shop goes on in {new}, as its folder was moved from {old}"]
    assert (state / "private/shop" / records.key(str(new)) / "projects/said").exists()
    engine.agents.clear()
    stranger = engine.up(folder(old))
    assert (stranger.name, stranger.volume) == ("shop-2", "magents-shop-2-agent")
    assert engine.up(new) == after


def test_call_that_was_killed_after_a_move_is_finished_by_the_next(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = folder(tmp_path / "shop"), tmp_path / "store"
    engine.up(old)
    old.rename(new)
    with monkeypatch.context() as context:
        context.setattr(records, "remove", _killed)
        with pytest.raises(KeyboardInterrupt):
            engine.up(new)
    assert engine.up(new).name == "shop"
    assert [agent.folder for agent in records.every()] == [str(new)]


def _killed(_: Agent) -> None:
    raise KeyboardInterrupt


def test_new_folder_with_the_old_one_s_inode_is_another(engine: Engine, tmp_path: Path) -> None:
    before = engine.up(folder(tmp_path / "shop"))
    (tmp_path / "shop").rmdir()  # a next directory often has the same inode
    after = engine.up(folder(tmp_path / "other"))
    assert (after.name, after.volume) == ("other", "magents-other-agent")
    assert engine.up(folder(tmp_path / "shop")) != after
    assert engine.up(tmp_path / "shop").volume == before.volume, "a folder that is cloned anew goes on"


def test_name_is_free_again_when_nothing_is_left(engine: Engine, tmp_path: Path) -> None:
    engine.up(folder(tmp_path / "a" / "shop"))
    shutil.rmtree(tmp_path / "a")
    assert engine.up(folder(tmp_path / "b" / "shop")).name == "shop-2"
    engine.agents.clear()
    engine.kept.clear()
    assert engine.up(folder(tmp_path / "c" / "shop")).name == "shop"


def test_two_at_the_same_time_do_not_get_one_name(engine: Engine, tmp_path: Path) -> None:
    places = [folder(tmp_path / str(number) / "shop") for number in range(4)] * 2
    together = Barrier(len(places))

    def claim(place: Path) -> str:
        together.wait()
        return names.claim(place, None, lambda _: None).name

    with ThreadPoolExecutor(len(places)) as pool:
        found = list(pool.map(claim, places))
    assert found[:4] == found[4:]
    assert sorted(found[:4]) == ["shop", "shop-2", "shop-3", "shop-4"]


def test_volume_of_another_user_s_agent_is_left_alone(engine: Engine, tmp_path: Path) -> None:
    engine.kept["magents-shop-agent"] = "/elsewhere/shop"
    assert engine.up(folder(tmp_path / "shop")).volume.startswith("magents-shop-agent-")
    engine.agents["other"] = Path("/elsewhere/other")
    assert engine.up(folder(tmp_path / "other")).name == "other-2"
    engine.agents["shop"] = Path("/elsewhere/shop")
    assert engine.up(tmp_path / "shop").name == "shop-2"


def test_record_that_cannot_be_kept_or_read_is_told(engine: Engine, state: Path, tmp_path: Path) -> None:
    place = folder(tmp_path / "shop")
    engine.up(place)
    next((state / "agents").glob("*.json")).write_text("{")
    with pytest.raises(
        Problem, match=r"^.*/shop\..*\.json, the record of an agent's name, .*; remove it and try again$"
    ):
        engine.up(place)
    shutil.rmtree(state)
    state.touch()
    with pytest.raises(Problem, match=r"^nothing can be kept in .* CLAUDE_BRIDGE_STATE to another directory of yours$"):
        engine.up(place)


# What an earlier version left: everything is called `default`, and there are no records


def test_agent_of_an_earlier_version_keeps_its_name(engine: Engine, tmp_path: Path) -> None:
    mine = engine.agents["default"] = folder(tmp_path / "mine")
    engine.kept["magents-default-agent"] = None
    assert engine.up(folder(tmp_path / "other")).name == "other"
    assert (engine.up(mine).name, engine.up(mine).volume) == ("default", "magents-default-agent")


@pytest.mark.parametrize("left", ["grant", "conversations"])
def test_agent_of_an_earlier_version_is_found_without_its_container(
    engine: Engine, state: Path, tmp_path: Path, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = folder(tmp_path / "mine")
    engine.kept["magents-default-agent"] = None
    if left == "grant":
        monkeypatch.setattr(Operator, "workspaces", lambda _: {"default": str(mine)})
    else:
        converse(state, "default", mine)
    assert engine.up(folder(tmp_path / "other")).name == "other"
    found = engine.up(mine)
    assert (found.name, found.volume) == ("default", "magents-default-agent")


def test_conversations_of_a_second_folder_under_default_follow_it(engine: Engine, state: Path, tmp_path: Path) -> None:
    first = engine.agents["default"] = folder(tmp_path / "first")
    engine.kept["magents-default-agent"] = None
    second = folder(tmp_path / "second")
    for place in (first, second):
        converse(state, "default", place)
    assert engine.up(second).name == "second"
    kept = {path.relative_to(state / "private").parts[:2] for path in (state / "private").rglob("said")}
    assert kept == {("default", records.key(str(first))), ("second", records.key(str(second)))}


# Without a name


@pytest.mark.parametrize(
    ("agents", "here", "expected"),
    [
        ({"shop": "shop"}, "elsewhere", "shop"),
        ({"shop": "shop", "web": "web"}, "web/deep", "web"),
        ({"shop": "shop", "web": "shop/web"}, "shop/web", "web"),
        ({"default": "d", "shop": "shop"}, "elsewhere", "default"),
        ({"default": "d", "shop": "shop"}, "shop", "shop"),
        ({}, "elsewhere", r"^there is no agent; run `bin/invoke up`$"),
        ({"shop": "shop", "web": "web"}, "elsewhere", r"^no agent works in .*: shop, web; name one, .* `--name shop`$"),
        ({"shop": "shop", "web": "shop"}, "shop", r"^several agents work in this folder: shop, web; name one, "),
        ({"default": "shop", "web": "shop"}, "shop", r"^several agents work in this folder: default, web; "),
    ],
)
def test_command_without_a_name_means_the_agent_of_the_present_folder(
    engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    agents: dict[str, str],
    here: str,
    expected: str,
) -> None:
    engine.agents = {name: tmp_path / place for name, place in agents.items()}
    (tmp_path / here).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / here)
    if expected[0] == "^":
        with pytest.raises(Problem, match=expected):
            names.meant(engine.client, "")
    else:
        assert names.meant(engine.client, "") == expected


def test_present_folder_that_was_removed_has_no_agent(engine: Engine, tmp_path: Path, monkeypatch: Any) -> None:
    engine.agents = {"shop": tmp_path / "gone"}
    monkeypatch.chdir(folder(tmp_path / "gone"))
    (tmp_path / "gone").rmdir()
    assert names.meant(engine.client, "") == "shop"
    monkeypatch.chdir(os.sep)
