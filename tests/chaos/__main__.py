"""Run random faults against live agents and print what held; `nox -s chaos -- --faults 1000 --seed 7`."""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from docker.errors import APIError
from rich.console import Console
from rich.table import Table

from pipeline.bootstrap import engine
from pipeline.build.image import VARIANTS, require
from pipeline.errors import Problem
from tests.chaos.faults import FAULTS
from tests.chaos.kills import kill_at_random
from tests.chaos.target import Broken, Target
from tests.support.cleanup import remove_orphans
from tests.support.containers import Agents
from tests.support.fleets import Fleet

AGENTS = 4
KILLED_AGENTS = 10
FAULTS_PER_COMPARISON = 25
"""The number of faults between two comparisons of all records."""


@dataclass
class Outcome:
    """What was done to one agent, and what was found."""

    done: Counter[str] = field(default_factory=Counter)
    records: int = 0
    longest_disagreement_s: float = 0.0
    broken: list[str] = field(default_factory=list)


def inject_faults(image: str, seed: str, count: int) -> Outcome:
    """Inject `count` faults into an agent made for this run. `seed` alone decides which faults."""
    chance = random.Random(seed)
    names, weights = list(FAULTS), [weight for weight, _ in FAULTS.values()]
    outcome = Outcome()
    made = Agents(image)
    target = Target(made, image)
    try:
        target.bring_up()
        target.check_health_agrees()
        for number in range(count):
            name = chance.choices(names, weights)[0]
            try:
                _once(target, name, random.Random(chance.random()))
                if number % FAULTS_PER_COMPARISON == 0:
                    target.check_records()
            except (Broken, AssertionError, APIError) as error:
                outcome.broken.append(f"seed {seed}, fault {number}, {name}: {error}")
                target.holder.try_run("rm", "-f", "/agent/fill")
                target.renew()
            outcome.done[name] += 1
            if number % FAULTS_PER_COMPARISON == FAULTS_PER_COMPARISON - 1:
                print(f"agent {seed}: {number + 1} of {count} faults", file=sys.stderr, flush=True)
            outcome.longest_disagreement_s = max(outcome.longest_disagreement_s, target.longest_disagreement_s)
        try:
            outcome.records = target.check_records()
        except Broken as error:
            outcome.broken.append(f"seed {seed}, at the end: {error}")
    finally:
        made.close(show=False)
        shutil.rmtree(target.acks, ignore_errors=True)  # ignored because it lies in the temporary directory
    return outcome


def _once(target: Target, name: str, chance: random.Random) -> None:
    with contextlib.suppress(APIError):  # ignored because the container may have changed its state meanwhile
        FAULTS[name][1](target, chance)
    target.bring_up()
    target.check_health_agrees()
    target.check_state()
    target.check_no_zombie()


def main(argv: list[str]) -> int:
    """Run agents of both variants side by side and inject faults. Returns 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="nox -s chaos --", description=__doc__)
    parser.add_argument("--faults", type=int, default=1000, help="how many, over all agents (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=50, help="of agents.up and agents.down (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="repeats a run's choices")
    chosen = parser.parse_args(argv)
    with engine.connected() as client:
        for variant in VARIANTS.values():
            require(client, variant)
    remove_orphans()
    broken = inject_in_all(chosen.seed, chosen.faults) if chosen.faults else []
    broken += kill_commands(chosen.seed, chosen.kills)
    for line in broken:
        print(line)
    return 1 if broken else 0


def inject_in_all(seed: int, faults: int) -> list[str]:
    """Inject faults into agents side by side, and print what was done. Returns the promises that were broken."""
    print(f"seed {seed}: {faults} faults against {AGENTS} agents", flush=True)
    began = time.monotonic()
    images = [variant.reference for variant in VARIANTS.values()]
    shares = [faults // AGENTS + (index < faults % AGENTS) for index in range(AGENTS)]
    with ThreadPoolExecutor(AGENTS) as pool:
        running = [
            pool.submit(inject_faults, images[index % len(images)], f"{seed}/{index}", share)
            for index, share in enumerate(shares)
        ]
        outcomes = [future.result() for future in running]
    done = sum((outcome.done for outcome in outcomes), Counter[str]())
    table = Table(box=None, pad_edge=False)
    table.add_column("fault")
    table.add_column("times", justify="right")
    for name, times in done.most_common():
        table.add_row(name, str(times))
    Console().print(table)
    broken = [line for outcome in outcomes for line in outcome.broken]
    print(
        f"{sum(done.values())} faults in {time.monotonic() - began:.0f} s; "
        f"{sum(outcome.records for outcome in outcomes)} acknowledged records compared; "
        f"health was wrong for at most {max(outcome.longest_disagreement_s for outcome in outcomes):.1f} s; "
        f"{len(broken)} promises broken; seed {seed}"
    )
    return broken


def kill_commands(seed: int, count: int) -> list[str]:
    """Kill the commands for ten agents at random moments. Returns what the next calls did not finish."""
    if not count:
        return []
    done = 0
    with engine.connected() as client, tempfile.TemporaryDirectory(dir="/var/tmp", prefix="kills-") as directory:
        fleet = Fleet(client, Path(directory), KILLED_AGENTS)
        try:
            for line in kill_at_random(fleet, random.Random(f"{seed}/kills"), count):
                done += 1
                print(f"{done} of {count}: {line}", file=sys.stderr, flush=True)
        except AssertionError as error:
            return [f"seed {seed}, {error}"]
        finally:
            fleet.remove()
    print(f"{done} commands killed at random moments, and each next call finished the work")
    return []


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Problem as problem:
        print(f"chaos: {problem}", file=sys.stderr)
        sys.exit(problem.code)
