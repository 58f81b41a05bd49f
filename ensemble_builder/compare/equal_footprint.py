"""Two ensembles beside each other at equal footprint: which has the lower KL, and where. Pure."""

from itertools import groupby
from operator import itemgetter

from flexquant.ensemble_builder.report.measure import Curve

COMPARED = 65
"""Footprints, evenly spread over the range that both have."""


def beside_each_other(name: str, curve: Curve, other_name: str, other: Curve) -> str:
    """Return in plain words which of two ensembles is better at which footprints.

    Between measured positions quality is taken as linear.

    Args:
        name: Of the first ensemble.
        curve: Its sequence.
        other_name: Of the second one.
        other: Its sequence.
    """
    both = f"{name} beside {other_name}"
    low = max(found.points[-1].footprint_bytes for found in (curve, other))
    up = min(found.points[0].footprint_bytes for found in (curve, other))
    if low >= up:
        return f"{both}: they have no footprint in common."
    sizes = [low + (up - low) * at / (COMPARED - 1) for at in range(COMPARED)]
    ours, theirs = ([found.kl_at(size) for size in sizes] for found in (curve, other))
    means = f"the mean KL is {sum(ours) / COMPARED:.4g} and {sum(theirs) / COMPARED:.4g}"
    common = f"{both}, from {_mb(low)} to {_mb(up)}: {means}; "
    better = [name if one < two else other_name for one, two in zip(ours, theirs, strict=True)]
    runs = groupby(zip(better, sizes, strict=True), key=itemgetter(0))
    parts = [(winner, [size for _, size in run]) for winner, run in runs]
    if len(parts) == 1:
        return f"{common}{better[0]} has the lower KL everywhere."
    said = [f"{winner} from {_mb(part[0])} to {_mb(part[-1])}" for winner, part in parts]
    return f"{common}the lower KL has {', '.join(said)}."


def _mb(size: float) -> str:
    return f"{size / 1e6:.3f} MB"
