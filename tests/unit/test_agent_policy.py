"""Decisions of the supervisor that need no process: settings, restarts, the order of signals."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import settings
from agent.processes import Process, below
from agent.restarts import (
    GOOD_RUN_S,
    LONGEST_DELAY_S,
    MOST_QUICK_FAILURES,
    Again,
    CommandPolicy,
    Done,
    Ended,
    GiveUp,
    ShellPolicy,
)
from agent.shutdown import asking_signal, is_held_back, is_own_namespace, is_passing_through, one_terminal

TERM, HUP, INT = signal.SIGTERM, signal.SIGHUP, signal.SIGINT


def mask(*signals: int) -> int:
    return sum(1 << (number - 1) for number in signals)


def process(
    pid: int,
    parent: int = 1,
    session: int = 0,
    comm: str = "x",
    ignored: int = 0,
    caught: int = 0,
    state: str = "S",
) -> Process:
    return Process(pid, parent, session or pid, 7, state, comm, ignored, caught)


def group(*processes: Process) -> dict[int, Process]:
    return {p.pid: p for p in processes}


# -- settings ---------------------------------------------------------------------------------------------


def test_defaults_are_the_contracts() -> None:
    found = settings.read({"AGENT_NAME": "alpha"})
    assert (found.restart, found.on_exit, found.unhealthy_limit_s, found.stop_grace_s) == ("on-failure", "stay", 120, 8)
    assert (found.health_host, found.health_port, found.command) == ("0.0.0.0", 3999, "")


def test_empty_variable_counts_as_unset() -> None:
    assert settings.read({"AGENT_STOP_GRACE": "", "HEALTH_PORT": ""}).health_port == 3999


@pytest.mark.parametrize(
    "text", ["nan", "inf", "1e3", "-1", "+1", " 8", "8 ", "1_0", "٣", "3600.001", "0x10", "8s", "."]
)
def test_seconds_are_plain_numbers(text: str) -> None:
    with pytest.raises(settings.BadSettingError, match=r"AGENT_STOP_GRACE is .*allowed: seconds from 0 to 3600"):
        settings.read({"AGENT_STOP_GRACE": text})


@pytest.mark.parametrize("text", ["0", "0.5", "3600", "08"])
def test_seconds_may_be_decimal(text: str) -> None:
    assert settings.read({"AGENT_STOP_GRACE": text}).stop_grace_s == float(text)


@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=100))
def test_name_is_always_one_printable_line(name: str) -> None:
    found = settings.read({"AGENT_NAME": name}).name
    assert found.isprintable()
    assert len(found) <= settings.NAME_LENGTH


# -- restarts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("restart", "on_exit", "code", "follows"),
    [
        ("no", "stay", 0, Done),
        ("no", "exit", 0, GiveUp),
        ("no", "stay", 3, GiveUp),
        ("on-failure", "stay", 0, Done),
        ("on-failure", "exit", 0, GiveUp),
        ("on-failure", "stay", 3, Again),
        ("always", "stay", 0, Again),
        ("always", "exit", 0, Again),
        ("always", "stay", 137, Again),
    ],
)
def test_policy_follows_the_contract(restart: str, on_exit: str, code: int, follows: type) -> None:
    assert isinstance(CommandPolicy(restart, on_exit).after(Ended(code, "x"), 1.0), follows)


def test_crash_loop_ends_with_the_commands_code() -> None:
    policy = CommandPolicy("on-failure", "stay")
    decisions = [policy.after(Ended(7, "x"), 0.1) for _ in range(MOST_QUICK_FAILURES)]
    assert all(isinstance(decision, Again) for decision in decisions[:-1])
    assert isinstance(decisions[-1], GiveUp)
    assert decisions[-1].code == 7


def test_back_off_grows_and_a_good_run_forgets() -> None:
    policy = CommandPolicy("on-failure", "stay")
    first, second = policy.after(Ended(1, "x"), 0.1), policy.after(Ended(1, "x"), 0.1)
    after_good = policy.after(Ended(1, "x"), GOOD_RUN_S)
    assert isinstance(first, Again)
    assert isinstance(second, Again)
    assert first.delay_s < second.delay_s
    assert after_good == first


def test_successes_are_never_a_crash_loop() -> None:
    policy = CommandPolicy("always", "stay")
    decisions = [policy.after(Ended(0, "x"), 0.1) for _ in range(1000)]
    assert all(isinstance(d, Again) and d.delay_s <= LONGEST_DELAY_S for d in decisions)


def test_shell_that_is_left_comes_back_at_once() -> None:
    assert ShellPolicy().after(Ended(3, "x"), 60) == Again(0.0)


def test_shell_that_cannot_live_is_slowed_and_told_apart() -> None:
    policy = ShellPolicy()
    delays = [d.delay_s for _ in range(6) if isinstance(d := policy.after(Ended(1, "x"), 0.0), Again)]
    assert delays == sorted(delays)
    assert delays[-1] >= 1
    assert policy.profile_is_broken


# -- whom to signal, and when -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ignored", "asked_by"), [((), TERM), ((TERM,), HUP), ((TERM, HUP), INT), ((TERM, HUP, INT), TERM)]
)
def test_asked_by_a_signal_that_is_not_ignored(ignored: tuple[int, ...], asked_by: int) -> None:
    assert asking_signal(process(5, ignored=mask(*ignored))) == asked_by


SHELL = process(10, comm="bash", ignored=mask(TERM))
TRAPPER = process(11, parent=10, session=10, caught=mask(TERM))
PLAIN = process(12, parent=10, session=10)


def test_shell_with_a_job_is_held_back() -> None:
    assert is_held_back(SHELL, group(SHELL, PLAIN))


def test_shell_alone_is_asked_at_once() -> None:
    assert not is_held_back(SHELL, group(SHELL, process(99)))


def test_process_with_a_farewell_is_asked_at_once() -> None:
    assert not is_held_back(process(10, caught=mask(TERM)), group(process(10, caught=mask(TERM)), TRAPPER))


def test_script_above_a_farewell_is_held_back() -> None:
    script = process(10)
    assert is_held_back(script, group(script, TRAPPER))
    assert not is_held_back(script, group(script, PLAIN))


def test_terminal_leader_is_held_back_for_reparented_processes() -> None:
    leader, adopted = process(10), process(13, parent=1, session=10, caught=mask(TERM))
    assert is_held_back(leader, group(leader, adopted))


def test_tmux_server_is_held_back_for_its_panes() -> None:
    server, pane = process(20, comm="tmux: server", caught=mask(TERM)), process(21, parent=20)
    assert is_held_back(server, group(server, pane))
    assert not is_held_back(server, group(server))


KINDS = [(0, 0), (mask(TERM), 0), (0, mask(TERM))]


@given(st.lists(st.tuples(st.integers(2, 12), st.integers(1, 12), st.sampled_from(KINDS)), max_size=12))
def test_somebody_can_always_be_asked(rows: list[tuple[int, int, tuple[int, int]]]) -> None:
    """The ladder always makes progress: in any family of processes, at least one is not held back."""
    members = group(
        *(process(pid, parent if parent < pid else 1, ignored=kind[0], caught=kind[1]) for pid, parent, kind in rows)
    )
    assert not members or any(not is_held_back(p, members) for p in members.values())


def test_below_finds_all_generations() -> None:
    assert below(2, group(process(2), process(3, 2), process(4, 3), process(5, 1))) == {3, 4}


def test_one_terminal_is_chosen_by_session() -> None:
    assert one_terminal(10)(group(SHELL, TRAPPER, process(99))) == {10, 11}


@pytest.mark.parametrize(
    ("init", "first", "is_own"),
    [(1, "tini", True), (7, "docker-init", True), (7, "systemd", False), (0, "tini", False)],
)
def test_only_the_containers_own_processes_are_everybody(init: int, first: str, is_own: bool) -> None:
    processes = group(process(1, 0, comm=first), process(7, 1, comm="tini"))
    assert is_own_namespace(init, processes) is is_own


@pytest.mark.parametrize(
    ("comm", "parent", "passes"),
    [("runc:[2:INIT]", 0, True), ("tmux: server", 20, True), ("tmux: server", 1, False), ("bash", 20, False)],
)
def test_what_is_about_to_become_something_else_is_left_alone(comm: str, parent: int, passes: bool) -> None:
    assert is_passing_through(process(30, parent, comm=comm), (20,)) is passes
