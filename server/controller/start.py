"""Where to start: never at the top and hoping."""

from collections.abc import Sequence

from flexquant.engine.errors import MemoryShortError
from flexquant.server.controller.outlook import largest_step
from flexquant.server.controller.parameters import MIB, Parameters
from flexquant.server.controller.sample import MemoryReading


def starting_position(
    memory: Sequence[MemoryReading], footprints: Sequence[int], other_bytes: int, parameters: Parameters
) -> int:
    """The best position that leaves every domain's highest reserve free; the smallest one if none does.

    Args:
        memory: Readings taken before the model is loaded; without any, the smallest position is chosen.
        footprints: Bytes of resident weights at positions 0..N, descending.
        other_bytes: What loading takes beside the weights: KV cache, scratch, staging.
        parameters: Numbers of the law.

    Raises:
        MemoryShortError: Not even the smallest position fits into what is available.
    """
    last = len(footprints) - 1
    if not memory:
        return last
    tightest = min(memory, key=lambda reading: reading.available)
    needed = footprints[last] + other_bytes
    if tightest.available < needed:
        short = -(-(needed - tightest.available) // MIB)
        raise MemoryShortError(
            f"the smallest position needs {-(-needed // MIB)} MiB and {tightest.source} has "
            f"{max(tightest.available, 0) // MIB} MiB available: {short} MiB are missing",
            needed=needed,
            available=tightest.available,
            hint="Close other programs, raise --memory-budget, lower --context, or build a lower level.",
        )
    step = largest_step(footprints)
    room = min(
        reading.available - parameters.reserves(reading.total, shared=reading.shared, largest_step=step).high
        for reading in memory
    )
    return next((k for k, footprint in enumerate(footprints) if footprint + other_bytes <= room), last)
