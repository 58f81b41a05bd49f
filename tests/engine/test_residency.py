"""Residency plans: arenas, steps and the spare, for any sequence."""

import pytest
from hypothesis import given, settings

from flexquant.engine.errors import EnsembleError
from flexquant.engine.manifest import Move, Quality, Transition, TransitionSequence
from flexquant.engine.memory.arena import PAGE_BYTES, page_rounded
from flexquant.engine.residency import Residency, VariantSize
from support.sequences import Plan, plans


def sequence(*transitions: list[tuple[str, int, int]]) -> TransitionSequence:
    """A sequence of moves (module, from, to); footprints and quality do not matter to residency."""
    return TransitionSequence(
        unit="projection",
        transitions=[
            Transition(moves=[Move(module=module, from_variant=old, to_variant=new) for module, old, new in moves])
            for moves in transitions
        ],
        footprint_bytes=[0] * (len(transitions) + 1),
        quality=[Quality(perplexity=1.0, kl=0.0)] * (len(transitions) + 1),
    )


def pages(*counts: int) -> list[VariantSize]:
    return [VariantSize(payload=count * PAGE_BYTES - 7, span=count * PAGE_BYTES) for count in counts]


def test_modules_of_one_transition_share_an_arena() -> None:
    plan = Residency(sequence([("a", 0, 1), ("b", 0, 1)], [("c", 0, 1)]), {name: pages(4, 2) for name in "abcd"})
    assert [[place.module for place in block.placed] for block in plan.blocks(0)] == [["a", "b"], ["c"], ["d"]]
    assert [block.mapped // PAGE_BYTES for block in plan.blocks(1)] == [4, 4, 4]
    assert [block.mapped // PAGE_BYTES for block in plan.blocks(2)] == [4, 2, 4]


def test_modules_that_part_ways_have_arenas_of_their_own() -> None:
    """With three levels, `a` and `b` go down together once and apart once: nothing they share could be unmapped."""
    plan = Residency(
        sequence([("a", 0, 1)], [("b", 0, 1)], [("a", 1, 2), ("b", 1, 2)]), {name: pages(8, 4, 2) for name in "ab"}
    )
    assert [[place.module for place in block.placed] for block in plan.blocks(0)] == [["a"], ["b"]]
    step = plan.step(2, 3)
    assert [(change.old.mapped // PAGE_BYTES, change.new.mapped // PAGE_BYTES) for change in step.changes] == [
        (4, 2)
    ] * 2
    assert plan.spare_bytes == 4 * PAGE_BYTES


def test_the_spare_holds_the_largest_step_down() -> None:
    plan = Residency(sequence([("a", 0, 1)], [("b", 0, 1)]), {"a": pages(40, 20), "b": pages(9, 3)})
    assert plan.spare_bytes == 20 * PAGE_BYTES


def test_a_sequence_without_transitions_has_one_position_and_no_spare() -> None:
    plan = Residency(sequence(), {"a": pages(4, 2)})
    assert plan.max_position == 0
    assert plan.spare_bytes == 0
    assert plan.mapped(0) == 4 * PAGE_BYTES


def test_a_module_that_grows_on_the_way_down_is_refused() -> None:
    with pytest.raises(EnsembleError, match=r"transition 1 makes a larger"):
        Residency(sequence([("a", 0, 1)]), {"a": pages(2, 4)})


@pytest.mark.parametrize("position", [-1, 2])
def test_positions_outside_the_sequence_are_refused(position: int) -> None:
    plan = Residency(sequence([("a", 0, 1)]), {"a": pages(4, 2)})
    with pytest.raises(ValueError, match=r"outside 0\.\.1"):
        plan.blocks(position)
    with pytest.raises(ValueError, match="no neighbours"):
        plan.step(0, 0)


@settings(deadline=None, max_examples=200)
@given(plan=plans())
def test_blocks_hold_exactly_the_assignment_of_every_position(plan: Plan) -> None:
    residency = Residency(plan.sequence, plan.sizes)
    for position in range(residency.max_position + 1):
        held = [(place.module, place.variant) for block in residency.blocks(position) for place in block.placed]
        assert len(held) == len(set(held))
        assert set(held) == plan.resident(position)
        assert residency.mapped(position) == sum(block.mapped for block in residency.blocks(position))
        assert residency.payload(position) == sum(plan.sizes[name][variant].payload for name, variant in held)
        for block in residency.blocks(position):
            ends = [0, *(place.offset + place.size.span for place in block.placed)]
            assert [place.offset for place in block.placed] == ends[:-1]
            assert block.mapped == page_rounded(ends[-1])


@settings(deadline=None, max_examples=200)
@given(plan=plans())
def test_steps_change_what_moves_and_nothing_else(plan: Plan) -> None:
    residency = Residency(plan.sequence, plan.sizes)
    for position, transition in enumerate(plan.sequence.transitions):
        down, up = residency.step(position, position + 1), residency.step(position + 1, position)
        changes = [(set(change.old.placed), set(change.new.placed)) for change in down.changes]
        moved = {place.module for old, new in changes for place in old ^ new}
        assert moved == {move.module for move in transition.moves}
        assert [(change.old, change.new) for change in down.changes] == [(c.new, c.old) for c in up.changes]
        assert down.shrinks
        assert not up.shrinks
        assert residency.mapped(position) - residency.mapped(position + 1) == sum(
            change.old.mapped - change.new.mapped for change in down.changes
        )


@settings(deadline=None, max_examples=200)
@given(plan=plans())
def test_every_step_down_fits_the_spare_and_the_arenas_it_frees(plan: Plan) -> None:
    residency = Residency(plan.sequence, plan.sizes)
    largest = 0
    for position in range(residency.max_position):
        step = residency.step(position, position + 1)
        end = 0
        for change in step.changes:
            assert change.spare_offset == end  # one behind the other
            end += change.new.mapped
            assert change.new.mapped <= change.old.mapped
        assert end <= residency.spare_bytes
        largest = max(largest, end)
    assert largest == residency.spare_bytes
