"""Volumes and users of live containers: which users work, how volumes may be mounted, and what survives."""

from __future__ import annotations

import os
import re
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container

from agent import shared
from pipeline.agents import compose, ps
from pipeline.agents.workspace import Owner
from pipeline.build.image import Variant
from tests.support.containers import Agent, Agents
from tests.support.waiting import stays, wait_until

pytest_plugins = ("tests.support.fixtures",)

WITH_A_NAME = ["1000:1000", "1234:1234", "500:500"]
WITHOUT_ALL = {
    "4242:0": "names group 4242",
    "501:20": "names group 501",
    "0:0": "runs as root",
    "33:33": "ssh looks for keys in /var/www",
    "250:250": "has no name",
}
VOLUMES = ("/agent", "/shared", "/workspace")
IDENTITY = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
FILES = 100_000
SLOWER_THAN_FIND = 2.2
"""It takes 1.55 times the processor time of find; with a chown for each file it would be 3 times."""
NESTED = 12_000
"""Deeper than Python's recursion limit, and than the 4,096 bytes of a path allow."""
NEST = f"import os; os.chdir('{{}}'); [(os.mkdir('d'), os.chdir('d')) for _ in range({NESTED})]"
DEEPEST = (
    f"import os; os.chdir('{{}}'); [os.chdir('d') for _ in range({NESTED})]; "
    "found = os.stat('.'); print(found.st_uid, found.st_gid)"
)
GROUP = shared.GROUP


def mounts(agents: Agents, kind: str, tmp_path: Path, user: str) -> dict[str, object]:
    """Return the SDK's options for one kind of mount of all three volumes."""
    if kind == "anonymous":
        return {}
    if kind == "named":
        return {"volumes": [f"{agents.volume()}:{path}" for path in VOLUMES]}
    if kind == "tmpfs":
        return {"tmpfs": dict.fromkeys(VOLUMES, "mode=1777")}
    uid, gid = (int(part) for part in user.split(":"))
    binds = []
    for path in VOLUMES:
        directory = tmp_path / path[1:]
        directory.mkdir()
        os.chown(directory, uid, gid)
        binds.append(f"{directory}:{path}")
    return {"volumes": binds}


@pytest.mark.parametrize("read_only", [False, True], ids=["writable-root", "read-only-root"])
@pytest.mark.parametrize("kind", ["anonymous", "named", "bind", "tmpfs"])
@pytest.mark.parametrize("user", [*WITH_A_NAME, *WITHOUT_ALL])
def test_every_user_on_every_mount_is_healthy(
    agents: Agents, tmp_path: Path, user: str, kind: str, read_only: bool
) -> None:
    agent = agents.start(user=user, read_only=read_only, environment=IDENTITY, **mounts(agents, kind, tmp_path, user))
    agent.expect(*([WITHOUT_ALL[user]] if user in WITHOUT_ALL else [])).wait_healthy()
    agent.sh("cd /workspace && git init -q . && git commit -q --allow-empty -m first && git log --oneline | grep first")
    if user in WITHOUT_ALL:
        assert agent.log().count("WARNING") == 1
    else:
        assert agent.run("whoami") == ("agent" if user == "1000:1000" else f"agent{user.split(':')[0]}")


@pytest.mark.parametrize("user", WITH_A_NAME)
def test_user_with_a_name_has_all_that_depends_on_it(agents: Agents, user: str) -> None:
    agent = agents.healthy(user=user, environment=IDENTITY)
    name = agent.run("whoami")
    assert agent.run("node", "-p", "os.userInfo().username") == name
    assert agent.run("node", "-p", "os.userInfo().homedir") == "/agent/home"
    assert "No user exists" not in agent.try_run("ssh", "-o", "BatchMode=yes", "nobody@127.0.0.1", "true")[1]
    agent.sh("cd /workspace && git init -q . && git commit -q --allow-empty -m first")


