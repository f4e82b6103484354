"""All checks, one file each. A new check is a file here, a row in the table below, and its test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from healthcheck.checks.agent import AgentCheck
from healthcheck.checks.bridge import BridgeCheck
from healthcheck.checks.disk import DiskCheck
from healthcheck.checks.memory import MemoryCheck
from healthcheck.checks.network import NetworkCheck
from healthcheck.checks.task_master import TaskMasterCheck
from healthcheck.checks.tmux import TmuxCheck
from healthcheck.checks.volumes import VolumesCheck

if TYPE_CHECKING:
    from healthcheck.check import Check
    from healthcheck.facts import Sources


def all_checks(sources: Sources) -> tuple[Check, ...]:
    """Make all checks, in the order in which the pages show them."""
    volumes = VolumesCheck(sources.volumes)
    return (
        TmuxCheck(sources.panes),
        AgentCheck(),
        volumes,
        BridgeCheck(sources.bridge_socket),
        TaskMasterCheck(sources.task_master_version),
        NetworkCheck(sources.certificates),
        DiskCheck(volumes),
        MemoryCheck(),
    )
