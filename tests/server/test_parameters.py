"""Reserves and settings of the control law."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexquant.engine.errors import UsageError
from flexquant.server.controller.parameters import GIB, MIB, PROFILE_SCALE, Parameters, Profile, Reserves

SIZES = st.none() | st.integers(0, 1 << 40)


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (8, (256, 512, 819, 1075)),
        (16, (491, 983, 1638, 2129)),
        (32, (983, 1966, 3276, 4259)),
        (64, (1024, 2560, 4096, 6062)),
    ],
)
def test_balanced_reserves_of_common_machines(total: int, expected: tuple[int, ...]) -> None:
    found = Parameters().reserves(total * GIB, shared=True, largest_step=20 * MIB)
    assert [value // MIB for value in (found.critical, found.low, found.target, found.high)] == list(expected)


def test_the_growth_gate_is_at_least_two_steps_above_the_goal() -> None:
    found = Parameters().reserves(16 * GIB, shared=True, largest_step=2 * GIB)
    assert found.high == found.target + 4 * GIB


@given(total=st.integers(0, 1 << 42), step=st.integers(0, 1 << 34), profile=st.sampled_from(sorted(PROFILE_SCALE)))
def test_reserves_ascend(total: int, step: int, profile: Profile) -> None:
    found = Parameters(profile=profile).reserves(total, shared=True, largest_step=step)
    assert 0 <= found.critical <= found.low <= found.target <= found.high


@given(values=st.lists(SIZES, min_size=4, max_size=4))
def test_given_reserves_are_kept_and_the_others_bend(values: list[int | None]) -> None:
    given_values = [value for value in values if value is not None]
    flags = dict(zip(["critical", "low", "target", "high"], values, strict=True))
    settings = {f"reserve_{name}": value for name, value in flags.items()}
    if given_values != sorted(given_values):
        with pytest.raises(UsageError, match="--reserve-"):
            Parameters.from_flags(**settings)  # type: ignore[arg-type]  # all four are sizes
        return
    parameters = Parameters.from_flags(**settings)  # type: ignore[arg-type]  # all four are sizes
    found = parameters.reserves(16 * GIB, shared=True, largest_step=20 * MIB)
    result = [found.critical, found.low, found.target, found.high]
    assert result == sorted(result)
    assert all(wanted in (None, value) for wanted, value in zip(values, result, strict=True))


def test_profiles_scale_the_reserves() -> None:
    low = {name: Parameters(profile=name).reserves(16 * GIB, shared=True, largest_step=0).low for name in PROFILE_SCALE}
    assert low["greedy"] < low["balanced"] < low["polite"]


def test_a_budget_keeps_no_reserve_but_room_for_one_step() -> None:
    assert Parameters().reserves(2 * GIB, shared=False, largest_step=5) == Reserves(0, 0, 0, 5)


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ({"profile": "rude"}, "--profile rude"),
        ({"reserve_low": -1}, "--reserve-low -1"),
        ({"reserve_low": 5, "reserve_target": 4}, "--reserve-target 4"),
        ({"grow_window": -1.0}, "--grow-window -1"),
        ({"cooldown": float("nan")}, "--cooldown nan"),
    ],
)
def test_wrong_flags_are_named(flags: dict[str, object], names: str) -> None:
    with pytest.raises(UsageError, match=names):
        Parameters.from_flags(**flags)  # type: ignore[arg-type]  # wrong on purpose


def test_flags_that_are_absent_keep_the_defaults() -> None:
    assert Parameters.from_flags() == Parameters()
    assert Parameters.from_flags(cooldown=1.0).cooldown_s == 1.0
