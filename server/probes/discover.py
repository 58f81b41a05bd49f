"""Which memory sources this machine has."""

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from flexquant.server.probes.cgroup import OwnGroups, find_mounts
from flexquant.server.probes.cgroup_v1 import CgroupV1Probe
from flexquant.server.probes.cgroup_v2 import CgroupV2Probe
from flexquant.server.probes.host import HostProbe, SwappedOut, VirtualMemory
from flexquant.server.probes.macos import MacosProbe, sysctl_integer
from flexquant.server.probes.probe import Probe
from flexquant.server.probes.psi import PsiProbe, read_pressure

logger: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Roots:
    """Where the sources get their numbers; the defaults are this machine's.

    Args:
        platform: As in `sys.platform`.
        proc: Where procfs is, on Linux. It says where the control groups are.
        virtual_memory: Memory of the host.
        sysctl: Integers of the kernel, on macOS.
    """

    platform: str = sys.platform
    proc: Path = Path("/proc")
    virtual_memory: Callable[[], VirtualMemory] = psutil.virtual_memory
    sysctl: Callable[[str], int] = sysctl_integer


def discover(roots: Roots) -> tuple[Probe, ...]:
    """The sources that answer here.

    What a system does not have is not constructed. What it has but does not let us read is not either, and the log
    says so: a source that never answers would keep the model from growing for ever.
    """
    probes: list[Probe] = []
    if roots.platform == "linux":
        swapped_out = SwappedOut(roots.proc)
        swaps = _answers("what is swapped out", swapped_out)
        probes.append(HostProbe(roots.virtual_memory, swapped_out if swaps else None))
        pressure = roots.proc / "pressure" / "memory"
        if _answers("pressure stall information", lambda: read_pressure(pressure)):
            probes.append(PsiProbe(pressure))
        probes += _control_groups(roots.proc)
    else:
        probes.append(HostProbe(roots.virtual_memory))
    if roots.platform == "darwin":
        probes.append(MacosProbe(roots.sysctl))
    return tuple(probes)


def _answers(what: str, read: Callable[[], object]) -> bool:
    """Whether reading gives something; says why if it should but does not."""
    try:
        return read() is not None
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        logger.info("%s is left out: %s: %s", what, type(error).__name__, error)
        return False


def _control_groups(proc: Path) -> list[Probe]:
    """The source of the limits of this process's groups, where memory is controlled and the limits can be seen."""
    why: Exception | None = None
    seen: list[tuple[int, Probe]] = []
    try:
        for mount in find_mounts(proc):
            groups = OwnGroups(mount, proc)
            probe: Probe = CgroupV1Probe(groups) if mount.version == 1 else CgroupV2Probe(groups)
            try:
                probe.read()
                seen.append((len(groups()), probe))
            except (OSError, ValueError) as error:
                why = error
    except (OSError, ValueError) as error:
        why = error
    if seen:
        _, best = max(seen, key=lambda found: found[0])  # a tree that is mounted twice may show more in one place
        return [best]
    if why is not None:
        logger.warning(
            "limits of control groups are left out: %s: %s. If this daemon's memory is limited, give --memory-budget.",
            type(why).__name__,
            why,
        )
    return []
