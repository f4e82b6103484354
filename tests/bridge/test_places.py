"""Directories of a grant are pinned when they are granted. No container can replace one by another directory."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.policy import Scope
from bridge.policy.argv import rewrite
from bridge.server.host.grants import Grant
from bridge.server.host.places import Place as Pinned
from bridge.server.host.places import PlaceError
from bridge.server.host.state_directory import StateDirectory
from bridge.server.sandbox import bubblewrap
from tests.support.bridge_host import FAKE_CLI, OWNER, BridgeHost, HostMaker, Place, bridge_host
from tests.support.bridge_raw import RawClient
from tests.support.waiting import wait_until

SECRET = "text-of-root-s-own"


@pytest.fixture
def vault(tmp_path: Path) -> Path:
    """A directory that belongs to root and that no container may see."""
    directory = tmp_path / "vault"
    directory.mkdir(mode=0o700)
    (directory / "secret").write_text(SECRET)
    return directory


def folder(path: Path, owner: int = OWNER) -> Path:
    path.mkdir(parents=True)
    os.chown(path, owner, owner)
    return path


def grant(host: BridgeHost, name: str, workspace: Path, *words: str) -> Place:
    done = host.tell("grant", name, "--workspace", str(workspace), *words)
    assert done.returncode == 0, done.stderr
    return Place(name, workspace, Path(done.stdout.strip()))


def refused(host: BridgeHost, name: str, workspace: Path, *words: str) -> str:
    """Make a grant that must be refused. Returns the one line that says why."""
    done = host.tell("grant", name, "--workspace", str(workspace), *words)
    assert done.returncode in (1, 64), done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("bridge: ")
    assert name not in host.status()["grants"]
    return line


# Replaced


def put_link(path: Path, target: Path) -> None:
    path.rename(path.with_name("away"))
    path.symlink_to(target)


def put_directory(path: Path, target: Path) -> None:
    path.rename(path.with_name("away"))
    shutil.copytree(target, path)


def put_link_above(path: Path, target: Path) -> None:
    """Replace a directory above the given one, and not the given one itself."""
    folder(target / path.name, 0)
    (target / path.name / "secret").write_text(SECRET)
    path.parent.rename(path.parent.with_name("away"))
    path.parent.symlink_to(target)


def remove(path: Path, _: Path) -> None:
    shutil.rmtree(path)


def mount_over(path: Path, target: Path) -> None:
    subprocess.run(["mount", "--bind", str(target), str(path)], check=True)


EXCHANGES = [put_link, put_directory, put_link_above, remove, mount_over]


@pytest.mark.parametrize("claimed", ["the old one", "the new one"])
@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.__name__)
def test_workspace_that_was_exchanged_is_served_no_more(
    host_per_test: HostMaker, tmp_path: Path, vault: Path, exchange: Callable[[Path, Path], None], claimed: str
) -> None:
    """The client claims to be in the old directory, or says truthfully what is there now."""
    host = host_per_test()
    place = grant(host, "one", folder(tmp_path / "above" / "ws"))
    old = f"{place.workspace.stat().st_dev}:{place.workspace.stat().st_ino}"
    assert RawClient(place, old).call("-p", "out x").stdout == b"x"
    exchange(place.workspace, vault)
    try:
        gone = not place.workspace.exists()
        with RawClient(place, old if claimed == "the old one" or gone else place.workspace) as client:
            heard = client.call("-p", f"cat {SECRET}; touch /workspace/planted; report")
        assert (heard.code, heard.kind) == (125, "changed")
        assert "granted" in heard.text or "gone" in heard.text
        assert str(tmp_path) not in heard.text
        assert SECRET.encode() not in heard.stdout
        assert not (vault / "planted").exists()
        assert "grant it anew" in host.status()["grants"]["one"]["problem"]
    finally:
        if exchange is mount_over:
            subprocess.run(["umount", str(place.workspace)], check=True)


@pytest.mark.parametrize("mode", ["rw", "ro"])
@pytest.mark.parametrize("exchange", [put_link, put_directory, remove], ids=lambda exchange: exchange.__name__)
def test_share_that_was_exchanged_is_served_no_more(
    host_per_test: HostMaker, tmp_path: Path, vault: Path, exchange: Callable[[Path, Path], None], mode: str
) -> None:
    host = host_per_test()
    share = folder(tmp_path / "shares" / "data")
    place = grant(host, "one", folder(tmp_path / "ws"), "--share", f"{share}:/data:{mode}")
    exchange(share, vault)
    heard = RawClient(place).call("-p", "report")
    assert (heard.code, heard.kind) == (125, "changed")
    assert "the share /data" in heard.text
    assert SECRET.encode() not in heard.stdout


def test_directory_that_is_exchanged_while_a_call_starts(host_per_test: HostMaker, tmp_path: Path, vault: Path) -> None:
    """The exchange happens between the server's check and bubblewrap's mount. The launcher checks again from inside."""
    host = host_per_test(limits={"running": 4, "per_grant": 4})
    workspace = folder(tmp_path / "above" / "ws")
    place = grant(host, "one", workspace)
    flip = "import os,sys\nwhile 1:\n os.rename(sys.argv[1],sys.argv[2]); os.symlink(sys.argv[3],sys.argv[1])\n"
    flip += " os.unlink(sys.argv[1]); os.rename(sys.argv[2],sys.argv[1])\n"
    words = ["python3", "-c", flip, str(workspace), str(workspace.with_name("away")), str(vault)]
    heard = []
    old = f"{workspace.stat().st_dev}:{workspace.stat().st_ino}"
    with subprocess.Popen(words) as flipping:
        try:
            for _ in range(60):
                with RawClient(place, old) as client:
                    heard.append(client.call("-p", "out x; touch planted; report"))
        finally:
            flipping.kill()
    assert {one.code for one in heard} <= {0, 125}
    assert not (vault / "planted").exists()
    assert not any(SECRET.encode() in one.stdout for one in heard)


def test_launcher_refuses_what_bubblewrap_has_mounted_instead(
    tmp_path: Path, vault: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment between both cannot be met reliably, so the server is made to open the wrong directory here."""
    state = StateDirectory(tmp_path / "state")
    state.prepare()
    granted = Grant.of("one", folder(tmp_path / "ws"))
    plan = rewrite(["-p", "touch /workspace/planted"], Scope(runs_commands=True))
    scratch = state.scratch()
    scratch.chmod(0o711)
    monkeypatch.setattr(Pinned, "open", lambda _: os.open(vault, os.O_PATH))
    spec = bubblewrap.SandboxSpec(
        granted, FAKE_CLI, plan.argv, {}, "/workspace", b"", None, plan.project, scratch, runs_commands=True
    )
    command = bubblewrap.sandboxed(spec, state, Scope(runs_commands=True))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(scratch / "tools"))
        listener.listen()
        listener.settimeout(10)
        with subprocess.Popen(command.argv, env=command.env, pass_fds=command.descriptors) as process:
            try:
                accepted, _ = listener.accept()
                with accepted:
                    assert accepted.recv(100) == b"failed\0moved\0"
                assert process.wait(10) == 125
            finally:
                process.kill()
    command.abandon()
    assert not (vault / "planted").exists()


