"""Whether released bytes arrive: every shrink is followed until its memory is really gone.

The system counts the process's own memory; the registry knows what weights and KV pages take. What the process holds
beyond these must not rise while bytes are released, or they were released on paper only.
"""

from dataclasses import dataclass, replace

from flexquant.server.controller.parameters import MIB, Parameters
from flexquant.server.controller.sample import Sample
from flexquant.server.controller.state import Decision, Episode, State


@dataclass(frozen=True, slots=True)
class Check:
    """What following a release came to: the state, and whether the heap is to be trimmed now."""

    state: State
    trim: bool = False


def begin(state: State, sample: Sample, now: float) -> State:
    """A shrink is ordered; while an earlier one is still followed, it belongs to that."""
    if state.episode is not None:
        return state
    own = _own(sample)
    unaccounted = None if sample.private_bytes is None else sample.private_bytes - own
    return replace(state, episode=Episode(now, own, unaccounted))


def check(state: State, sample: Sample, now: float, parameters: Parameters, *, settled: bool) -> Check:
    """Follow the release under way: trim when its first move has ended, judge it when the last one has been felt.

    Args:
        settled: Nothing moves, and nothing more will be ordered now.
    """
    episode = state.episode
    if episode is None:
        return Check(_let_go(state, sample))
    if episode.trimmed is None:
        if sample.moving:
            return Check(state)
        return Check(replace(state, episode=replace(episode, trimmed=now)), trim=True)
    ended = max(episode.trimmed, episode.began if state.last_shrink is None else state.last_shrink)
    if not settled or now - ended < parameters.efficiency_after_s:
        return Check(state)
    state = replace(state, episode=None)
    released = episode.own - _own(sample)
    if released < parameters.efficiency_bytes or episode.unaccounted is None or sample.private_bytes is None:
        return Check(state)
    held = max(0, sample.private_bytes - _own(sample) - episode.unaccounted)
    efficiency = max(0.0, 1 - held / released)
    state = replace(state, efficiency=efficiency)
    if efficiency >= parameters.efficiency_least:
        return Check(state)
    if ended > episode.trimmed:  # what was released after the trim may be in the heap
        return Check(replace(state, episode=replace(episode, trimmed=now)), trim=True)
    why = f"of {released // MIB} MiB released {held // MIB} MiB have not arrived"
    decision = Decision("retained", why, now, sample.target, sample.target)
    return Check(replace(state, retained=held, baseline=episode.unaccounted, last_decision=decision))


def _let_go(state: State, sample: Sample) -> State:
    """What was retained may go later."""
    if not state.retained or sample.private_bytes is None:
        return state
    held = max(0, sample.private_bytes - _own(sample) - state.baseline)
    return state if held >= state.retained else replace(state, retained=held)


def _own(sample: Sample) -> int:
    return sample.elastic_bytes + sample.kv_bytes
