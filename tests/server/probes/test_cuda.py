"""Memory of a graphics card."""

import pytest

from flexquant.server.controller.sample import MemoryReading
from flexquant.server.probes.cuda import CudaProbe, Device, has_own_memory

GIB = 1 << 30


def test_free_and_total_of_the_card() -> None:
    assert CudaProbe(lambda: (5, 24)).read() == [MemoryReading("cuda", 5, 24)]


@pytest.mark.parametrize(
    ("integrated", "total", "own"),
    [
        (True, 24 * GIB, False),
        (False, 24 * GIB, True),
        (False, 64 * GIB, True),  # a card may happen to be as large as the host's memory
        (None, 24 * GIB, True),
        (None, 64 * GIB, False),
        (None, 60 * GIB, False),
        (None, 80 * GIB, True),
    ],
)
def test_a_card_is_a_domain_of_its_own_unless_it_shares_the_hosts_memory(
    integrated: bool | None, total: int, own: bool
) -> None:
    assert has_own_memory(Device(lambda: (1, total), integrated), host_total=64 * GIB) is own