def test_number_of_a_removed_directory_is_never_reused(host_per_test: HostMaker, tmp_path: Path) -> None:
    """A file system reuses the inode number at once, unless the server keeps the old directory open."""
    host = host_per_test()
    place = grant(host, "one", folder(tmp_path / "ws"))
    number = place.workspace.stat().st_ino
    shutil.rmtree(place.workspace)
    assert folder(place.workspace).stat().st_ino != number


def test_what_is_granted_anew_works(host_per_test: HostMaker, tmp_path: Path) -> None:
    host = host_per_test()
    place = grant(host, "one", folder(tmp_path / "ws"))
    shutil.rmtree(place.workspace)
    folder(place.workspace)
    assert RawClient(place).call("-p", "out x").code == 125
    assert RawClient(grant(host, "one", place.workspace)).call("-p", "out x").stdout == b"x"


# The working directory of a call


def links_out(vault: Path) -> list[str]:
    """Return link targets with which a container has tried to leave the namespace through its working directory."""
    through = [f"/proc/{who}/fd/{number}/../../vault" for who in ("self", "1", "2") for number in range(3, 40)]
    return [
        *through,
        *(f"/proc/self/fd/{number}" for number in range(3, 40)),
        str(vault),
        "/",
        "/opt",
        "/proc/self/cwd/..",
    ]


