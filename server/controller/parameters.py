"""Numbers of the control law, with units and defaults, and the reserves that follow from them.

docs/concepts/control-law.md has the same table with the reason for each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Self

from flexquant.engine.errors import UsageError

MIB: Final = 1 << 20
GIB: Final = 1 << 30

Profile = Literal["polite", "balanced", "greedy"]
PROFILE_SCALE: Final[dict[Profile, float]] = {"polite": 1.5, "balanced": 1.0, "greedy": 0.6}


@dataclass(frozen=True, slots=True)
class Reserves:
    """Bytes of a domain that are kept free for others; `critical <= low <= target <= high`.

    Below `critical` everything yields, below `low` the model shrinks until `target` is free, and it
    grows only while `high` stays free.
    """

    critical: int
    low: int
    target: int
    high: int


@dataclass(frozen=True, slots=True)
class ReserveOverrides:
    """Absolute reserves in bytes that replace the computed ones; None keeps the computed value."""

    critical: int | None = None
    low: int | None = None
    target: int | None = None
    high: int | None = None


@dataclass(frozen=True, slots=True)
class Parameters:
    """All settings of the law. Times in seconds, sizes in bytes."""

    profile: Profile = "balanced"
    overrides: ReserveOverrides = field(default_factory=ReserveOverrides)

    tick_least_s: float = 0.1
    """Time between samples while memory is short."""
    tick_most_s: float = 1.0
    """Time between samples while there is plenty. In between, others cannot take all that is left at `fall_limit`."""
    reaction_s: float = 0.5
    """How far ahead a falling reading is extrapolated, until enough shrinks were timed: tick + safe point + release."""
    reaction_limit_s: float = 1.0
    """Never further than this."""
    urgent_s: float = 0.25
    """A shrink is urgent when memory would be critical so soon: the same for one that decoding waits for."""
    fall_window_s: float = 1.0
    """Span over which the fall rate is measured."""
    fall_limit: int = 2 * GIB
    """Fall rates above this many bytes per second are cut: a step is no endless ramp."""
    remeasure_s: float = 1.0
    """Least time between two orders to shrink, unless memory is critical."""
    critical_share: float = 0.10
    """A critical shrink releases at least this share of the elastic range."""
    floor_after_s: float = 5.0
    """Critical for this long at the smallest position allowed: refuse new work."""
    floor_leave_s: float = 10.0
    """The target reserve free for this long: take new work again."""

    stall_window_s: float = 1.0
    """Span over which stalls (Linux PSI) are measured."""
    stall_soft: float = 0.07
    """Some task waits for memory for this share of the time: shrink."""
    stall_hard: float = 0.10
    """All tasks wait for this share of the time: critical."""
    stall_hard_avg10: float = 10.0
    """So is some task waiting for this share of 10 s, in per cent."""
    stall_share: float = 0.05
    """A shrink because of stalls releases at least this share of the elastic range."""
    stall_plenty: float = 0.5
    """While every domain has this share available, stalls are somebody's own limit: giving back would not help."""
    stall_mask_s: float = 2.0
    """Stalls so soon after an own growth are our own doing."""
    veto_avg: float = 0.1
    """No growth while some task waits for this share of 10 s or 60 s, in per cent."""
    veto_swap_s: float = 30.0
    """No growth for this long after the system has swapped."""

    grow_window_s: float = 30.0
    """Growth goes by the minimum of this span, and needs the whole span to be known."""
    grow_interval_s: float = 2.0
    """Least time between two batches of growth."""
    grow_batch_bytes: int = 128 * MIB
    """Most bytes per batch; one step that is larger still goes."""

    cooldown_s: float = 30.0
    """No growth for this long after a shrink; doubled by every regret."""
    cooldown_max_s: float = 600.0
    jitter: float = 0.2
    """A cool-down lasts up to this share longer, at random, so that two daemons do not grow together."""
    regret_s: float = 60.0
    """A shrink this soon after a growth is a regret."""
    calm_s: float = 600.0
    """This long without a shrink halves the cool-down again."""
    turns: int = 5
    """Changes of direction that may follow each other quickly. A growth needs two: for itself and for its end."""
    turn_s: float = 600.0
    """One more change of direction is allowed each time this has passed."""

    efficiency_bytes: int = 64 * MIB
    """Releases of at least this size are checked against the process's own memory."""
    efficiency_least: float = 0.5
    """Share of a release that must have arrived; the rest counts as retained."""
    efficiency_after_s: float = 1.0
    """When: so long after the heap was trimmed."""

    blind_s: float = 2.0
    """Without any reading for this long the law holds and says so."""
    good_samples: int = 3
    """Readings in a row that end blindness."""

    seed: int = 0
    """Of the jitter: same samples and same seed give the same decisions."""

    @classmethod
    def from_flags(
        cls,
        *,
        profile: str = "balanced",
        reserve_critical: int | None = None,
        reserve_low: int | None = None,
        reserve_target: int | None = None,
        reserve_high: int | None = None,
        grow_window: float | None = None,
        cooldown: float | None = None,
        seed: int = 0,
    ) -> Self:
        """Parameters from command-line values; None keeps a default. Sizes in bytes, times in seconds.

        Raises:
            UsageError: An unknown profile, a negative size, a time out of range, or reserves that are not in order.
        """
        known = next((name for name in PROFILE_SCALE if name == profile), None)
        if known is None:
            raise UsageError(f"--profile {profile}: unknown profile", hint=f"Use one of {', '.join(PROFILE_SCALE)}.")
        _check_order(
            [
                ("--reserve-critical", reserve_critical),
                ("--reserve-low", reserve_low),
                ("--reserve-target", reserve_target),
                ("--reserve-high", reserve_high),
            ]
        )
        defaults = cls()
        return cls(
            profile=known,
            overrides=ReserveOverrides(reserve_critical, reserve_low, reserve_target, reserve_high),
            grow_window_s=_seconds("--grow-window", grow_window, defaults.grow_window_s, least=0.0),
            cooldown_s=(first := _seconds("--cooldown", cooldown, defaults.cooldown_s, least=0.0)),
            cooldown_max_s=max(defaults.cooldown_max_s, first),
            seed=seed,
        )

    def reserves(self, total: int, *, shared: bool, largest_step: int) -> Reserves:
        """Reserves of a domain of `total` bytes.

        A domain that is not shared keeps none; growth there still leaves `largest_step` free, because a
        growing module exists twice for a moment.

        Args:
            total: Bytes of the domain.
            shared: As in `MemoryReading`.
            largest_step: Bytes of the largest single step of the sequence.
        """
        if not shared:
            return Reserves(0, 0, 0, largest_step)
        scale = PROFILE_SCALE[self.profile]
        critical = round(scale * _clamp(0.03 * total, 256 * MIB, 1 * GIB))
        low = round(scale * _clamp(0.06 * total, 512 * MIB, 2.5 * GIB))
        target = round(scale * _clamp(0.10 * total, 768 * MIB, 4 * GIB))
        gap = round(scale * max(0.03 * total, 256 * MIB))
        high = target + max(2 * largest_step, gap)
        given = self.overrides
        return Reserves(
            *_in_order([critical, low, target, high], [given.critical, given.low, given.target, given.high])
        )


