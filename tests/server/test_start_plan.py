"""The start: a position that fits, a context that fits, or an error that says what is missing."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.engine.errors import MemoryShortError, UsageError
from flexquant.server.start_plan import LEAST_CONTEXT, Demand, Room, StartPlan, plan_start

MIB = 2**20
DEMAND = Demand(
    weights=[800 * MIB, 700 * MIB, 600 * MIB, 500 * MIB],
    working=50 * MIB,
    kv_page=MIB,
    page_tokens=64,
    context=8192,
)


def plan(
    available: int,
    spare: int | None = None,
    *,
    context: int | None = None,
    parallel: int = 1,
    pin: int | None = None,
    worst_position: int | None = None,
    demand: Demand = DEMAND,
) -> StartPlan:
    room = Room(available * MIB, (available if spare is None else spare) * MIB)
    return plan_start(demand, room, context=context, parallel=parallel, pin=pin, worst_position=worst_position)


def test_plenty_of_memory_gives_the_best_position_and_the_whole_context() -> None:
    assert plan(4000) == StartPlan(context=8192, position=0, kept_tokens=8192)


def test_a_longer_context_than_the_model_runs_with_is_refused_and_the_reason_told() -> None:
    demand = replace(DEMAND, context_limit="its window is that long")
    with pytest.raises(UsageError, match="at most 8192 tokens") as caught:
        plan(4000, context=8193, demand=demand)
    assert caught.value.hint == "its window is that long"


def test_long_context_yields_to_quality() -> None:
    assert plan(850 + 100) == StartPlan(context=6400, position=0, kept_tokens=6400)


def test_quality_yields_to_a_comfortable_context() -> None:
    assert plan(850 + 10) == StartPlan(context=4096, position=1, kept_tokens=4096)


def test_little_memory_gives_the_smallest_position_and_what_context_remains() -> None:
    assert plan(550 + 10) == StartPlan(context=640, position=3, kept_tokens=640)


def test_reserve_of_others_is_kept_as_long_as_the_model_fits() -> None:
    assert plan(4000, spare=700, context=640) == StartPlan(context=640, position=2, kept_tokens=640)
    assert plan(4000, spare=0, context=640) == StartPlan(context=640, position=3, kept_tokens=640)


def test_missing_memory_is_told_in_numbers() -> None:
    with pytest.raises(MemoryShortError, match=r"500\.0 MiB of weights.*4\.0 MiB are missing") as refused:
        plan(550)
    assert refused.value.needed - refused.value.available == 4 * MIB
    assert refused.value.exit_code == 4


def test_a_limit_below_what_the_daemon_takes_by_itself_is_told_so() -> None:
    with pytest.raises(MemoryShortError, match=r"exceeded by 20\.0 MiB already, 574\.0 MiB are missing"):
        plan(-20)


def test_context_that_was_asked_for_is_given_or_refused() -> None:
    assert plan(4000, context=100).context == 100
    assert plan(550 + 128, context=8192) == StartPlan(context=8192, position=3, kept_tokens=8192)
    with pytest.raises(MemoryShortError, match="8192 tokens"):
        plan(550 + 127, context=8192)
    with pytest.raises(UsageError, match="at most 8192"):
        plan(4000, context=8193)


def test_pin_is_where_it_starts_if_that_fits() -> None:
    assert plan(4000, pin=2).position == 2
    assert plan(550 + 10, pin=0).position == 3


def test_worst_position_is_never_crossed() -> None:
    assert plan(4000, pin=3, worst_position=1).position == 1
    with pytest.raises(MemoryShortError, match="position 1"):
        plan(700, worst_position=1)


def test_positions_beyond_the_model_are_refused() -> None:
    with pytest.raises(UsageError, match="--pin 4: this model has positions 0 to 3"):
        plan(4000, pin=4)
    with pytest.raises(UsageError, match="--worst-position 4"):
        plan(4000, worst_position=4)


@given(st.integers(0, 3000), st.integers(0, 3000), st.none() | st.integers(1, 8192), st.none() | st.integers(0, 3))
@settings(deadline=None, max_examples=300)
def test_what_is_planned_fits(available: int, reserve: int, context: int | None, worst: int | None) -> None:
    try:
        found = plan(available, available - reserve, context=context, worst_position=worst)
    except MemoryShortError:
        smallest = DEMAND.weights[3 if worst is None else worst] + DEMAND.working
        assert smallest + DEMAND.of_context(context or LEAST_CONTEXT) > available * MIB
        return
    taken = DEMAND.weights[found.position] + DEMAND.working + DEMAND.of_context(found.context)
    assert taken <= available * MIB
    assert taken <= (available - reserve) * MIB or found.position == (3 if worst is None else worst)
    assert found.context == context if context else found.context >= LEAST_CONTEXT


def test_working_memory_that_grows_with_the_context_is_planned_for_once() -> None:
    demand = replace(DEMAND, working_per_token=MIB // 64)
    assert plan(550 + 10, demand=demand) == StartPlan(context=320, position=3, kept_tokens=320)
    assert plan(850 + 200, demand=demand) == StartPlan(context=6400, position=0, kept_tokens=6400)
    assert plan(850 + 40 + 10, context=1024, parallel=4, demand=demand) == StartPlan(1024, 0, 1024 + 18 * 64)
    with pytest.raises(MemoryShortError, match=r"16\.0 MiB for 512 tokens of context"):
        plan(550 + 15, context=512, demand=demand)


def test_each_of_several_sequences_has_its_context_as_far_as_memory_is_spare() -> None:
    assert plan(4000, context=1024, parallel=4).kept_tokens == 4096
    assert plan(850 + 16 + 10, context=1024, parallel=4) == StartPlan(context=1024, position=0, kept_tokens=1664)
    assert plan(550 + 16, context=1024, parallel=4) == StartPlan(context=1024, position=3, kept_tokens=1024)
