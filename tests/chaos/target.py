"""The agent under test, and checks from outside that do not rely on its own health."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from docker.errors import APIError
from docker.models.containers import Container

from tests.chaos.workload import VOLUMES, record
from tests.support.containers import Agent, Agents
from tests.support.waiting import let_pass, wait_until

AGREE_WITHIN_S = 5.0
"""Health must be right within this time."""

AGENT_SIZE = "32m"
WORKLOAD = Path(__file__).with_name("workload.py")

OBSERVE = """
stopped=no writable=no session=no command=no
ps -C python3 -o stat=,args= | grep agent-entrypoint | grep -q '^T' && stopped=yes
timeout 1 tmux has-session -t =agent 2>/dev/null && session=yes
pgrep -f '^python3 /chaos/workload.py' >/dev/null && command=yes
head -c 4096 /dev/zero 2>/dev/null >/agent/.chaos-look && writable=yes
rm -f /agent/.chaos-look
echo "$stopped $writable $session $command"
"""


class Broken(Exception):
    """A promise that was not kept."""


class Target:
    """An agent with volumes that outlive its container. /agent is in memory, so that it can be filled."""

    def __init__(self, made: Agents, image: str) -> None:
        self._made = made
        self._image = image
        self.acks = Path(tempfile.mkdtemp(prefix="magents-chaos-"))
        self.acks.chmod(0o777)
        volumes = {
            name: made.volume(**({"tmpfs": f"size={AGENT_SIZE},mode=1777"} if name == "agent" else {}))
            for name in VOLUMES
        }
        self._mounts = [f"{volume}:/{name}" for name, volume in volumes.items()]
        self._mounts += [f"{self.acks}:/acks", f"{WORKLOAD}:/chaos/workload.py:ro"]
        self.holder = made.start(volumes=self._mounts, entrypoint=["sleep", "infinity"], ports={}, network_mode="none")
        self.agent = self._new()
        self.longest_disagreement_s = 0.0

    def _new(self) -> Agent:
        return self._made.start(
            volumes=self._mounts,
            environment={"AGENT_COMMAND": "exec python3 /chaos/workload.py", "AGENT_STOP_GRACE": "2"},
            restart_policy={"Name": "unless-stopped"},
            read_only=True,
            cap_drop=["ALL"],
        ).expect("")  # its log is full of errors that the faults cause

    def renew(self) -> None:
        """Remove the container and make another on the same volumes."""
        self.agent.container.remove(force=True)
        self.agent = self._new()

    @property
    def container(self) -> Container:
        """Return the container of the engine's SDK."""
        return self.agent.container

    def as_root(self, *argv: str) -> str:
        """Run a command as root with every capability. Returns its output, empty when the engine refuses."""
        try:
            return str(self.container.exec_run(list(argv), user="0", privileged=True).output.decode(errors="replace"))
        except APIError:
            return ""

    def bring_up(self) -> None:
        """Make sure that it runs. Docker's restart policy has 2 s; after that, unpause, start or restart it here."""
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            if self.agent.state()["Status"] == "running":
                return
            let_pass(0.1)
        status = self.agent.state()["Status"]
        if status == "paused":
            self.container.unpause()
        elif status == "exited":
            self.container.start()
        elif status != "running":
            self.container.restart(timeout=0)

    # -- the promises -------------------------------------------------------------------------------------

    def check_health_agrees(self) -> None:
        """Wait until health agrees with what is observed. Raises Broken after AGREE_WITHIN_S."""
        since, before = time.monotonic(), None
        while True:
            observed = self._is_well()
            if observed is not before:
                since, before = time.monotonic(), observed
            reported = self._reports_well()
            wrong_s = time.monotonic() - since
            if reported is observed and self._is_well() is observed:
                self.longest_disagreement_s = max(self.longest_disagreement_s, wrong_s)
                return
            if wrong_s > AGREE_WITHIN_S:
                raise Broken(
                    f"for {wrong_s:.1f} s health says {'well' if reported else 'unwell'}: {self.agent.health()}, "
                    f"seen: {self._observe()}, {self.agent.state()['Status']}"
                )
            let_pass(0.1)

    def _reports_well(self) -> bool:
        return str(self.agent.health()["status"]) in {"healthy", "degraded"}

    def _observe(self) -> list[str]:
        try:
            found = self.container.exec_run(["bash", "-c", OBSERVE])
        except APIError:
            return []
        return str(found.output.decode(errors="replace")).split() if found.exit_code == 0 else []

    def _is_well(self) -> bool:
        return self._observe() == ["no", "yes", "yes", "yes"]

    def check_state(self) -> dict[str, Any]:
        """Read /agent/state.json, through a container that always has the volume. Raises Broken when it is no JSON."""
        text = self.holder.run("sh", "-c", "cat /agent/state.json 2>/dev/null || echo '{}'")
        try:
            return dict(json.loads(text))
        except ValueError:
            raise Broken(f"state is unreadable: {text[:200]!r}") from None

    def check_no_zombie(self) -> None:
        """Check that every process that has ended is reaped within 2 s. Raises Broken."""

        def ended() -> list[str]:
            rows = self.as_root("ps", "-eo", "stat=,pid=,ppid=,comm=").splitlines()
            return [row for row in rows if row.startswith("Z")]

        try:
            wait_until(lambda: not ended(), 2, "zombies to be reaped")
        except AssertionError:
            raise Broken(f"zombies: {ended()}") from None

    def check_records(self) -> int:
        """Compare every volume with the acknowledged records; return their number. Raises Broken when one is lost."""
        count = 0
        for volume in VOLUMES:
            acks = self.acks / volume
            known = [int(line) for line in acks.read_text().splitlines()] if acks.exists() else []
            data = self.holder.container.exec_run(["cat", f"/{volume}/records"]).output
            lines = data.splitlines(keepends=True)
            lost = [number for number in known if number >= len(lines) or lines[number] != record(number)]
            if lost:
                raise Broken(f"/{volume} lost {len(lost)} of {len(known)} acknowledged records, first {lost[0]}")
            count += len(known)
        return count