@pytest.mark.parametrize("how", ["removed", "moved away"])
def test_container_that_was_not_restarted_is_told_that_its_workspace_was_replaced(
    host_per_test: HostMaker, tmp_path: Path, how: str
) -> None:
    """Its grant is renewed with each new folder, as `up` and `grant` do, and it asks as often as health does."""
    host = host_per_test()
    place = grant(host, "one", folder(tmp_path / "ws"))
    held = os.open(place.workspace, os.O_PATH)  # as the container's mount holds it
    old = f"{place.workspace.stat().st_dev}:{place.workspace.stat().st_ino}"
    for number in range(2):
        if how == "removed":
            shutil.rmtree(place.workspace)
        else:
            place.workspace.rename(tmp_path / f"earlier-{number}")
        grant(host, "one", folder(place.workspace))
        with RawClient(place) as now:
            assert now.call("-p", "out x").stdout == b"x"
        for _ in range(3):
            with RawClient(place, old) as left_behind:
                heard = left_behind.call("-p", "out x")
            assert (heard.code, heard.kind) == (125, "changed")
            assert "the workspace of grant one was replaced; this container still has the earlier" in heard.text
    with RawClient(place, "1:1") as stranger:
        assert stranger.call("-p", "out x").kind == "workspace"
    os.close(held)


@pytest.mark.parametrize("name", ["a:b", "a:/x", "c,d $e 'f\" é ", "x:ro"])
def test_share_has_any_name(host_per_test: HostMaker, tmp_path: Path, name: str) -> None:
    host = host_per_test()
    share = folder(tmp_path / "shares" / name)
    (share / "file").touch()
    place = grant(host, "one", folder(tmp_path / "ws: é,"), "--share", f"{share}:/data:ro")
    assert RawClient(place).call("-p", "list /data").stdout == b'["file"]'


def test_directory_of_a_call_leads_nowhere_else(host_per_test: HostMaker, tmp_path: Path, vault: Path) -> None:
    """No link leads out: the descriptors that the server opens for the namespace must not be a way out of it."""
    vault.chmod(0o777)
    place = grant(host_per_test(), "one", folder(tmp_path / "ws"))
    for number, target in enumerate(links_out(vault)):
        (place.workspace / f"L{number}").symlink_to(target)
    for number, target in enumerate(links_out(vault)):
        heard = RawClient(place).call("-p", "list .; touch planted", cwd=f"/workspace/L{number}")
        assert (heard.code, heard.kind, heard.stdout) == (125, "start", b""), target
    assert [path.name for path in vault.iterdir()] == ["secret"]


def test_nothing_of_the_host_s_is_open_in_the_namespace(host_per_test: HostMaker, tmp_path: Path) -> None:
    """This holds for the CLI and for bubblewrap's own process, which is pid 1 in the namespace."""
    place = grant(host_per_test(), "one", folder(tmp_path / "ws"))
    with place.start("-p", "ready;wait") as running:
        running.line()
        inside = [pid for pid, line in place.processes().items() if "--strict-mcp-config" in line]
        assert len(inside) > 1
        for pid in inside:
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                target = str(descriptor.readlink())
                assert not target.startswith("/") or target.startswith(("/dev/", "/memfd:")), (pid, target)