def test_unwritable_agent_volume_is_told_with_its_remedy(agents: Agents, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    agent = agents.start(volumes=[f"{tmp_path}:/agent"]).expect("init-volumes", "health: volumes", "tmux")
    agent.wait_status("unhealthy")
    assert "init-volumes magents/agent 1000:1000" in agent.check("volumes")["detail"]
    assert "init-volumes magents/agent 1000:1000" in agent.wait_log("/agent/home cannot be made")
    assert "init-volumes" in agent.try_run("agent-status")[1]


def test_unwritable_workspace_names_the_user_that_could(agents: Agents, tmp_path: Path) -> None:
    os.chown(tmp_path, 1501, 1020)
    agent = agents.start(volumes=[f"{tmp_path}:/workspace"]).expect("health: volumes")
    agent.wait_status("unhealthy")
    assert "start the container with `--user 1501:1020`" in agent.check("volumes")["detail"]


def test_workspace_that_was_replaced_ends_no_agent(agents: Agents, tmp_path: Path) -> None:
    """The tmux server is killed, too, so that everything starts again in the folder that is no more.

    The limit is longer than two looks at tmux: one of them may meet no server.
    """
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    os.chown(workspace, 1000, 1000)
    agent = agents.healthy(volumes=[f"{workspace}:/workspace"], environment={"AGENT_UNHEALTHY_LIMIT": "7"})
    agent.expect("health: volumes", "tmux")
    workspace.rmdir()
    workspace.mkdir()
    assert agent.wait_status("unhealthy")["checks"]["volumes"]["detail"] == (
        "/workspace was replaced on the host: this container still has the folder that was removed there; type "
        f"`bin/invoke up` on the host, or `docker restart {agent.id}`, to get what is at its place now; if the "
        "folder was only moved, name it with `bin/invoke up --workspace`"
    )
    agent.container.exec_run(["pkill", "-KILL", "tmux"], workdir="/")
    wait_until(lambda: agent.health()["agent"]["restarts"] == 1, 10, "a new session")
    stays(lambda: agent.state()["Status"] == "running", 8, "the container")
    assert [agent.check(name)["status"] for name in ("tmux", "agent")] == ["pass", "pass"]


@pytest.mark.parametrize("path", ["/shared", "/workspace"])
def test_volume_mounted_read_only_is_healthy_and_says_so(agents: Agents, path: str) -> None:
    agent = agents.healthy(volumes=[f"{agents.volume()}:{path}:ro"])
    assert f"{path} is mounted read-only" in agent.check("volumes")["detail"]


def test_looking_at_the_workspace_leaves_no_trace(agents: Agents) -> None:
    agent = agents.healthy()
    before = agent.sh("stat -c '%Y %Z' /workspace; ls -A /workspace")
    seen = agent.check("volumes")["age_s"]
    wait_until(lambda: agent.check("volumes")["age_s"] < seen or seen < 0.2, 10, "another look")
    assert agent.sh("stat -c '%Y %Z' /workspace; ls -A /workspace") == before


@pytest.mark.parametrize("how", ["stop", "restart", "kill", "remove"])
def test_data_survives(agents: Agents, how: str) -> None:
    volumes = [f"{agents.volume()}:{path}" for path in VOLUMES]
    agent = agents.healthy(volumes=volumes).expect("was cut off")
    for path in VOLUMES:
        agent.sh(f"echo kept > {path}/data && sync {path}/data")
    agent = again(agents, agent, how, volumes)
    assert [agent.run("cat", f"{path}/data") for path in VOLUMES] == ["kept"] * 3


def again(agents: Agents, agent: Agent, how: str, volumes: list[str]) -> Agent:
    """Remove the agent in one of the ways, and start it again."""
    if how == "remove":
        agents.remove(agent)
        return agents.healthy(volumes=volumes).expect("was cut off")
    if how == "restart":
        agent.container.restart()
    else:
        agent.container.kill() if how == "kill" else agent.container.stop()
        agent.container.start()
    return agent.wait_healthy()


# -- init-volumes -----------------------------------------------------------------------------------------


def init_volumes(agents: Agents, *argv: str, **options: object) -> tuple[int, str, str]:
    options = {
        "user": "0:0",
        "entrypoint": ["init-volumes"],
        "cap_drop": ["ALL"],
        "cap_add": ["CHOWN", "DAC_OVERRIDE"],
        **options,
    }
    return agents.once(*argv, **options)


def test_init_volumes_gives_a_foreign_volume_to_the_agent(agents: Agents, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "state.json").write_text("{}")
    tmp_path.chmod(0o755)
    code, out, _ = init_volumes(agents, volumes=[f"{tmp_path}:/agent"])
    assert code == 0
    assert "/agent for 1000:1000: 3 looked at, 3 changed" in out
    agents.healthy(volumes=[f"{tmp_path}:/agent"]).expect("was cut off")


def test_init_volumes_is_idempotent_and_takes_another_user(agents: Agents, tmp_path: Path) -> None:
    options = {"volumes": [f"{tmp_path}:/agent"]}
    assert init_volumes(agents, "1501:1020", **options)[0] == 0
    assert (tmp_path.stat().st_uid, tmp_path.stat().st_gid) == (1501, 1020)
    assert "/agent for 1501:1020: 1 looked at, 0 changed" in init_volumes(agents, "1501:1020", **options)[1]


def test_init_volumes_follows_no_link(agents: Agents, tmp_path: Path) -> None:
    inside, outside = tmp_path / "agent", tmp_path / "workspace"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to("/workspace")
    (outside / "file").touch()
    code, _, _ = init_volumes(agents, volumes=[f"{inside}:/agent", f"{outside}:/workspace"])
    assert (code, outside.stat().st_uid, (outside / "file").stat().st_uid) == (0, 0, 0)
    assert (inside / "link").lstat().st_uid == 1000


def test_init_volumes_gives_a_tree_of_any_depth(agents: Agents) -> None:
    volumes = [f"{agents.volume()}:/agent"]
    assert agents.once("python3", "-c", NEST.format("/agent"), volumes=volumes)[0] == 0
    code, out, err = init_volumes(agents, "1501:1501", volumes=volumes)
    assert (code, err) == (0, "")
    assert f"{NESTED} changed" not in out  # more: the agent's own directories too
    deepest = agents.once("python3", "-c", DEEPEST.format("/agent"), user="1501:1501", volumes=volumes)
    assert deepest[1] == "1501 1501\n"


def test_init_volumes_enters_no_mount_in_the_agent_volume(agents: Agents, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    volume = agents.volume()
    code, _, _ = init_volumes(agents, volumes=[f"{volume}:/agent", f"{tmp_path}:/agent/project"])
    assert (code, tmp_path.stat().st_uid, (tmp_path / "file").stat().st_uid) == (0, 0, 0)


def test_init_volumes_is_quick_where_nothing_is_wrong(agents: Agents) -> None:
    volume = agents.volume()
    make = (
        "import pathlib\n"
        f"for n in range({FILES}):\n"
        "    if n % 1000 == 0:\n"
        "        (directory := pathlib.Path(f'/agent/{n}')).mkdir()\n"
        "    (directory / str(n)).touch()"
    )
    assert agents.once("python3", "-c", make, volumes=[f"{volume}:/agent"])[0] == 0
    init_volumes(agents, volumes=[f"{volume}:/agent"])
    measure = "TIMEFORMAT='cpu %U %S'; time init-volumes 1000:1000; time find /agent -uid 4711"
    took, found = [], []
    for _ in range(3):  # processor time, because other tests share the machine
        code, out, err = init_volumes(agents, measure, volumes=[f"{volume}:/agent"], entrypoint=["bash", "-c"])
        assert code == 0
        assert " 0 changed" in next(line for line in out.splitlines() if "/agent " in line)
        seconds = re.findall(r"^cpu (\S+) (\S+)$", err, re.MULTILINE)
        own, peer = (float(user) + float(system) for user, system in seconds)
        took.append(own)
        found.append(peer)
    assert min(took) < SLOWER_THAN_FIND * min(found)


# -- /shared ----------------------------------------------------------------------------------------------


@pytest.fixture
def old_shared(agents: Agents) -> str:
    """A volume as an earlier version made it: owned by the last agent, with a deep tree and another agent's file."""
    volume = agents.volume()
    make = (
        f"import os; os.chown('/shared', 1000, 1000); os.chmod('/shared', 0o755); {NEST.format('/shared')}; "
        "os.chdir('/shared'); open('theirs', 'w').close(); os.chown('theirs', 1000, 1000)"
    )
    assert agents.once("python3", "-c", make, user="0", volumes=[f"{volume}:/shared"])[0] == 0
    return volume


def test_shared_becomes_the_groups_and_files_keep_their_owner(agents: Agents, old_shared: str) -> None:
    volumes = [f"{old_shared}:/shared"]
    for words in ("changed", "as it should be"):
        code, out, err = init_volumes(agents, "1001:1001", volumes=volumes)
        assert (code, err) == (0, "")
        assert f"/shared for group {GROUP}: {words}" in out
    script = "stat -c '%u:%g %a' /shared; stat -c '%u:%g' /shared/theirs /shared/d"
    assert agents.once("sh", "-c", script, volumes=volumes)[1].split() == ["0:61000", "2775", "1000:1000", "0:0"]


def test_agents_of_two_users_work_in_shared_whatever_their_umask(agents: Agents) -> None:
    volumes = [f"{agents.volume()}:/shared:nocopy"]
    assert init_volumes(agents, "1000:1000", volumes=volumes)[0] == 0
    first = agents.healthy(volumes=volumes)
    first.sh("umask 077; mkdir -p /shared/a/b; echo first > /shared/a/b/file")
    assert init_volumes(agents, "1001:1001", volumes=volumes)[0] == 0
    second = agents.healthy(user="1001:1001", group_add=[str(GROUP)], volumes=volumes)
    second.sh("umask 077; echo second >> /shared/a/b/file; mkdir /shared/a/c; echo mine > /shared/a/c/file")
    first.sh("echo third >> /shared/a/b/file; rm /shared/a/c/file; rmdir /shared/a/c; mv /shared/a /shared/z")
    assert second.run("cat", "/shared/z/b/file").split() == ["first", "second", "third"]
    assert first.run("stat", "-c", "%u", "/shared/z/b/file") == "1000"
    assert "/shared can be written" in second.check("volumes")["detail"]


def test_agents_share_a_volume_that_no_init_volumes_saw(agents: Agents) -> None:
    volume = agents.volume()
    agents.healthy(volumes=[f"{volume}:/shared"]).sh("umask 077; mkdir /shared/a; echo first > /shared/a/file")
    second = agents.healthy(user="1001:1001", group_add=[str(GROUP)], volumes=[f"{volume}:/shared"])
    second.sh("echo second >> /shared/a/file; echo new > /shared/a/new")


def test_agent_without_the_group_is_told_how_to_get_it(agents: Agents) -> None:
    volumes = [f"{agents.volume()}:/shared:nocopy"]
    assert init_volumes(agents, volumes=volumes)[0] == 0
    agent = agents.start(user="1001:1001", volumes=volumes).expect("health: volumes")
    agent.wait_status("unhealthy")
    assert f"start the container with `--group-add {GROUP}`" in agent.check("volumes")["detail"]


def test_file_system_without_access_lists_is_told_of_once(agents: Agents, no_acl: Path) -> None:
    code, out, err = init_volumes(agents, volumes=[f"{no_acl}:/shared"])
    assert (code, err.count("\n"), "has no access lists" in err) == (0, 1, True)
    assert f"/shared for group {GROUP}" in out
    agent = agents.healthy(volumes=[f"{no_acl}:/shared"])
    agent.sh("umask 002; touch /shared/file")
    assert agent.run("stat", "-c", "%g %a", "/shared/file") == f"{GROUP} 664"


@pytest.fixture
def no_acl(tmp_path: Path) -> Iterator[Path]:
    """A file system without access lists."""
    point = tmp_path / "mounted"
    point.mkdir()
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a file system without access lists")  # the gate runs as root: never there
    subprocess.run(["mount", "-t", "ramfs", "ramfs", str(point)], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)


def test_up_of_another_users_agent_takes_nothing_from_the_first(
    client: docker.DockerClient, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = f"test-{uuid.uuid4().hex[:8]}"
    monkeypatch.setattr(compose, "SHARED_VOLUME", f"magents-{mark}-shared")
    variant = TheImage("prod", image)
    running: list[Container] = []
    try:
        for uid in (1000, 1001):
            workspace = tmp_path / str(uid)
            workspace.mkdir()
            os.chown(workspace, uid, uid)
            owner = Owner(uid, uid)
            found = compose.up(client, variant, f"{mark}-{uid}", workspace, owner, print)
            running.append(client.containers.get(found.container))
            if uid == 1000:
                assert running[0].exec_run(["sh", "-c", "umask 077; echo first > /shared/file"]).exit_code == 0
        first, second = running
        assert second.exec_run(["sh", "-c", "echo second >> /shared/file; echo new > /shared/new"]).exit_code == 0
        script = "echo third >> /shared/new; cat /shared/file /shared/new; stat -c %u /shared /shared/file /shared/new"
        said = first.exec_run(["sh", "-c", script]).output.split()
        assert said == [b"first", b"second", b"new", b"third", b"0", b"1000", b"1001"]
    finally:
        compose.down(client, [str(container.labels[ps.LABEL]) for container in running], print)
        for volume in client.volumes.list(filters={"name": f"magents-{mark}"}):
            volume.remove(force=True)


@dataclass(frozen=True)
class TheImage(Variant):
    """The image under test, in whatever repository it is."""

    @property
    def reference(self) -> str:
        return self.tag


@pytest.mark.parametrize(
    ("argv", "user", "code"), [(["bob"], "0:0", 64), (["1:2", "3"], "0:0", 64), ([], "1000:1000", 77)]
)
def test_init_volumes_refuses_in_one_line(agents: Agents, argv: list[str], user: str, code: int) -> None:
    found, _, err = init_volumes(agents, *argv, user=user)
    assert (found, err.count("\n")) == (code, 1)


def test_shared_of_a_plain_run_is_the_agents_and_the_groups(agents: Agents) -> None:
    assert agents.once("stat", "-c", "%u:%g %a", "/shared")[:2] == (0, "1000:61000 2777\n")
