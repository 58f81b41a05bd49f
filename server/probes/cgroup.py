"""Where the kernel keeps the memory limits of this process's control groups, for both versions of cgroups.

The place is never assumed: /proc/self/mountinfo says where a hierarchy is mounted and which group is at its root
(a container sees a part of the tree), /proc/self/cgroup says in which group this process is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flexquant.server.probes.kernel_file import read_file, read_if_there

Version = Literal[1, 2]


@dataclass(frozen=True, slots=True)
class Group:
    """One control group: its path as the kernel names it, and the folder with its files."""

    path: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted hierarchy that controls memory.

    Args:
        version: Of cgroups.
        point: Where it is mounted.
        root: The group that is seen there: "/" unless it is a container's part, or lies above a namespace ("/..").
    """

    version: Version
    point: Path
    root: str


class OutsideMountError(ValueError):
    """This process's group is not below what is mounted: its limits cannot be seen from here."""


class OwnGroups:
    """The groups that this process is in, from its own up to the root of what is mounted; read anew at every call.

    A process can be moved to another group while it runs.

    Args:
        mount: The hierarchy.
        proc: Where procfs is.
    """

    def __init__(self, mount: Mount, proc: Path) -> None:
        self._mount = mount
        self._membership = proc / "self" / "cgroup"

    def __call__(self) -> Sequence[Group]:
        """The groups.

        Raises:
            OutsideMountError: Their limits cannot be seen.
            OSError: procfs cannot be read.
            ValueError: It names no group.
        """
        return groups_of(own_path(read_file(self._membership), self._mount.version), self._mount)


def find_mounts(proc: Path) -> list[Mount]:
    """The mounts through which the memory controller can be reached; several only where a tree is mounted twice.

    On hybrid systems that is version 1: the version 2 tree beside it has no memory files.

    Raises:
        OSError: procfs cannot be read.
        ValueError: It is not as Linux writes it.
    """
    mounts = []
    for line in read_file(proc / "self" / "mountinfo").splitlines():
        # 35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
        about, _, kind = line.partition(" - ")
        _, _, _, root, point, *_ = about.split(" ")
        filesystem, _, options = kind.split(" ", 2)
        place = Path(_unescape(point))
        if filesystem == "cgroup" and "memory" in options.split(","):
            mounts.append(Mount(1, place, _unescape(root)))
        elif filesystem == "cgroup2" and "memory" in (read_if_there(place / "cgroup.controllers") or "").split():
            mounts.append(Mount(2, place, _unescape(root)))
    return mounts


def own_path(membership: str, version: Version) -> str:
    """The group in the text of /proc/self/cgroup: "4:memory:/a" in version 1, "0::/a" in version 2.

    Raises:
        ValueError: There is none.
    """
    for line in membership.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(",") if version == 1 else (number, controllers) == ("0", ""):
            return path
    raise ValueError(f"/proc/self/cgroup names no group for memory (version {version}): {membership!r}")


def groups_of(path: str, mount: Mount) -> list[Group]:
    """The group `path` and all above it, as far as they are mounted.

    Raises:
        OutsideMountError: None of them is.
    """
    root, parts = _parts(mount.root), _parts(path)
    if parts[: len(root)] == root and ".." not in parts[len(root) :]:
        below = parts[len(root) :]
    elif set(root) == {".."} and parts[: len(root)] != root:
        below = []  # mounted from above our namespace: an ancestor, but the names of the groups between are not known
    else:
        raise OutsideMountError(f"the group {path} of this process lies outside {mount.root}, mounted at {mount.point}")
    return [
        Group("/" + "/".join(root + below[:depth]), mount.point.joinpath(*below[:depth]))
        for depth in range(len(below), -1, -1)
    ]


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def _unescape(field: str) -> str:
    """Undo the octal escapes of mountinfo for what would end a field or line."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field
