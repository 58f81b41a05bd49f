"""What the law takes from a sample into its memory, before it decides anything."""

from collections.abc import Sequence
from dataclasses import replace

from flexquant.server.controller.outlook import REACTIONS_KEPT, follow
from flexquant.server.controller.parameters import Parameters
from flexquant.server.controller.patience import allow_turns, calm, cool_down
from flexquant.server.controller.sample import Sample
from flexquant.server.controller.state import Decision, Phase, State
from flexquant.server.controller.strain import forget, note


def remember(state: State, sample: Sample, now: float, parameters: Parameters, footprints: Sequence[int]) -> State:
    """The state, this sample included."""
    state = _follow_moves(state, sample, now, footprints)
    if sample.move_failed:
        state = replace(cool_down(state, now, parameters), failed_at=now, ordered_at=None)
    state = allow_turns(calm(state, now, parameters), now, parameters)
    if state.dropped_at is not None and (not sample.reusable_bytes or now - state.dropped_at >= parameters.remeasure_s):
        state = replace(state, dropping=0, dropped_at=None)
    silent = 0.0 if state.last_seen is None else now - state.last_seen
    if silent >= parameters.blind_s:  # what happened meanwhile is unknown: no window spans the gap
        state = replace(state, tracks={}, strain=forget(state.strain))
    state = replace(state, strain=note(state.strain, sample, now, parameters))
    if not sample.memory:
        return _see_nothing(state, sample, silent, now, parameters)
    good = min(state.good + 1, parameters.good_samples)
    phase: Phase = "hold" if state.phase == "blind" and good >= parameters.good_samples else state.phase
    tracks = follow(state, sample, now, parameters)
    return replace(state, tracks=tracks, last_seen=now, good=good, phase=phase)


def _follow_moves(state: State, sample: Sample, now: float, footprints: Sequence[int]) -> State:
    if sample.moving:
        return replace(state, grown_at=now) if sample.target < sample.position else state
    overhead = sample.elastic_bytes - footprints[sample.position]
    state = replace(state, overhead=overhead, urgent=False)
    if state.ordered_at is None:
        return state
    reactions = (*state.reactions, now - state.ordered_at)[-REACTIONS_KEPT:]
    return replace(state, reactions=reactions, ordered_at=None)


def _see_nothing(state: State, sample: Sample, silent: float, now: float, parameters: Parameters) -> State:
    state = replace(state, good=0, last_seen=now if state.last_seen is None else state.last_seen)
    if state.phase == "blind" or silent < parameters.blind_s:
        return state
    why = f"no memory source has answered for {silent:.1f} s"
    return replace(state, phase="blind", last_decision=Decision("blind", why, now, sample.target, sample.target))
