"""What a comparison is told."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """How a comparison measures.

    Args:
        checkpoint: The unquantized model.
        text: File with a text that neither calibration nor search has seen.
        windows: Most windows of it; all if None.
        out: Folder of the comparison.
        between: Positions to measure between the ends of the orders that are not measured at every position.
        draws: Random orders.
        seed: Of the random orders and of the completion choice.
        prune: Rates at which every ensemble is pruned and measured, rising.
        exhaustive: Most evaluations that exhaustive greedy may take; an ensemble that needs more is compared without.
        device: Where models are measured, by torch's name.
    """

    checkpoint: Path
    text: Path
    windows: int | None
    out: Path
    between: int
    draws: int
    seed: int
    prune: tuple[float, ...]
    exhaustive: int
    device: str = "cpu"
