"""What the law remembers between two ticks. Everything is immutable: a tick makes a new state."""

from dataclasses import dataclass, field, replace
from typing import Literal, Self

Phase = Literal["hold", "shrink", "critical", "grow", "cooldown", "blind"]


@dataclass(frozen=True, slots=True)
class Track:
    """Recent values of B = available + elastic bytes of one source, oldest first, as (time, bytes)."""

    points: tuple[tuple[float, int], ...] = ()

    def add(self, now: float, value: int, keep: float) -> "Track":
        """The track with one more point, without points that a window of `keep` seconds does not need.

        The newest point that is `keep` seconds old or older stays: it shows that the window is full.
        """
        first = 0
        while first + 1 < len(self.points) and self.points[first + 1][0] <= now - keep:
            first += 1
        return Track((*self.points[first:], (now, value)))

    def lowest(self, now: float, window: float) -> int | None:
        """Minimum over the last `window` seconds; None until the track is that long."""
        if not self.points or self.points[0][0] > now - window:
            return None
        return min(value for at, value in self.points if at >= now - window)

    def fall(self, now: float, window: float) -> float:
        """Bytes per second lost over the last `window` seconds; negative while rising.

        A track that is shorter counts as flat before its first point.
        """
        if not self.points or window <= 0:
            return 0.0
        before = self.points[0]
        for point in self.points:
            if point[0] > now - window:
                break
            before = point
        return (before[1] - self.points[-1][1]) / max(now - before[0], window)


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


@dataclass(frozen=True, slots=True)
class Decision:
    """One thing the law did: moved, or began to hold because it sees nothing."""

    what: Literal["shrink", "critical", "grow", "pin", "worst_position", "blind"]
    why: str
    at: float
    from_position: int
    to_position: int


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
        overhead: Mapped elastic bytes beyond the footprint (rounding), measured while nothing moves.
        last_seen: When a source last answered.
        good: Ticks in a row with an answer, counted up to what ends blindness.
        last_shrink: When a shrink was last ordered.
        last_grow: When growth was last ordered.
        regrettable: Time of a growth that no shrink has followed yet.
        cooldown_until: No growth before.
        regrets: How often the cool-down is doubled now.
        failed_at: When a move last failed.
        calm_since: Start of the present span without a shrink.
        draws: Jitters drawn so far.
        last_decision: For people.
    """

    pin: Pin | None = None
    worst: WorstPosition | None = None
    override: bool = False
    phase: Phase = "hold"
    urgent: bool = False
    tracks: dict[str, Track] = field(default_factory=dict)
    overhead: int = 0
    last_seen: float | None = None
    good: int = 0
    last_shrink: float | None = None
    last_grow: float | None = None
    regrettable: float | None = None
    cooldown_until: float | None = None
    regrets: int = 0
    failed_at: float | None = None
    calm_since: float | None = None
    draws: int = 0
    last_decision: Decision | None = None

    def without_expired(self, now: float) -> Self:
        """The state without a pin or limit whose time is over."""
        state = self
        if state.pin is not None and state.pin.ended(now):
            state = replace(state, pin=None, override=False)
        if state.worst is not None and state.worst.until is not None and now >= state.worst.until:
            state = replace(state, worst=None)
        return state
