"""A real control group with a memory limit, where the machine lets this process make one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flexquant.server.probes.cgroup import Group, Mount, OwnGroups, find_mounts

CLEANUP_SECONDS = 30.0


class CannotLimitError(Exception):
    """This machine does not let us; the message says why."""


@dataclass(frozen=True, slots=True)
class LimitedGroup:
    """A group that exists until its context ends.

    Args:
        version: Of cgroups.
        path: As the kernel names it.
        folder: With its files.
    """

    version: int
    path: str
    folder: Path

    def enter(self, pid: int) -> None:
        """Move a process in; what it takes from now on counts."""
        (self.folder / "cgroup.procs").write_text(str(pid))

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The command line that runs `arguments` in the group from its first page on."""
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.folder / "cgroup.procs"), *arguments]

    def pids(self) -> list[int]:
        """The processes in it."""
        return [int(pid) for pid in (self.folder / "cgroup.procs").read_text().split()]

    def kills(self) -> int:
        """Processes in it that the kernel has killed for want of memory."""
        name = "memory.oom_control" if self.version == 1 else "memory.events"
        counts = dict(line.split() for line in (self.folder / name).read_text().splitlines())
        return int(counts["oom_kill"])


@contextmanager
def limited_group(limit: int) -> Iterator[LimitedGroup]:
    """A new group whose processes get at most `limit` bytes, and no swap. Whatever runs in it at the end is killed.

    Raises:
        CannotLimitError: The machine does not allow it.
    """
    mount, parent = _parent()
    name = f"flexquant-test-{os.getpid()}"
    group = LimitedGroup(mount.version, f"{parent.path.rstrip('/')}/{name}", parent.folder / name)
    try:
        group.folder.mkdir()
    except OSError as error:
        raise CannotLimitError(f"no group can be made in {parent.folder}: {error}") from error
    try:
        try:
            _limit(group, limit)
            subprocess.run(group.command(["true"]), check=True, capture_output=True, text=True)
        except OSError as error:
            raise CannotLimitError(f"{group.folder} cannot be limited: {error}") from error
        except subprocess.CalledProcessError as error:
            raise CannotLimitError(f"no process can be moved into {group.folder}: {error.stderr.strip()}") from error
        yield group
    finally:
        _remove(group)


def _parent() -> tuple[Mount, Group]:
    """The group that a limited one can be made in: the own one, or with version 2 the nearest that hands memory on."""
    if sys.platform != "linux":
        raise CannotLimitError("only Linux has control groups")
    proc = Path("/proc")
    mount = next(iter(find_mounts(proc)), None)
    if mount is None:
        raise CannotLimitError("no control group hierarchy that controls memory is mounted")
    groups = OwnGroups(mount, proc)()
    if mount.version == 1:
        return mount, groups[0]
    for group in groups:
        if "memory" in (group.folder / "cgroup.subtree_control").read_text().split():
            return mount, group
    raise CannotLimitError(f"no group from {groups[0].path} up hands memory on (cgroup.subtree_control)")


def _limit(group: LimitedGroup, limit: int) -> None:
    if group.version == 1:
        (group.folder / "memory.limit_in_bytes").write_text(str(limit))
        swap = group.folder / "memory.memsw.limit_in_bytes"  # memory and swap together
    else:
        (group.folder / "memory.max").write_text(str(limit))
        swap = group.folder / "memory.swap.max"
    if swap.exists():
        swap.write_text(str(limit if group.version == 1 else 0))


def _remove(group: LimitedGroup) -> None:
    deadline = time.monotonic() + CLEANUP_SECONDS
    while pids := group.pids():
        assert time.monotonic() < deadline, f"{pids} in {group.folder} cannot be killed"
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)
    group.folder.rmdir()