def test_directory_inside_of_the_workspace_is_the_call_s(host_per_test: HostMaker, tmp_path: Path) -> None:
    place = grant(host_per_test(), "one", folder(tmp_path / "ws"))
    folder(place.workspace / "sub")
    (place.workspace / "sub" / "file").write_text("")
    (place.workspace / "link").symlink_to("sub")
    for name in ("sub", "link"):
        assert RawClient(place).call("-p", "list .", cwd=f"/workspace/{name}").stdout == b'["file"]'


def test_directory_is_entered_as_the_user_without_a_namespace() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as passable:
        Path(passable).chmod(0o755)
        closed = Path(passable) / "closed"
        (closed / "open").mkdir(parents=True)
        closed.chmod(0o700)
        with bridge_host(Path(passable), confinement="none") as host:
            place = host.grant("one")
            folder(place.workspace / "sub")
            (place.workspace / "out").symlink_to(closed / "open")
            (place.workspace / "root").symlink_to("/")
            for name in ("out", "root", "none"):
                assert RawClient(place).call("-p", "list .", cwd=f"/workspace/{name}").kind == "start"
            assert RawClient(place).call("-p", "list .", cwd="/workspace/sub").stdout == b"[]"


# The user that the CLI runs as


@pytest.mark.parametrize("owner", [0, 1234])
def test_other_owner_is_a_refusal_and_no_other_user(host_per_test: HostMaker, tmp_path: Path, owner: int) -> None:
    host = host_per_test()
    place = grant(host, "one", folder(tmp_path / "ws"))
    os.chown(place.workspace, owner, owner)
    heard = RawClient(place).call("-p", "touch /workspace/planted")
    assert (heard.code, heard.kind) == (125, "changed")
    assert f"belonged to user {OWNER} when it was granted, and to {owner} now" in heard.text
    os.chown(place.workspace, OWNER, OWNER)
    assert RawClient(place).call("-p", "out x").stdout == b"x"


@pytest.mark.parametrize("owner", [0, 1234])
def test_other_owner_is_a_refusal_without_a_namespace_too(owner: int) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as passable:
        Path(passable).chmod(0o755)
        with bridge_host(Path(passable), confinement="none") as host:
            place = host.grant("one")
            os.chown(place.workspace, owner, owner)
            assert RawClient(place).call("-p", "touch /workspace/planted").kind == "changed"
            os.chown(place.workspace, OWNER, OWNER)
            assert RawClient(place).call("-p", "out x").stdout == b"x"


def test_workspace_of_root_s_is_granted_by_name_alone(host_per_test: HostMaker, tmp_path: Path) -> None:
    host = host_per_test()
    workspace = folder(tmp_path / "ws", 0)
    assert "--user root" in refused(host, "one", workspace)
    place = grant(host, "one", workspace, "--user", "root")
    assert b'"ids": [0, 0' in RawClient(place).call("-p", "report").stdout


@pytest.mark.parametrize(("user", "ids"), [("1234", [1234, 1234]), ("1234:99", [1234, 99]), ("nobody", [65534, 65534])])
def test_user_is_the_operator_s_word(host_per_test: HostMaker, tmp_path: Path, user: str, ids: list[int]) -> None:
    place = grant(host_per_test(), "one", folder(tmp_path / "ws"), "--user", user)
    assert f'"ids": {ids}'.encode()[:-1] in RawClient(place).call("-p", "report").stdout


def test_group_of_the_workspace_is_nobody_s_word(host_per_test: HostMaker, tmp_path: Path) -> None:
    """Root in a container can give the workspace to any group before it is granted again."""
    host = host_per_test()
    workspace = folder(tmp_path / "ws")
    os.chown(workspace, OWNER, 42)
    assert (
        f'"ids": [{OWNER}, {OWNER}, ['.encode() in RawClient(grant(host, "one", workspace)).call("-p", "report").stdout
    )


