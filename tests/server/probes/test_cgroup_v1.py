"""Limits of groups, version 1."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexquant.server.controller.sample import MemoryReading, StressReading
from flexquant.server.probes.cgroup import Group
from flexquant.server.probes.cgroup_v1 import CgroupV1Probe
from support.kernel_files import v1_group, within, write_tree


def probe(folder: Path, *paths: str) -> CgroupV1Probe:
    return CgroupV1Probe(lambda: [Group(path, folder / path.lstrip("/")) for path in paths])


@pytest.mark.parametrize("none", [9223372036854771712, 9223372036854710272, 9223372036854775807])
def test_a_sentinel_is_no_limit(tmp_path: Path, none: int) -> None:
    write_tree(tmp_path, within("a", v1_group(limit=none)))
    assert probe(tmp_path, "/a").read() == []


def test_every_limited_ancestor_is_a_source(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        within("a/b", v1_group())
        | within("a", v1_group(limit=1000, usage=900, inactive_file=100, active_file=301, failures=7, kills=1))
        | v1_group(limit=5000),
    )
    assert probe(tmp_path, "/a/b", "/a", "/").read() == [
        MemoryReading("cgroup /a", 1000 - (900 - 100 - 150), 1000),
        StressReading("cgroup /a", events=7, oom_kills=1),
        MemoryReading("cgroup /", 5000, 5000),
        StressReading("cgroup /", events=0, oom_kills=0),
    ]


def test_kernels_that_do_not_count_kills_say_so(tmp_path: Path) -> None:
    files = v1_group(limit=1000) | {"memory.oom_control": "oom_kill_disable 0\nunder_oom 0\n"}
    write_tree(tmp_path, within("a", files))
    assert probe(tmp_path, "/a").read()[1] == StressReading("cgroup /a", events=0, oom_kills=None)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        probe(tmp_path, "/a").read()


@given(st.integers(min_value=0, max_value=(1 << 62) - 1), st.integers(min_value=0, max_value=(1 << 62) - 1))
def test_numbers_round_trip(tmp_path_factory: pytest.TempPathFactory, limit: int, usage: int) -> None:
    folder = tmp_path_factory.mktemp("groups")
    write_tree(folder, within("a", v1_group(limit=limit, usage=usage)))
    assert probe(folder, "/a").read()[0] == MemoryReading("cgroup /a", limit - usage, limit)
