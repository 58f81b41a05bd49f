"""Which positions are measured, and areas and values between them."""

import pytest

from flexquant.ensemble_builder.report.measure import measure_routes, positions_near, states_to_measure
from flexquant.ensemble_builder.report.orders import back_to_front, front_to_back, route_along
from flexquant.ensemble_builder.sequence import Assignment, Unit
from flexquant.ensemble_builder.window_quality import WindowQuality
from support.window_figures import figures

UNITS = [Unit(str(at), (10 * (at + 1), 0)) for at in range(6)]
ROUTES = [
    route_along("front-to-back", UNITS, front_to_back(UNITS), 5),
    route_along("back-to-front", UNITS, back_to_front(UNITS), 5),
]


def test_positions_are_spread_by_footprint_and_not_by_number() -> None:
    assert positions_near([100, 99, 98, 97, 50, 0], 1) == [0, 4, 5]
    assert positions_near([100, 60, 40, 0], 2) == [0, 1, 2, 3]


@pytest.mark.parametrize("between", [0, 1, 3, 5, 50])
def test_both_ends_are_always_measured(between: int) -> None:
    found = positions_near(ROUTES[0].footprints, between)
    assert (found[0], found[-1]) == (0, 6)
    assert len(found) <= min(between, 5) + 2
    assert found == sorted(set(found))


def test_enough_points_measure_every_position() -> None:
    assert positions_near(ROUTES[0].footprints, 5) == list(range(7))


def test_no_assignment_is_measured_twice() -> None:
    asked: list[Assignment] = []

    def measure(state: Assignment) -> WindowQuality:
        asked.append(state)
        return figures(10.0 + sum(state), 0.1 * sum(state))

    curves = measure_routes(ROUTES, 5, measure)
    assert len(asked) == len(set(asked)) == 12
    assert asked == states_to_measure(ROUTES, 5)
    assert [point.perplexity for point in curves[0].points] == [10, 11, 12, 13, 14, 15, 16]


def test_the_area_prefers_the_order_that_frees_much_early() -> None:
    front, back = measure_routes(ROUTES, 5, lambda state: figures(1.0, 0.1 * sum(state)))
    assert back.area < front.area
    straight = measure_routes(ROUTES[:1], 0, lambda state: figures(1.0, 0.1 * sum(state)))[0]
    assert straight.area == pytest.approx(0.3)


def test_values_between_positions_are_linear() -> None:
    curve = measure_routes(ROUTES[:1], 5, lambda state: figures(1 + 2.0 * sum(state), 1.0 * sum(state)))[0]
    assert [curve.kl_at(size) for size in (215, 205, 210, 5)] == pytest.approx([0, 1, 0.5, 6])
    assert curve.perplexity_at(210) == pytest.approx(2.0)


def test_the_doubt_of_an_area_is_about_its_error() -> None:
    """KL grows with the square of what was saved; between few positions a straight line lies above that."""
    units = [Unit(str(at), (10, 0)) for at in range(64)]
    routes = [route_along("front-to-back", units, front_to_back(units), 0)]
    whole, some = (
        measure_routes(routes, between, lambda state: figures(1.0, sum(state) ** 2 / 4096))[0] for between in (63, 7)
    )
    assert whole.area_doubt == 0
    assert some.area_doubt == pytest.approx(some.area - whole.area, rel=0.1)
    assert some.area > whole.area


def test_areas_by_window_have_the_area_as_their_mean() -> None:
    curve = measure_routes(ROUTES[:1], 5, lambda state: figures(1.0, 0.1 * sum(state), 0.3 * sum(state)))[0]
    few, many = curve.window_areas
    assert many == pytest.approx(3 * few)
    assert curve.area == pytest.approx((few + many) / 2)


def test_a_stepped_area_takes_the_next_smaller_position() -> None:
    curve = measure_routes(ROUTES[:1], 5, lambda state: figures(1.0, 1.0 * sum(state)))[0]
    sizes = curve.route.footprints
    by_hand = [float(sum(sizes[at] > allowed for at in range(7))) for allowed in range(sizes[-1], sizes[0])]
    assert curve.stepped_area == pytest.approx(sum(by_hand) / len(by_hand))
    assert curve.stepped_area > curve.area
