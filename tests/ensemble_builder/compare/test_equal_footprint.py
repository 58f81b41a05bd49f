"""Plain words on which ensemble is better at which footprints."""

from collections.abc import Sequence

import pytest

from flexquant.ensemble_builder.compare.equal_footprint import beside_each_other
from flexquant.ensemble_builder.report.measure import Curve, Point
from flexquant.ensemble_builder.report.orders import OWN, Route
from support.window_figures import figures


def curve(sizes: Sequence[int], losses: Sequence[float]) -> Curve:
    points = [Point(at, size, figures(10, kl)) for at, (size, kl) in enumerate(zip(sizes, losses, strict=True))]
    return Curve(Route(OWN, None, tuple((at,) for at in range(len(sizes))), tuple(sizes)), tuple(points))


WIDE = curve([9_000_000, 1_000_000], [0.0, 0.8])
"""KL falls by 0.1 with every MB."""


@pytest.mark.parametrize(
    ("sizes", "losses", "said"),
    [
        (
            [5_000_000, 3_000_000],
            [0.3, 0.5],
            "from 3.000 MB to 5.000 MB: the mean KL is 0.5 and 0.4; b has the lower KL",
        ),
        (
            [12_000_000, 8_000_000],
            [0.0, 0.4],
            "from 8.000 MB to 9.000 MB: the mean KL is 0.05 and 0.35; a has the lower",
        ),
        (
            [5_000_000, 3_000_000],
            [0.2, 0.79],
            "the lower KL has a from 3.000 MB to 3.969 MB, b from 4.000 MB to 5.000 MB",
        ),
        ([900_000, 800_000], [0.1, 0.2], "they have no footprint in common"),
    ],
)
def test_who_is_better_where(sizes: list[int], losses: list[float], said: str) -> None:
    sentence = beside_each_other("a", WIDE, "b", curve(sizes, losses))
    assert sentence.startswith("a beside b")
    assert said in sentence
