"""Where the limits of this process's groups are."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexquant.server.probes.cgroup import Mount, OutsideMountError, OwnGroups, find_mounts, groups_of, own_path
from support.kernel_files import v1_mount, v2_mount, write_tree

HYBRID = "9:name=systemd:/init.scope\n5:cpu,cpuacct:/a\n4:memory:/b:c\n0::/d\n"


def paths(path: str, root: str) -> list[tuple[str, str]]:
    return [(group.path, str(group.folder)) for group in groups_of(path, Mount(2, Path("/mnt"), root))]


def test_the_group_of_each_version() -> None:
    assert own_path(HYBRID, 1) == "/b:c"
    assert own_path(HYBRID, 2) == "/d"


def test_a_system_without_the_controller_is_named() -> None:
    with pytest.raises(ValueError, match="no group for memory"):
        own_path("3:cpu:/\n", 1)


def test_every_ancestor_counts_from_the_group_to_the_root() -> None:
    assert paths("/a/b", root="/") == [("/a/b", "/mnt/a/b"), ("/a", "/mnt/a"), ("/", "/mnt")]


def test_a_container_with_a_namespace_is_at_the_root() -> None:
    assert paths("/", root="/") == [("/", "/mnt")]


def test_a_container_without_a_namespace_sees_its_part() -> None:
    assert paths("/docker/x/y", root="/docker/x") == [("/docker/x/y", "/mnt/y"), ("/docker/x", "/mnt")]


@pytest.mark.parametrize(
    ("path", "root", "expected"),
    [
        ("/../..", "/../..", [("/../..", "/mnt")]),
        ("/../../a", "/../..", [("/../../a", "/mnt/a"), ("/../..", "/mnt")]),
        ("/", "/..", [("/..", "/mnt")]),
        ("/../a", "/../..", [("/../..", "/mnt")]),
    ],
)
def test_what_is_mounted_from_above_the_namespace_counts(path: str, root: str, expected: list[tuple[str, str]]) -> None:
    assert paths(path, root) == expected


@pytest.mark.parametrize(("path", "root"), [("/../..", "/"), ("/../x", "/"), ("/a", "/b"), ("/", "/docker/x")])
def test_a_group_outside_the_mount_is_said(path: str, root: str) -> None:
    with pytest.raises(OutsideMountError, match=f"group {path} .* outside {root}, mounted at /mnt"):
        paths(path, root)


def test_mounts_are_read_not_assumed(tmp_path: Path) -> None:
    memory, unified = tmp_path / "my groups", tmp_path / "unified"
    table = (
        f"22 1 8:1 / {tmp_path} rw - ext4 /dev/sda1 rw\n"
        + v1_mount(tmp_path / "cpu", controllers="cpu,cpuacct")
        + v1_mount(memory, root="/docker/x")
        + v2_mount(unified)
    )
    write_tree(tmp_path, {"proc/self/mountinfo": table, "unified/cgroup.controllers": "hugetlb\n"})
    assert find_mounts(tmp_path / "proc") == [Mount(1, memory, "/docker/x")]


def test_version_2_counts_where_it_controls_memory(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {"proc/self/mountinfo": v2_mount(tmp_path / "cg"), "cg/cgroup.controllers": "cpuset cpu io memory pids\n"},
    )
    assert find_mounts(tmp_path / "proc") == [Mount(2, tmp_path / "cg", "/")]


def test_a_process_that_is_moved_is_followed(tmp_path: Path) -> None:
    groups = OwnGroups(Mount(2, tmp_path, "/"), tmp_path / "proc")
    write_tree(tmp_path, {"proc/self/cgroup": "0::/a\n"})
    assert [group.path for group in groups()] == ["/a", "/"]
    write_tree(tmp_path, {"proc/self/cgroup": b"0::/b/\xff\n"})
    assert [group.path for group in groups()] == ["/b/\udcff", "/b", "/"]


names = st.text(st.characters(exclude_characters="/\n\r", exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1)


@given(st.lists(names.filter(lambda name: name not in (".", "..")), max_size=6), st.integers(0, 6))
def test_groups_below_any_root_are_all_ancestors_and_nothing_else(parts: list[str], depth: int) -> None:
    root = "/" + "/".join(parts[:depth])
    found = groups_of("/" + "/".join(parts), Mount(1, Path("/mnt"), root))
    assert [group.path for group in found] == [
        "/" + "/".join(parts[:length]) for length in range(len(parts), min(depth, len(parts)) - 1, -1)
    ]
    assert found[-1].folder == Path("/mnt")
