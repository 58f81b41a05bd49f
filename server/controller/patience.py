"""Why the model does not flap: cool-downs that double, and a bounded number of turns."""

import random
from dataclasses import replace

from flexquant.server.controller.parameters import Parameters
from flexquant.server.controller.state import State

TURNS_OF_A_GROWTH = 2
"""A growth after a shrink is a change of direction, and so is the shrink that may follow it at any time."""


def cool_down(state: State, now: float, parameters: Parameters, *, shrunk: bool = False) -> State:
    """Forbid growth for a while, a little longer by a seeded draw.

    Args:
        shrunk: Because of a shrink: one that follows a growth soon is a regret, and doubles this and later ones.
    """
    if shrunk:
        regret = state.regrettable is not None and now - state.regrettable < parameters.regret_s
        if regret and 0 < parameters.cooldown_s * 2**state.regrets < parameters.cooldown_max_s:
            state = replace(state, regrets=state.regrets + 1)
        state = replace(state, regrettable=None, calm_since=now)
    seconds = min(parameters.cooldown_s * 2**state.regrets, parameters.cooldown_max_s)
    draw = random.Random(f"{parameters.seed}/{state.draws}").random()
    until = now + seconds * (1 + parameters.jitter * draw)
    return replace(state, cooldown_until=until, draws=state.draws + 1)


def calm(state: State, now: float, parameters: Parameters) -> State:
    """A long time without a shrink halves the cool-down again."""
    if not state.regrets or state.calm_since is None or now - state.calm_since < parameters.calm_s:
        return state
    return replace(state, regrets=state.regrets - 1, calm_since=state.calm_since + parameters.calm_s)


def allow_turns(state: State, now: float, parameters: Parameters) -> State:
    """As time passes, more changes of direction are allowed: in D seconds never more than `turns` + D / `turn_s`."""
    if state.turns is None:
        return replace(state, turns=float(parameters.turns), turns_at=now)
    turns = min(state.turns + (now - state.turns_at) / parameters.turn_s, float(parameters.turns))
    return replace(state, turns=turns, turns_at=now)


def may_turn(state: State, *, down: bool) -> bool:
    """Whether the model may go that way. Down it always may."""
    return down or state.down is not True or (state.turns or 0.0) >= TURNS_OF_A_GROWTH


def count_turn(state: State, *, down: bool) -> State:
    """The model goes that way by the law's own decision."""
    turned = state.down is not None and state.down != down
    return replace(state, down=down, turns=max(0.0, (state.turns or 0.0) - turned))
