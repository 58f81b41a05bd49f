"""Limits of groups, version 2."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexquant.server.controller.sample import MemoryReading, StressReading
from flexquant.server.probes.cgroup import Group
from flexquant.server.probes.cgroup_v2 import CgroupV2Probe
from support.kernel_files import pressure_text, v2_group, within, write_tree

MIB = 1 << 20


def probe(folder: Path, *paths: str) -> CgroupV2Probe:
    return CgroupV2Probe(lambda: [Group(path, folder / path.lstrip("/")) for path in paths])


def memory(found: CgroupV2Probe) -> list[MemoryReading]:
    return [reading for reading in found.read() if isinstance(reading, MemoryReading)]


def stress(found: CgroupV2Probe) -> list[StressReading]:
    return [reading for reading in found.read() if isinstance(reading, StressReading)]


def test_every_limited_ancestor_is_a_source_and_a_tighter_one_shows(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        within("a/b", v2_group(maximum=str(900 * MIB), current=100 * MIB))
        | within("a", v2_group(maximum=str(500 * MIB), current=450 * MIB)),
    )
    assert memory(probe(tmp_path, "/a/b", "/a", "/")) == [
        MemoryReading("cgroup /a/b", 800 * MIB, 900 * MIB),
        MemoryReading("cgroup /a", 50 * MIB, 500 * MIB),
    ]


def test_max_is_no_limit(tmp_path: Path) -> None:
    write_tree(tmp_path, within("a", v2_group()))
    assert probe(tmp_path, "/a", "/").read() == []


def test_the_lower_of_max_and_high_is_the_limit(tmp_path: Path) -> None:
    write_tree(tmp_path, within("a", v2_group(maximum="1000", high="800")))
    write_tree(tmp_path, within("b", v2_group(high="800")))
    assert [reading.total for reading in memory(probe(tmp_path, "/a", "/b"))] == [800, 800]


def test_a_limit_set_later_is_seen(tmp_path: Path) -> None:
    write_tree(tmp_path, within("a", v2_group()))
    found = probe(tmp_path, "/a")
    assert found.read() == []
    write_tree(tmp_path, {"a/memory.max": "100\n"})
    assert memory(found) == [MemoryReading("cgroup /a", 100, 100)]


def test_what_the_kernel_takes_back_by_itself_is_available(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        within("a", v2_group(maximum="1000", current=900, inactive_file=100, active_file=300, slab_reclaimable=50)),
    )
    assert memory(probe(tmp_path, "/a"))[0].available == 1000 - (900 - 100 - 150 - 50)


def test_a_group_over_its_limit_has_less_than_nothing(tmp_path: Path) -> None:
    write_tree(tmp_path, within("a", v2_group(high="1000", current=1200)))
    assert memory(probe(tmp_path, "/a"))[0].available == -200


def test_more_reclaimable_than_used_is_no_more_than_all(tmp_path: Path) -> None:
    write_tree(tmp_path, within("a", v2_group(maximum="1000", current=100, inactive_file=300)))  # read in between
    assert memory(probe(tmp_path, "/a"))[0].available == 1000


def test_events_of_this_very_limit_count(tmp_path: Path) -> None:
    everybody = "low 9\nhigh 90\nmax 90\noom 90\noom_kill 90\noom_group_kill 0\n"
    ours = "low 0\nhigh 3\nmax 4\noom 2\noom_kill 0\noom_group_kill 0\n"
    write_tree(tmp_path, within("a", v2_group(maximum="1000", events=everybody) | {"memory.events.local": ours}))
    assert stress(probe(tmp_path, "/a")) == [StressReading("cgroup /a", events=7, oom_kills=2)]


def test_older_kernels_tell_events_of_all_below(tmp_path: Path) -> None:
    write_tree(tmp_path, within("a", v2_group(maximum="1000", events="low 0\nhigh 1\nmax 2\noom 3\noom_kill 3\n")))
    assert stress(probe(tmp_path, "/a")) == [StressReading("cgroup /a", events=3, oom_kills=3)]


def test_pressure_of_the_group_counts_where_it_is_told(tmp_path: Path) -> None:
    text = pressure_text(some=70, full=30, avg10=1.5, avg60=0.25)
    write_tree(tmp_path, within("a", v2_group(maximum="1000") | {"memory.pressure": text}))
    assert stress(probe(tmp_path, "/a")) == [
        StressReading("cgroup /a", 70, 30, some_avg10=1.5, some_avg60=0.25, events=0, oom_kills=0)
    ]


def test_a_kernel_that_does_not_count_its_own_memory_has_none_to_give_back(tmp_path: Path) -> None:
    files = v2_group(maximum="1000", current=900) | {"memory.stat": "inactive_file 100\nactive_file 0\n"}
    write_tree(tmp_path, within("a", files))
    assert memory(probe(tmp_path, "/a"))[0].available == 200


@pytest.mark.parametrize(
    ("name", "content"), [("memory.max", "much\n"), ("memory.stat", "anon 1\n"), ("memory.events", "low 0\n")]
)
def test_nonsense_is_said(tmp_path: Path, name: str, content: str) -> None:
    write_tree(tmp_path, within("a", v2_group(maximum="1000") | {name: content}))
    with pytest.raises(ValueError, match=r"much|inactive_file|high"):
        probe(tmp_path, "/a").read()


sizes = st.integers(min_value=0, max_value=(1 << 63) - 1)


@given(limit=sizes, current=sizes, inactive=sizes, active=sizes)
def test_numbers_round_trip(
    tmp_path_factory: pytest.TempPathFactory, limit: int, current: int, inactive: int, active: int
) -> None:
    folder = tmp_path_factory.mktemp("groups")
    files = v2_group(maximum=str(limit), current=current, inactive_file=inactive, active_file=active)
    write_tree(folder, within("a", files))
    (reading,) = memory(probe(folder, "/a"))
    assert reading.total == limit
    assert reading.available == limit - max(current - inactive - active // 2, 0) <= limit