def test_workspace_with_a_new_owner_is_granted_by_user(host_per_test: HostMaker, tmp_path: Path) -> None:
    host = host_per_test()
    place = grant(host, "one", folder(tmp_path / "ws"))
    os.chown(place.workspace, 1234, 1234)
    done = host.tell("grant", "one", "--workspace", str(place.workspace))
    assert done.returncode == 1
    assert "--user UID" in done.stderr
    grant(host, "one", place.workspace, "--user", "1234")
    assert b'"ids": [1234, 1234' in RawClient(place).call("-p", "report").stdout


def test_grant_that_is_made_anew_keeps_its_user(host_per_test: HostMaker, tmp_path: Path) -> None:
    host = host_per_test()
    place = grant(host, "one", folder(tmp_path / "ws"), "--user", "1234:99")
    shutil.rmtree(place.workspace)
    folder(place.workspace)
    assert b'"ids": [1234, 99' in RawClient(grant(host, "one", place.workspace)).call("-p", "report").stdout


@pytest.mark.parametrize("user", ["nobody-of-that-name", "1:2:3", "-1", "", "1000:x", "99999999999"])
def test_user_that_is_none_is_one_line(host_per_test: HostMaker, tmp_path: Path, user: str) -> None:
    assert "--user" in refused(host_per_test(), "one", folder(tmp_path / "ws"), f"--user={user}")


# Grants within each other


def test_grant_inside_another_or_around_it_is_refused(host_per_test: HostMaker, tmp_path: Path) -> None:
    host = host_per_test()
    outer = folder(tmp_path / "outer")
    inner = folder(outer / "a" / "inner")
    grant(host, "outer", outer)
    assert str(inner) in refused(host, "inner", inner)
    host.tell("revoke", "outer")
    grant(host, "inner", inner)
    assert str(inner) in refused(host, "outer", outer)


@pytest.mark.parametrize("mode", ["rw", "ro"])
def test_share_inside_of_what_another_grant_writes_is_refused(
    host_per_test: HostMaker, tmp_path: Path, mode: str
) -> None:
    host = host_per_test()
    data = folder(tmp_path / "ws" / "data")
    os.chown(data.parent, OWNER, OWNER)
    grant(host, "one", data.parent)
    refused(host, "two", folder(tmp_path / "other"), "--share", f"{data}:/data:{mode}")


def test_read_only_share_around_another_workspace_is_refused(host_per_test: HostMaker, tmp_path: Path) -> None:
    host = host_per_test()
    grant(host, "one", folder(tmp_path / "mono" / "pkg"))
    refused(host, "two", folder(tmp_path / "other"), "--share", f"{tmp_path}/mono:/mono:ro")


def test_own_share_inside_the_workspace_or_around_it_is_refused(host_per_test: HostMaker, tmp_path: Path) -> None:
    host = host_per_test()
    package = folder(tmp_path / "mono" / "pkg")
    data = folder(package / "data")
    refused(host, "one", package, "--share", f"{data}:/data")
    refused(host, "one", package, "--share", f"{data}:/data:ro")
    refused(host, "one", package, "--share", f"{tmp_path}/mono:/mono")
    grant(host, "one", package, "--share", f"{tmp_path}/mono:/mono:ro")


def test_share_that_is_mounted_inside_another_one_is_refused(host_per_test: HostMaker, tmp_path: Path) -> None:
    """The container could put a link there, and the inner share would then be mounted over the bridge's own program."""
    host = host_per_test()
    one, two, workspace = (folder(tmp_path / name) for name in ("one", "two", "ws"))
    for targets in (("/data", "/data/cache"), ("/data/cache", "/data"), ("/data", "/data"), ("/data", "//data/x")):
        shares = [word for at, to in zip((one, two), targets, strict=True) for word in ("--share", f"{at}:{to}")]
        refused(host, "nested", workspace, *shares)
    for target in ("//usr/bin", "/opt/bridge", "/x/../etc", "/tmp/x", "/workspace/x", "/", "/libx32/x", "/run/x"):
        refused(host, "reserved", workspace, "--share", f"{one}:{target}")
    grant(host, "fine", workspace, "--share", f"{one}:/data", "--share", f"{two}:/data-cache")


