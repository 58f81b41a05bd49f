"""Recent values of one quantity."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Track:
    """Values over time, oldest first, as (time, value)."""

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
        """Units per second lost over the last `window` seconds; negative while rising.

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
