"""What a run comes down to: the figures that `flexquant simulate` prints."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flexquant.server.simulation.plant import Tick
from flexquant.server.simulation.score import late_seconds, regrets, reversals

REGRET_S = 60.0
TICK_S = 0.25
"""The law itself looks every 0.1 to 1 s."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One model's run, in figures. Sizes in bytes.

    Args:
        seconds: From the first look to the last.
        ticks: Looks.
        reversals: Changes of direction.
        bound: Most reversals that the law promises for so many seconds.
        regrets: Growths that a shrink followed within a minute.
        late_ticks: Ticks of 0.25 s with less than the critical reserve while steps remained to be ordered.
        late_s: The same in seconds, without what had been ordered and was on its way.
        least_available: Of all looks.
        footprint_share: Mean place in the elastic range: 1 is the best position, 0 the smallest.
        phases: Seconds in each phase.
    """

    seconds: float
    ticks: int
    reversals: int
    bound: float
    regrets: int
    late_ticks: int
    late_s: float
    least_available: int
    footprint_share: float
    phases: dict[str, float]

    @property
    def kept(self) -> bool:
        """Whether the run stayed within the bound."""
        return self.reversals <= self.bound


def outcome_of(ticks: Sequence[Tick], footprints: Sequence[int], critical: int) -> Outcome:
    """The figures of a run with at least one tick.

    Args:
        ticks: In order.
        footprints: Of the model.
        critical: Reserve below which others are about to run out.
    """
    seconds = sum(tick.lasts for tick in ticks)
    span = footprints[0] - footprints[-1]
    above = sum(tick.lasts * (footprints[tick.position] - footprints[-1]) for tick in ticks)
    phases: dict[str, float] = {}
    for tick in ticks:
        phases[tick.state.phase] = phases.get(tick.state.phase, 0.0) + tick.lasts
    listed = list(ticks)
    return Outcome(
        seconds=seconds,
        ticks=len(ticks),
        reversals=reversals(listed),
        bound=5 + seconds / 600,
        regrets=regrets(listed, REGRET_S),
        late_ticks=math.ceil(late_seconds(listed, footprints, critical, ordered=False) / TICK_S),
        late_s=late_seconds(listed, footprints, critical, ordered=True),
        least_available=min(tick.available for tick in ticks),
        footprint_share=above / (seconds * span) if seconds and span else 1.0,
        phases=phases,
    )


def table(runs: Sequence[tuple[str, Outcome]]) -> str:
    """One line per run, then for each the time that it spent in every phase."""
    width = max((len(name) for name, _ in runs), default=0)
    width = max(width, len("trace"))
    head = f"{'trace':{width}}  reversals  regrets   late ticks (s)  least free MiB  mean footprint"
    lines = [head]
    for name, run in runs:
        lines.append(
            f"{name:{width}}  {f'{run.reversals} of {run.bound:.1f}':>9}  {run.regrets:7d}  "
            f"{f'{run.late_ticks} ({run.late_s:.2f})':>15}  {run.least_available / 2**20:14.0f}  "
            f"{run.footprint_share:13.0%}{'' if run.kept else '  too many reversals'}"
        )
    lines += ["", f"{'trace':{width}}  seconds in each phase"]
    for name, run in runs:
        parts = (f"{phase} {spent:.0f}" for phase, spent in sorted(run.phases.items(), key=lambda item: -item[1]))
        lines.append(f"{name:{width}}  {', '.join(parts)}")
    return "\n".join(lines)
