"""What the law remembers between two ticks. Everything is immutable: a tick makes a new state."""

from dataclasses import dataclass, field, replace
from typing import Literal, Self

from flexquant.server.controller.track import Track

Phase = Literal["hold", "shrink", "critical", "floor", "grow", "cooldown", "blind"]


@dataclass(frozen=True, slots=True)
class Pin:
    """The user's position. It holds from `since` until `until` (None: without an end)."""

    position: int
    since: float
    until: float | None

    def holds(self, now: float) -> bool:
        """Whether the pin is in force."""
        return self.since <= now and not self.ended(now)

    def ended(self, now: float) -> bool:
        """Whether its time is over."""
        return self.until is not None and now >= self.until


@dataclass(frozen=True, slots=True)
class WorstPosition:
    """The user's limit: no position beyond it until `until` (None: without an end)."""

    position: int
    until: float | None


What = Literal["shrink", "critical", "caches", "floor", "resume", "grow", "pin", "worst_position", "retained", "blind"]


@dataclass(frozen=True, slots=True)
class Decision:
    """One thing the law did, for people.

    `what`: "shrink", "critical", "grow", "pin" and "worst_position" move the model; "caches" gives back pages that no
    sequence has, and no weights; "floor" refuses new work, "resume" takes it again; "retained" says that released
    bytes did not arrive, "blind" that no source answers.
    """

    what: What
    why: str
    at: float
    from_position: int
    to_position: int


@dataclass(frozen=True, slots=True)
class Strain:
    """How the domains' stress has developed.

    Args:
        some: Of each source, microseconds in which some task waited, over the stall window.
        full: The same for all tasks.
        counts: The counters of each source as last seen.
        limit_hit: When a limit was last hit.
        killed: When the kernel last killed a process for want of memory.
        swapped: When the system last swapped.
    """

    some: dict[str, Track] = field(default_factory=dict)
    full: dict[str, Track] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    limit_hit: float | None = None
    killed: float | None = None
    swapped: float | None = None


@dataclass(frozen=True, slots=True)
class Episode:
    """A shrink from its first order until its bytes have arrived.

    Args:
        began: When it was ordered.
        own: Bytes of weights and KV pages at that moment.
        unaccounted: What the process held beyond these; None where that is not known.
        trimmed: When it was over and the heap was trimmed.
    """

    began: float
    own: int
    unaccounted: int | None
    trimmed: float | None = None


@dataclass(frozen=True, slots=True)
class State:
    """The law's memory.

    Args:
        pin: The user's pin, if any.
        worst: The user's worst position, if any.
        override: Whether critical memory has taken the model away from its pin.
        phase: What the law is doing.
        urgent: Whether the move under way was ordered urgently.
        tracks: B of every source that answered at the last tick.
        strain: The same for stress.
        overhead: Mapped elastic bytes beyond the footprint (rounding), measured while nothing moves.
        dropping: Reusable bytes that were ordered to go.
        dropped_at: When.
        last_seen: When a source last answered.
        good: Ticks in a row with an answer, counted up to what ends blindness.
        last_shrink: When a shrink was last ordered.
        last_critical: When one was last ordered because memory was critical.
        last_grow: When growth was last ordered.
        grown_at: When an own growth was last under way.
        regrettable: Time of a growth that no shrink has followed yet.
        cooldown_until: No growth before.
        regrets: How often the cool-down is doubled now.
        failed_at: When a move last failed.
        calm_since: Start of the present span without a shrink.
        draws: Jitters drawn so far.
        down: Whether the law's last own move went down; None before the first.
        turns: Changes of direction that are allowed now.
        turns_at: As of when.
        reactions: Seconds that the latest shrinks took from order to end, oldest first.
        ordered_at: When the shrink under way was ordered.
        episode: The shrink whose bytes have not all arrived.
        efficiency: Share of the last checked release that arrived.
        retained: Bytes that were released and did not arrive.
        baseline: What the process held beyond weights and KV pages when these were retained.
        refusing: Whether new work is refused.
        last_refusal: Why.
        critical_since: Since when memory is critical at the smallest position allowed.
        relieved_since: Since when the target reserve is free again, in the floor.
        last_decision: For people.
    """

    pin: Pin | None = None
    worst: WorstPosition | None = None
    override: bool = False
    phase: Phase = "hold"
    urgent: bool = False
    tracks: dict[str, Track] = field(default_factory=dict)
    strain: Strain = field(default_factory=Strain)
    overhead: int = 0
    dropping: int = 0
    dropped_at: float | None = None
    last_seen: float | None = None
    good: int = 0
    last_shrink: float | None = None
    last_critical: float | None = None
    last_grow: float | None = None
    grown_at: float | None = None
    regrettable: float | None = None
    cooldown_until: float | None = None
    regrets: int = 0
    failed_at: float | None = None
    calm_since: float | None = None
    draws: int = 0
    down: bool | None = None
    turns: float | None = None
    turns_at: float = 0.0
    reactions: tuple[float, ...] = ()
    ordered_at: float | None = None
    episode: Episode | None = None
    efficiency: float | None = None
    retained: int = 0
    baseline: int = 0
    refusing: bool = False
    last_refusal: str | None = None
    critical_since: float | None = None
    relieved_since: float | None = None
    last_decision: Decision | None = None

    def without_expired(self, now: float) -> Self:
        """The state without a pin or limit whose time is over."""
        state = self
        if state.pin is not None and state.pin.ended(now):
            state = replace(state, pin=None, override=False)
        if state.worst is not None and state.worst.until is not None and now >= state.worst.until:
            state = replace(state, worst=None)
        return state
