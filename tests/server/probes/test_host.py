"""Memory of the whole machine."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexquant.server.controller.sample import MemoryReading, StressReading
from flexquant.server.probes.host import HostProbe, SwappedOut
from flexquant.server.probes.kernel_file import counter, find_counter
from support.kernel_files import write_tree


def test_the_host_gives_available_and_total() -> None:
    probe = HostProbe(lambda: SimpleNamespace(available=5, total=9))
    assert probe.read() == [MemoryReading("host", 5, 9)]


def test_the_host_gives_what_it_has_swapped_out_where_that_is_known() -> None:
    probe = HostProbe(lambda: SimpleNamespace(available=5, total=9), lambda: 4096)
    assert probe.read() == [MemoryReading("host", 5, 9), StressReading("host", swapped_out=4096)]


def test_the_real_host_answers() -> None:
    (reading,) = HostProbe().read()
    assert isinstance(reading, MemoryReading)
    assert 0 < reading.available <= reading.total


def test_swapped_out_counts_pages_of_the_size_of_this_machine(tmp_path: Path) -> None:
    write_tree(tmp_path, {"vmstat": "nr_free_pages 7\npswpin 1\npswpout 3\npgfault 9\n"})
    assert SwappedOut(tmp_path, page=65536)() == 3 * 65536


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what it swaps out")
def test_the_real_kernel_tells_what_it_has_swapped_out() -> None:
    assert SwappedOut(Path("/proc"))() >= 0


def test_a_kernel_that_does_not_count_swapping_is_named(tmp_path: Path) -> None:
    write_tree(tmp_path, {"vmstat": "nr_free_pages 7\n"})
    with pytest.raises(ValueError, match="no pswpout"):
        SwappedOut(tmp_path)()


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,12}", fullmatch=True), st.integers(min_value=0, max_value=1 << 64)))
def test_counters_round_trip(numbers: dict[str, int]) -> None:
    text = "".join(f"{name} {number}\n" for name, number in numbers.items())
    assert {name: counter(text, name) for name in numbers} == numbers
    assert find_counter(text, "not.there") is None