def _in_order(computed: Sequence[int], given: Sequence[int | None]) -> list[int]:
    """Replace computed values by given ones; a computed value bends so that the order holds."""
    values: list[int] = []
    for index, (value, fixed) in enumerate(zip(computed, given, strict=True)):
        above = min((later for later in given[index:] if later is not None), default=value)
        below = values[-1] if values else 0
        values.append(fixed if fixed is not None else max(below, min(value, above)))
    return values


def _check_order(flags: Sequence[tuple[str, int | None]]) -> None:
    """Raise UsageError unless the values that are given are sizes in ascending order."""
    before: tuple[str, int] | None = None
    for flag, value in flags:
        if value is None:
            continue
        if value < 0:
            raise UsageError(f"{flag} {value}: must not be negative")
        if before is not None and value < before[1]:
            raise UsageError(
                f"{flag} {value} is below {before[0]} {before[1]}",
                hint="Reserves ascend: critical, low, target, high.",
            )
        before = (flag, value)


def _seconds(flag: str, value: float | None, default: float, *, least: float) -> float:
    if value is None:
        return default
    if not least <= value <= 86_400:
        raise UsageError(f"{flag} {value}: must be between {least:g} and 86400 seconds")
    return value


def _clamp(value: float, least: float, most: float) -> float:
    return min(max(value, least), most)
