"""The control law: one pure step from a sample to orders.

It controls on B = A + W, available memory plus our own elastic bytes: what we release ourselves cancels out
of B, so only other programs move it. Down is fast and goes by the instant value; up is slow and goes by the
minimum of a long window. docs/concepts/control-law.md tells the whole story.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from flexquant.server.controller.outlook import Outlook, outlooks
from flexquant.server.controller.parameters import MIB, Parameters, Reserves
from flexquant.server.controller.sample import Move, Sample
from flexquant.server.controller.state import Decision, Phase, State, Track

Answer = tuple[State, tuple[Move, ...]]


@dataclass(frozen=True, slots=True)
class View:
    """One tick as the rules see it: the sample, its outlooks (empty when no source answered), and the time."""

    sample: Sample
    outlooks: Sequence[Outlook]
    now: float


@dataclass(frozen=True, slots=True)
class Law:
    """The law for one sequence of positions.

    Args:
        parameters: Its numbers.
        footprints: Bytes of resident weights at positions 0..N, descending.
    """

    parameters: Parameters
    footprints: Sequence[int]

    def decide(self, state: State, sample: Sample, now: float) -> Answer:
        """One tick: what to remember, and what to order (nothing or one move).

        Orders stay within 0..worst position. `now`, in seconds on any steady clock, never decreases.
        """
        state = self._remember(state.without_expired(now), sample, now)
        view = View(sample, outlooks(state, sample, now, self.parameters, self.footprints), now)
        if state.failed_at is not None and now - state.failed_at < self.parameters.remeasure_s:
            return self._rest(state, view)
        for rule in (self._worst_position, self._critical, self._pin, self._shrink, self._grow):
            answer = rule(state, view)
            if answer is not None:
                return answer
        return self._rest(state, view)

    def worst(self, state: State) -> int:
        """The position that is never crossed."""
        return len(self.footprints) - 1 if state.worst is None else state.worst.position

    def pinned(self, state: State, now: float) -> int | None:
        """The position that the user holds now, within the worst position; None in auto mode."""
        if state.pin is None or not state.pin.holds(now):
            return None
        return min(state.pin.position, self.worst(state))

    # Memory of past samples ------------------------------------------------------------------------------------

    def _remember(self, state: State, sample: Sample, now: float) -> State:
        parameters = self.parameters
        if not sample.moving:
            overhead = sample.elastic_bytes - self.footprints[sample.position]
            state = replace(state, overhead=overhead, urgent=False)
        if sample.move_failed:
            state = replace(self._cool_down(state, now), failed_at=now)
        if state.regrets and state.calm_since is not None and now - state.calm_since >= parameters.calm_s:
            state = replace(state, regrets=state.regrets - 1, calm_since=state.calm_since + parameters.calm_s)
        silent = 0.0 if state.last_seen is None else now - state.last_seen
        if silent >= parameters.blind_s:
            state = replace(state, tracks={})  # what happened meanwhile is unknown: no window spans the gap
        if not sample.memory:
            return self._see_nothing(state, sample, silent, now)
        keep = max(parameters.grow_window_s, parameters.fall_window_s)
        tracks = {
            reading.source: state.tracks.get(reading.source, Track()).add(
                now, reading.available + sample.elastic_bytes, keep
            )
            for reading in sample.memory
        }
        good = min(state.good + 1, parameters.good_samples)
        phase: Phase = "hold" if state.phase == "blind" and good >= parameters.good_samples else state.phase
        return replace(state, tracks=tracks, last_seen=now, good=good, phase=phase)

    def _see_nothing(self, state: State, sample: Sample, silent: float, now: float) -> State:
        state = replace(state, good=0, last_seen=now if state.last_seen is None else state.last_seen)
        if state.phase == "blind" or silent < self.parameters.blind_s:
            return state
        why = f"no memory source has answered for {silent:.1f} s"
        return replace(state, phase="blind", last_decision=Decision("blind", why, now, sample.target, sample.target))

    def _cool_down(self, state: State, now: float) -> State:
        """Forbid growth for a while, a little longer by a seeded draw."""
        parameters = self.parameters
        seconds = min(parameters.cooldown_s * 2**state.regrets, parameters.cooldown_max_s)
        draw = random.Random(f"{parameters.seed}/{state.draws}").random()
        until = now + seconds * (1 + parameters.jitter * draw)
        return replace(state, cooldown_until=until, draws=state.draws + 1)

    # Rules, in the order of their precedence -------------------------------------------------------------------

    def _worst_position(self, state: State, view: View) -> Answer | None:
        worst = self.worst(state)
        if view.sample.target <= worst:
            return None
        return self._order(state, view, worst, "worst_position", f"the worst position allowed is {worst}")

    def _critical(self, state: State, view: View) -> Answer | None:
        """Others are about to run out: release at once, pins or not."""
        sample = view.sample
        if not any(outlook.critical for outlook in view.outlooks):
            return None
        tightest = max((o for o in view.outlooks if o.critical or o.low), key=lambda o: o.need)
        need = tightest.need
        if not sample.moving:
            need = max(need, self.parameters.critical_share * (self.footprints[0] - self.footprints[-1]))
        position = self._release(sample.target, need, self.worst(state))
        if position == sample.target:
            speed_up = sample.moving and sample.target > sample.position and not state.urgent
            moves = (Move(sample.target, urgent=True),) if speed_up else ()
            return replace(state, phase="critical", urgent=state.urgent or speed_up), moves
        pinned = self.pinned(state, view.now)
        state = replace(state, phase="critical", override=pinned is not None and position > pinned)
        return self._order(state, view, position, "critical", _short_of(tightest, tightest.reserves.critical))

    def _pin(self, state: State, view: View) -> Answer | None:
        """Go where the user wants; after an override come back as memory allows."""
        target = view.sample.target
        pinned = self.pinned(state, view.now)
        if pinned is None:
            return None
        if state.override and target > pinned:
            return self._climb(state, view, pinned, lambda reserves: reserves.low) or self._rest(state, view)
        if target == pinned:
            return self._rest(replace(state, override=state.override and view.sample.position > pinned), view)
        if state.failed_at is not None and view.now - state.failed_at < self.parameters.cooldown_s:
            return self._rest(state, view)
        position = pinned
        if pinned < target:
            room = min((o.predicted - o.reserves.critical for o in view.outlooks), default=float("inf"))
            position = self._take(target, room, pinned)
        state = replace(state, override=position > pinned)
        if position == target:
            return self._rest(state, view)
        allowed = ", as near as memory allows" if state.override else ""
        return self._order(state, view, position, "pin", f"pinned to position {pinned}{allowed}")

    def _shrink(self, state: State, view: View) -> Answer | None:
        """Memory is low or about to be: release the fewest steps that free the target reserve."""
        short = [outlook for outlook in view.outlooks if outlook.low]
        if not short or state.phase == "blind":
            return None
        tightest = max(short, key=lambda o: o.need)
        state = replace(state, phase="shrink")
        if state.last_shrink is not None and view.now - state.last_shrink < self.parameters.remeasure_s:
            return state, ()  # let the release be felt before judging again
        position = self._release(view.sample.target, tightest.need, self.worst(state))
        if position == view.sample.target:
            return state, ()
        return self._order(state, view, position, "shrink", _short_of(tightest, tightest.reserves.low))

    def _grow(self, state: State, view: View) -> Answer | None:
        return self._climb(state, view, 0, lambda reserves: reserves.high)

    # Parts of the rules ----------------------------------------------------------------------------------------

    def _climb(self, state: State, view: View, best: int, gate: Callable[[Reserves], int]) -> Answer | None:
        """One batch of growth towards `best` that leaves the reserve `gate` free; None when it is not the time."""
        parameters, sample, now = self.parameters, view.sample, view.now
        if state.phase == "blind" or sample.failed or sample.moving or sample.target <= best:
            return None
        if state.cooldown_until is not None and now < state.cooldown_until:
            return None
        if state.last_grow is not None and now - state.last_grow < parameters.grow_interval_s:
            return None
        steady = {o.source: o.steady - gate(o.reserves) for o in view.outlooks if o.steady is not None}
        if not steady or len(steady) < len(view.outlooks):
            return None
        source = min(steady, key=lambda name: steady[name])
        room = steady[source]
        position = self._take(sample.target, min(room, parameters.grow_batch_bytes), best)
        if position == sample.target:  # a step beyond the batch size goes alone
            position = self._take(sample.target, room, max(best, sample.target - 1))
        if position == sample.target:
            return None
        why = f"{source}: {room // MIB} MiB to spare over {parameters.grow_window_s:g} s"
        return self._order(replace(state, phase="grow"), view, position, "grow", why)

    def _release(self, target: int, need: float, worst: int) -> int:
        """The nearest position after `target` that frees `need` bytes, `worst` if none does."""
        if need <= 0:
            return target
        have = self.footprints[target]
        return next((k for k in range(target + 1, worst + 1) if have - self.footprints[k] >= need), max(worst, target))

    def _take(self, target: int, room: float, best: int) -> int:
        """The best position from `target` down to `best` that takes no more than `room` bytes."""
        have = self.footprints[target]
        position = target
        while position > best and self.footprints[position - 1] - have <= room:
            position -= 1
        return position

    def _rest(self, state: State, view: View) -> Answer:
        """Nothing to order."""
        phase: Phase = "hold"
        if state.phase == "blind":
            phase = "blind"
        elif state.phase == "grow" and view.sample.moving:
            phase = "grow"
        elif state.cooldown_until is not None and view.now < state.cooldown_until:
            phase = "cooldown"
        return replace(state, phase=phase), ()

    def _order(
        self,
        state: State,
        view: View,
        position: int,
        what: Literal["shrink", "critical", "grow", "pin", "worst_position"],
        why: str,
    ) -> Answer:
        """Order one move and remember what it means for later growth."""
        now, parameters = view.now, self.parameters
        if what == "grow":
            state = replace(state, last_grow=now, regrettable=now)
        if what in ("shrink", "critical"):
            regret = state.regrettable is not None and now - state.regrettable < parameters.regret_s
            if regret and 0 < parameters.cooldown_s * 2**state.regrets < parameters.cooldown_max_s:
                state = replace(state, regrets=state.regrets + 1)
            state = replace(state, last_shrink=now, regrettable=None, calm_since=now)
            state = self._cool_down(state, now)
        urgent = what == "critical"
        decision = Decision(what, why, now, view.sample.target, position)
        return replace(state, urgent=urgent, last_decision=decision), (Move(position, urgent),)


def _short_of(outlook: Outlook, reserve: int) -> str:
    """Why memory is short, for people."""
    return (
        f"{outlook.source}: {outlook.available // MIB} MiB available, {round(outlook.predicted) // MIB} MiB expected, "
        f"the reserve is {reserve // MIB} MiB"
    )
