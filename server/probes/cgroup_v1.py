"""Limits of control groups, version 1, also on hybrid systems that have version 2 for other things."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from flexquant.server.controller.sample import MemoryReading, StressReading
from flexquant.server.probes.cgroup import Group
from flexquant.server.probes.kernel_file import counter, find_counter, read_file
from flexquant.server.probes.probe import Reading

NO_LIMIT: Final = 1 << 62
"""From here on a number means "none": the kernel writes 2^63 less one page, 9223372036854771712 with pages of 4 KiB."""


class CgroupV1Probe:
    """What is left below the limit of every group that this process is in, and how often each was hit.

    Groups without a limit give nothing.

    Args:
        groups: Gives the groups now.
    """

    name = "cgroup"

    def __init__(self, groups: Callable[[], Sequence[Group]]) -> None:
        self._groups = groups

    def read(self) -> Sequence[Reading]:
        """Bytes below each limit, and its stress."""
        readings: list[Reading] = []
        for group in self._groups():
            limit = int(read_file(group.folder / "memory.limit_in_bytes"))
            if limit < NO_LIMIT:
                source = f"{self.name} {group.path}"
                readings += [_memory(source, group.folder, limit), _stress(source, group.folder)]
        return readings


def _memory(source: str, folder: Path, limit: int) -> MemoryReading:
    statistics = read_file(folder / "memory.stat")
    # As in version 2, half of the files in active use; `total_` counts the groups below too, as the usage does.
    # How much of the kernel's own memory could be reclaimed is not told here: it counts as used.
    reclaimable = counter(statistics, "total_inactive_file") + counter(statistics, "total_active_file") // 2
    used = int(read_file(folder / "memory.usage_in_bytes")) - reclaimable
    return MemoryReading(source, available=limit - max(used, 0), total=limit)


def _stress(source: str, folder: Path) -> StressReading:
    """Version 1 has no pressure of its own, and counts a kill only in the group where the victim was."""
    return StressReading(
        source,
        events=int(read_file(folder / "memory.failcnt")),  # Linux 6.18 leaves it at 0 whatever happens
        oom_kills=find_counter(read_file(folder / "memory.oom_control"), "oom_kill"),  # since Linux 4.13
    )
