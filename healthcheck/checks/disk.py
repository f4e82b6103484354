"""`disk`: the writable volumes have free space. Evaluates the observations of the check `volumes`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from healthcheck.check import PASS, WARN, Check, Finding, size

if TYPE_CHECKING:
    from healthcheck.checks.volumes import VolumesCheck
    from healthcheck.facts import AgentFacts, VolumeStatus

LITTLE_SPACE = 0.05
LITTLE_SPACE_BYTES = 1 << 30
"""5 % of a large disk is plenty, so space is low only when it is below 5 % and below 1 GiB."""


class DiskCheck(Check):
    """Warns when little is left."""

    name = "disk"

    def __init__(self, volumes: VolumesCheck) -> None:
        self._volumes = volumes

    def evaluate(self, agent: AgentFacts) -> Finding:
        """Return which volumes are short of space, or the least free space."""
        seen = self._volumes.seen.values()
        age_s = max(observation.age_s for observation in seen)
        found = [observation.value for observation in seen if observation.value is not None]
        short = [volume for volume in found if not volume.read_only and is_short_of_space(volume)]
        if short:
            words = ", ".join(f"{volume.path} has {size(volume.free)} of {size(volume.total)} left" for volume in short)
            return Finding(WARN, f"{words}; remove what is not needed or give it a larger volume", age_s)
        if not found:
            return Finding(WARN, "not seen", age_s)
        return Finding(PASS, f"at least {size(min(volume.free for volume in found))} left", age_s)


def is_short_of_space(volume: VolumeStatus) -> bool:
    """Say whether space or inodes are about to run out."""
    if volume.total and volume.free < min(LITTLE_SPACE * volume.total, LITTLE_SPACE_BYTES):
        return True
    return volume.files > 0 and volume.free_files < LITTLE_SPACE * volume.files