def test_grants_may_have_a_share_in_common(host_per_test: HostMaker, tmp_path: Path) -> None:
    host = host_per_test()
    common = folder(tmp_path / "common")
    for name in ("one", "two"):
        grant(host, name, folder(tmp_path / name), "--share", f"{common}:/common")


def test_another_mount_of_the_same_directory_is_recognised(host_per_test: HostMaker, tmp_path: Path) -> None:
    host = host_per_test()
    inner = folder(tmp_path / "outer" / "inner dir")
    os.chown(inner.parent, OWNER, OWNER)
    elsewhere = folder(tmp_path / "elsewhere")
    subprocess.run(["mount", "--bind", str(inner), str(elsewhere)], check=True)
    try:
        grant(host, "outer", inner.parent)
        refused(host, "inner", elsewhere)
    finally:
        subprocess.run(["umount", str(elsewhere)], check=True)


def test_links_in_the_name_are_resolved_when_it_is_granted(host_per_test: HostMaker, tmp_path: Path) -> None:
    host = host_per_test()
    workspace = folder(tmp_path / "ws")
    (tmp_path / "link").symlink_to(workspace)
    grant(host, "one", tmp_path / "link")
    assert host.status()["grants"]["one"]["workspace"] == str(workspace)
    refused(host, "two", folder(workspace / "inner"))


@pytest.mark.parametrize("what", ["workspace", "above the workspace", "share"])
def test_link_of_a_container_is_followed_for_no_grant(
    host_per_test: HostMaker, tmp_path: Path, vault: Path, what: str
) -> None:
    host = host_per_test()
    mono = folder(tmp_path / "mono")
    grant(host, "mono", mono)
    (vault / "sub").mkdir()
    (mono / "pkg").symlink_to(vault)
    (tmp_path / "way").symlink_to(mono / "pkg")
    if what == "share":
        line = refused(host, "two", folder(tmp_path / "ws"), "--share", f"{mono}/pkg:/pkg")
    else:
        line = refused(
            host, "two", (tmp_path / "way") if what == "workspace" else (mono / "pkg" / "sub"), "--user", "1000"
        )
    assert "leads through a link" in line


def test_another_mount_of_the_state_directory_is_refused(host_per_test: HostMaker, tmp_path: Path) -> None:
    host = host_per_test()
    alias = folder(tmp_path / "alias")
    subprocess.run(["mount", "--bind", str(host.state), str(alias)], check=True)
    try:
        assert "is the bridge's own" in refused(host, "one", alias, "--user", "root")
    finally:
        subprocess.run(["umount", str(alias)], check=True)


def test_directory_that_holds_the_bridge_s_own_is_refused(host_per_test: HostMaker) -> None:
    host = host_per_test()
    os.chown(host.directory, OWNER, OWNER)
    assert "is the bridge's own" in refused(host, "one", host.directory)
    inside = folder(host.state / "ws")
    assert "is the bridge's own" in refused(host, "two", inside)


# One bad grant


BAD: dict[str, Callable[[Path], object]] = {
    "gone": shutil.rmtree,
    "other owner": lambda workspace: os.chown(workspace, 0, 0),
    "a link": lambda workspace: put_link(workspace, Path("/")),
}


