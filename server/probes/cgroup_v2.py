"""Limits of control groups, version 2: containers, systemd services and scopes."""

from collections.abc import Callable, Sequence
from pathlib import Path

from flexquant.server.controller.sample import MemoryReading, StressReading
from flexquant.server.probes.cgroup import Group
from flexquant.server.probes.kernel_file import counter, find_counter, read_file, read_if_there
from flexquant.server.probes.probe import Reading
from flexquant.server.probes.psi import Pressure, read_pressure


class CgroupV2Probe:
    """What is left below the limit of every group that this process is in, and how hard each of them presses.

    Groups without a limit give nothing: what presses them shows in their ancestors or in the host.

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
            limit = _limit(group.folder)
            if limit is not None:
                source = f"{self.name} {group.path}"
                readings += [_memory(source, group.folder, limit), _stress(source, group.folder)]
        return readings


def _limit(folder: Path) -> int | None:
    """The lower of `memory.max`, where the kernel kills, and `memory.high`, where it already slows all down."""
    found = []
    for name in ("memory.max", "memory.high"):
        text = read_if_there(folder / name)  # the root of all groups has none, nor has one that does not control memory
        if text is not None and text.strip() != "max":
            found.append(int(text))
    return min(found, default=None)


def _memory(source: str, folder: Path, limit: int) -> MemoryReading:
    statistics = read_file(folder / "memory.stat")
    # What the kernel takes back by itself before it hits the limit. Of the files in active use only half: counting
    # all of them (as lxcfs does) would call memory free that the group's programs read from all the time, and the
    # daemon would only shrink once they wait for the disk; counting none would call any group full that reads files.
    reclaimable = (
        counter(statistics, "inactive_file")
        + counter(statistics, "active_file") // 2
        + (find_counter(statistics, "slab_reclaimable") or 0)  # not on kernels that leave their own memory out
    )
    used = int(read_file(folder / "memory.current")) - reclaimable
    return MemoryReading(source, available=limit - max(used, 0), total=limit)


def _stress(source: str, folder: Path) -> StressReading:
    """Events of this very limit: memory.events also counts groups below, where others hit limits of their own."""
    events = read_if_there(folder / "memory.events.local")
    if events is None:  # before Linux 5.2
        events = read_file(folder / "memory.events")
    pressure = read_pressure(folder / "memory.pressure") or Pressure()
    return StressReading(
        source,
        some_us=pressure.some_us,
        full_us=pressure.full_us,
        some_avg10=pressure.some_avg10,
        some_avg60=pressure.some_avg60,
        events=counter(events, "high") + counter(events, "max"),
        # Calls of the killer for this limit: `oom_kill` is counted where the victim was, whatever limit it died for.
        oom_kills=counter(events, "oom"),
    )
