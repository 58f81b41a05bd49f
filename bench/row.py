"""One line of the results."""

from dataclasses import dataclass
from typing import Any

from bench.figures import Figure


@dataclass(frozen=True, slots=True)
class Row:
    """A measurement of ours, beside what it is compared with.

    Args:
        name: What was measured, with its conditions: "decode, 4 bits".
        unit: Of both figures: "tokens/s", "s", "GB/s".
        ours: FlexQuant's figure.
        peer: What it is compared with; None where there is nothing, and then `against` says why.
        against: What `peer` is: a program at certain bits, a bound, another figure of ours.
        less_is_better: For times and bytes.
    """

    name: str
    unit: str
    ours: Figure
    peer: Figure | None
    against: str
    less_is_better: bool = False

    @property
    def ratio(self) -> float | None:
        """`ours` over `peer`; None without a peer, and where it has nothing."""
        return None if self.peer is None or self.peer.median == 0 else self.ours.median / self.peer.median

    def to_json(self) -> dict[str, Any]:
        """`ours` and `peer` are medians; the ranges are [least, most] of the rounds."""
        return {
            "name": self.name,
            "ours": self.ours.median,
            "peer": None if self.peer is None else self.peer.median,
            "ratio": self.ratio,
            "unit": self.unit,
            "against": self.against,
            "less_is_better": self.less_is_better,
            "ours_range": [self.ours.least, self.ours.most],
            "peer_range": None if self.peer is None else [self.peer.least, self.peer.most],
            "rounds": self.ours.rounds,
        }
