"""What is believed about costs that were not measured."""

import pytest

from flexquant.ensemble_builder.beliefs import PRIOR_ROUGHNESS, Beliefs


def test_a_measured_cost_is_certain_where_it_was_measured() -> None:
    beliefs = Beliefs(((0.2,), (0.1,)))
    beliefs.observe(0, 0, 0.5, 0.3)
    assert beliefs.expect(0, 0, 0.5) == pytest.approx((0.3, 0.0))


def test_the_prior_is_the_sensitivity_and_doubt_grows_with_depth() -> None:
    beliefs = Beliefs(((0.2,), (0.1,)))
    expected = [beliefs.expect(0, 0, depth) for depth in (0.0, 0.25, 1.0)]
    assert [mean for mean, _ in expected] == [pytest.approx(0.2)] * 3
    assert [spread for _, spread in expected] == pytest.approx([0.0, 0.1 * PRIOR_ROUGHNESS, 0.2 * PRIOR_ROUGHNESS])


def test_an_additive_landscape_needs_less_and_less_doubt() -> None:
    beliefs = Beliefs(((0.2,),) * 50)
    before = beliefs.expect(49, 0, 1.0)[1]
    for unit in range(49):
        beliefs.observe(unit, 0, 0.8, 0.2)
    assert beliefs.expect(49, 0, 1.0)[1] < before / 3


def test_a_common_drift_is_learned() -> None:
    beliefs = Beliefs(((0.2,),) * 50)
    for unit in range(49):
        beliefs.observe(unit, 0, 1.0, 0.3)
    assert beliefs.expect(49, 0, 1.0)[0] == pytest.approx(0.3, rel=0.02)
    assert beliefs.expect(49, 0, 0.5)[0] == pytest.approx(0.25, rel=0.02)


def test_drift_does_not_depend_on_the_direction_it_is_seen_in() -> None:
    downward, upward = Beliefs(((1.0,), (1.0,))), Beliefs(((1.0,), (1.0,)))
    downward.observe(0, 0, 1.0, 1.5)
    upward.observe(0, 0, 1.0, 1.5)
    upward.observe(0, 0, 0.9, 1.4)
    assert upward.expect(1, 0, 1.0)[0] > 1.0
    assert downward.expect(1, 0, 1.0)[0] > 1.0


def test_a_cost_of_zero_can_still_be_doubted() -> None:
    beliefs = Beliefs(((0.0,), (1.0,)))
    assert beliefs.expect(0, 0, 1.0)[1] > 0