@pytest.mark.parametrize("spoil", BAD.values(), ids=BAD.keys())
def test_one_bad_grant_keeps_no_other_from_being_served(
    host_per_test: HostMaker, tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    """This holds at a start and at a reload. Each of them reports the bad grant in one line."""
    host = host_per_test()
    bad, good = grant(host, "bad", folder(tmp_path / "bad")), grant(host, "good", folder(tmp_path / "good"))
    claimed = f"{bad.workspace.stat().st_dev}:{bad.workspace.stat().st_ino}"
    spoil(bad.workspace)
    host.end()
    host.start()
    assert RawClient(good).call("-p", "out x").stdout == b"x"
    assert host.log.read_text().count("bridge: grant bad: ") == 1
    third = grant(host, "third", folder(tmp_path / "third"))
    assert RawClient(third).call("-p", "out x").stdout == b"x"
    assert host.process is not None
    host.process.send_signal(signal.SIGHUP)
    assert RawClient(good).call("-p", "out x").stdout == b"x"
    assert (RawClient(bad, claimed).call("-p", "out x").code) == 125
    assert host.tell("status").returncode == 0


def test_grant_that_cannot_be_read_is_one_line(host_per_test: HostMaker, tmp_path: Path) -> None:
    host = host_per_test()
    good = grant(host, "good", folder(tmp_path / "good"))
    (host.state / "registry" / "old").write_text('{"workspace": "/x", "shares": []}')
    host.end()
    host.start()
    assert RawClient(good).call("-p", "out x").stdout == b"x"
    assert "bridge: grant old: grant old cannot be read" in host.log.read_text()
    assert host.tell("revoke", "old").returncode == 0


# Conversations


def test_name_that_is_used_again_brings_no_conversation_along(host_per_test: HostMaker, tmp_path: Path) -> None:
    host = host_per_test()
    leave = "touch /claude/projects/left"
    first, second = folder(tmp_path / "first"), folder(tmp_path / "second")
    assert RawClient(grant(host, "again", first)).call("-p", leave).code == 0
    host.tell("revoke", "again")
    look = "list /claude/projects"
    assert RawClient(grant(host, "again", second)).call("-p", look).stdout == b"[]"
    assert RawClient(grant(host, "again", first)).call("-p", look).stdout == b'["left"]'


# Guessed workspaces


def test_wrong_workspaces_are_counted_and_slow_the_asker_down(host_per_test: HostMaker, tmp_path: Path) -> None:
    host = host_per_test()
    place, other = grant(host, "one", folder(tmp_path / "one")), grant(host, "two", folder(tmp_path / "two"))
    begun = time.monotonic()
    for inode in range(9):
        with RawClient(place, f"1:{inode}") as client:
            assert client.call("-p", "out x").kind == "workspace"
    assert time.monotonic() - begun > 2.0
    assert host.status()["grants"]["one"]["wrong_workspaces"] == 9
    begun = time.monotonic()
    assert RawClient(other).call("-p", "out x").stdout == b"x"
    assert time.monotonic() - begun < 3.0  # the next answer to the asker itself takes 3.2 s
    assert RawClient(place).call("-p", "out x").stdout == b"x"  # a correct claim is not refused, only delayed


def test_guesses_at_once_are_no_faster(host_per_test: HostMaker, tmp_path: Path) -> None:
    """A correct guess among them is not answered sooner than the wrong ones."""
    host = host_per_test()
    place = grant(host, "one", folder(tmp_path / "one"))
    clients = [RawClient(place, f"1:{inode}") for inode in range(40)]
    wait_until(lambda: host.status()["grants"]["one"]["wrong_workspaces"] > 3, 5, "the first guesses")
    assert host.status()["grants"]["one"]["wrong_workspaces"] < 10
    for client in clients:
        client.sock.close()


# The library


def test_place_of_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ws").mkdir()
    place = Pinned.pin(tmp_path / "ws")
    (tmp_path / "ws").rename(tmp_path / "other")
    (tmp_path / "ws").symlink_to(tmp_path / "other")
    with pytest.raises(PlaceError, match="gone, or no directory"):
        place.open()
