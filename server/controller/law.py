"""The control law: one pure step from a sample to orders.

It controls on B = A + W, available memory plus what this daemon's weights and KV pages take: what we release ourselves
cancels out of B, so only other programs move it. Down is fast and goes by the instant value; up is slow and goes by the
minimum of a long window. docs/concepts/control-law.md tells the whole story.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from flexquant.server.controller import memory, release
from flexquant.server.controller.admission import Admission, admit
from flexquant.server.controller.outlook import Outlook, outlooks
from flexquant.server.controller.parameters import MIB, Parameters, Reserves
from flexquant.server.controller.patience import cool_down, count_turn, may_turn
from flexquant.server.controller.sample import DropReusable, Move, Order, Sample, Trim
from flexquant.server.controller.state import Decision, Phase, State, What
from flexquant.server.controller.strain import Stress, judge

Answer = tuple[State, tuple[Order, ...]]


@dataclass(frozen=True, slots=True)
class View:
    """One tick as the rules see it: the sample, its outlooks (empty when no source answered), its stress, the time."""

    sample: Sample
    outlooks: Sequence[Outlook]
    stress: Stress
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
        """One tick: what to remember, and what to order (at most one move).

        Orders stay within 0..worst position. `now`, in seconds on any steady clock, never decreases.
        """
        state = memory.remember(state.without_expired(now), sample, now, self.parameters, self.footprints)
        view = self._view(state, sample, now)
        orders: tuple[Order, ...] = ()
        settled = not sample.moving and (sample.target >= self.worst(state) or not self._pressing(view))
        check = release.check(state, sample, now, self.parameters, settled=settled)
        if check.trim:
            orders = (Trim(),)
        state, relief = self._floor(check.state, view)
        orders += relief
        state, moves = self._move(state, view)
        return (replace(state, phase="floor") if state.refusing else state), (*orders, *moves)

    def worst(self, state: State) -> int:
        """The position that is never crossed."""
        return len(self.footprints) - 1 if state.worst is None else state.worst.position

    def pinned(self, state: State, now: float) -> int | None:
        """The position that the user holds now, within the worst position; None in auto mode."""
        if state.pin is None or not state.pin.holds(now):
            return None
        return min(state.pin.position, self.worst(state))

    def pause(self, state: State, sample: Sample, now: float) -> float:
        """Seconds until the next sample: meanwhile others cannot take all that is left above what makes the law act.

        Args:
            state: After the decision on `sample`.
        """
        least, most = self.parameters.tick_least_s, self.parameters.tick_most_s
        found = outlooks(state, sample, now, self.parameters, self.footprints)
        if not found or sample.moving:
            return least
        if sample.target >= self.worst(state):  # nothing can be given back: only what is critical matters
            left = min(outlook.predicted - outlook.reserves.critical for outlook in found)
        else:
            left = min(outlook.predicted - outlook.reserves.low for outlook in found)
        return min(max(left / self.parameters.fall_limit, least), most)

    def admission(self, state: State, sample: Sample, now: float) -> Admission:
        """What may be promised to requests until the next sample; `state` is the one after the decision on `sample`."""
        found = outlooks(state, replace(sample, kv_wanted=0), now, self.parameters, self.footprints)
        worst, pinned = self.worst(state), self.pinned(state, now)
        return admit(state, sample, found, limit=worst if pinned is None else max(pinned, sample.target))

    def _view(self, state: State, sample: Sample, now: float) -> View:
        found = outlooks(state, sample, now, self.parameters, self.footprints)
        tight = any(outlook.available < outlook.reserves.high for outlook in found)
        return View(sample, found, judge(state, sample, now, self.parameters, tight=tight), now)

    @staticmethod
    def _pressing(view: View) -> bool:
        """Whether memory asks for something to be given back."""
        stress = view.stress
        return bool(stress.hard or stress.soft) or any(outlook.critical or outlook.low for outlook in view.outlooks)

    # The floor: critical where nothing can be given back any more ----------------------------------------------

    def _floor(self, state: State, view: View) -> Answer:
        """Refuse new work once memory stays critical at the smallest position; take it again when it is relieved."""
        sample, now, parameters = view.sample, view.now, self.parameters
        critical = view.stress.hard is not None or any(outlook.critical for outlook in view.outlooks)
        if state.refusing:
            relieved = not critical and bool(view.outlooks) and all(outlook.relieved for outlook in view.outlooks)
            since = (now if state.relieved_since is None else state.relieved_since) if relieved else None
            state = replace(state, relieved_since=since)
            if since is None or now - since < parameters.floor_leave_s:
                return state, ()
            why = f"the target reserve is free for {parameters.floor_leave_s:g} s"
            state = self._tell(state, view, "resume", why, sample.target)
            return replace(state, refusing=False, critical_since=None, relieved_since=None), ()
        stuck = critical and sample.position == sample.target >= self.worst(state)
        since = (now if state.critical_since is None else state.critical_since) if stuck else None
        state = replace(state, critical_since=since)
        if since is None or now - since < parameters.floor_after_s:
            return state, ()
        why = view.stress.hard or next(_short_of(o, o.reserves.critical) for o in view.outlooks if o.critical)
        state = self._tell(state, view, "floor", why, sample.target)
        orders: tuple[Order, ...] = (Trim(),)
        if sample.reusable_bytes > state.dropping:
            state, orders = self._drop(state, view), (DropReusable(), *orders)
        return replace(state, refusing=True, last_refusal=why), orders

    # Rules, in the order of their precedence -------------------------------------------------------------------

    def _move(self, state: State, view: View) -> Answer:
        if state.failed_at is not None and view.now - state.failed_at < self.parameters.remeasure_s:
            return self._rest(state, view)
        for rule in (self._worst_position, self._critical, self._pin, self._shrink, self._grow):
            answer = rule(state, view)
            if answer is not None:
                return answer
        return self._rest(state, view)

    def _worst_position(self, state: State, view: View) -> Answer | None:
        worst = self.worst(state)
        if view.sample.target <= worst:
            return None
        return self._order(state, view, worst, "worst_position", f"the worst position allowed is {worst}")

    def _critical(self, state: State, view: View) -> Answer | None:
        """Others are about to run out: release at once, pins or not."""
        sample = view.sample
        short = [outlook for outlook in view.outlooks if outlook.critical]
        if not short and view.stress.hard is None:
            return None
        tightest = max((o for o in view.outlooks if o.critical or o.low), key=lambda o: o.need, default=None)
        need = 0.0 if tightest is None else tightest.need
        if not sample.moving:
            need = max(need, self.parameters.critical_share * (self.footprints[0] - self.footprints[-1]))
        if not short and self._too_soon(state.last_critical, view):
            need = 0.0
        if short and tightest is not None:
            why = _short_of(tightest, tightest.reserves.critical)
        else:
            why = view.stress.hard or ""
        state = replace(state, phase="critical")
        state, orders = self._give_back(state, view, need, "critical", why)
        if any(isinstance(order, Move) for order in orders):
            return state, orders
        state, hurry = self._hurry(state, view)
        return state, (*orders, *hurry)

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
        if state.phase == "blind":
            return None
        hasty = any(outlook.hasty for outlook in view.outlooks)
        if not short and view.stress.soft is None:
            state, hurry = self._hurry(state, view) if hasty else (state, ())
            return (state, hurry) if hurry else None
        state = replace(state, phase="shrink")
        if self._too_soon(state.last_shrink, view):
            return self._hurry(state, view) if hasty else (state, ())
        tightest = max(short, key=lambda o: o.need, default=None)
        need = 0.0 if tightest is None else tightest.need
        why = (view.stress.soft or "") if tightest is None else _short_of(tightest, tightest.reserves.low)
        if view.stress.soft is not None and not view.sample.moving:
            need = max(need, self.parameters.stall_share * (self.footprints[0] - self.footprints[-1]))
        return self._give_back(state, view, need, "shrink", why)

    def _grow(self, state: State, view: View) -> Answer | None:
        if state.refusing or not may_turn(state, down=False):
            return None
        return self._climb(state, view, 0, lambda reserves: reserves.high)

    # Parts of the rules ----------------------------------------------------------------------------------------

    def _too_soon(self, last: float | None, view: View) -> bool:
        """Whether the last release has had no time to be felt."""
        return last is not None and view.now - last < self.parameters.remeasure_s

    def _give_back(self, state: State, view: View, need: float, what: What, why: str) -> Answer:
        """Release `need` bytes: pages that no sequence has first, then the fewest steps of weights."""
        sample = view.sample
        orders: tuple[Order, ...] = ()
        spare = sample.reusable_bytes - state.dropping
        if need > 0 and spare > 0:
            orders, need = (DropReusable(),), need - spare
            state = self._drop(state, view)
        position = self._release(sample.target, need, self.worst(state))
        if position == sample.target:
            if orders:
                state = self._tell(replace(state, last_shrink=view.now), view, "caches", why, position)
            return state, orders
        if what == "critical":
            pinned = self.pinned(state, view.now)
            state = replace(state, override=pinned is not None and position > pinned)
        state, moves = self._order(state, view, position, what, why)
        return state, (*orders, *moves)

    def _hurry(self, state: State, view: View) -> Answer:
        """Make the shrink under way urgent, unless it is."""
        sample = view.sample
        if not sample.moving or sample.target <= sample.position or state.urgent:
            return state, ()
        return replace(state, urgent=True), (Move(sample.target, urgent=True),)

    def _drop(self, state: State, view: View) -> State:
        return replace(state, dropping=view.sample.reusable_bytes, dropped_at=view.now)

    def _climb(self, state: State, view: View, best: int, gate: Callable[[Reserves], int]) -> Answer | None:
        """One batch of growth towards `best` that leaves the reserve `gate` free; None when it is not the time."""
        parameters, sample, now = self.parameters, view.sample, view.now
        if state.phase == "blind" or sample.failed or sample.moving or sample.target <= best:
            return None
        if view.stress.veto is not None or view.stress.soft is not None:
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

    def _order(self, state: State, view: View, position: int, what: What, why: str) -> Answer:
        """Order one move and remember what it means for later growth."""
        now, parameters = view.now, self.parameters
        if what == "grow":
            state = count_turn(replace(state, last_grow=now, regrettable=now, ordered_at=None), down=False)
        elif what in ("shrink", "critical"):
            state = release.begin(count_turn(state, down=True), view.sample, now)
            state = cool_down(replace(state, last_shrink=now, ordered_at=now), now, parameters, shrunk=True)
        else:
            state = replace(state, ordered_at=None)
        if what == "critical":
            state = replace(state, last_critical=now)
        hasty = state.urgent or any(outlook.hasty for outlook in view.outlooks)
        urgent = what == "critical" or (what == "shrink" and hasty)
        state = self._tell(replace(state, urgent=urgent), view, what, why, position)
        return state, (Move(position, urgent),)

    @staticmethod
    def _tell(state: State, view: View, what: What, why: str, position: int) -> State:
        return replace(state, last_decision=Decision(what, why, view.now, view.sample.target, position))


def _short_of(outlook: Outlook, reserve: int) -> str:
    """Why memory is short, for people."""
    return (
        f"{outlook.source}: {outlook.available // MIB} MiB available, {round(outlook.predicted) // MIB} MiB expected, "
        f"the reserve is {reserve // MIB} MiB"
    )
