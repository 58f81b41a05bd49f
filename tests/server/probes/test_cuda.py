"""Memory of a graphics card."""

from flexquant.server.controller.sample import MemoryReading
from flexquant.server.probes.cuda import CudaProbe


def test_free_and_total_of_the_card() -> None:
    assert CudaProbe(lambda: (5, 24)).read() == [MemoryReading("cuda", 5, 24)]
