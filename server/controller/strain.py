"""Stress as the law judges it: what bytes do not show.

Memory that is counted as available may be a file cache that others need. Stalls (Linux PSI), limits that are hit, swap
and the system's own level tell of that.
"""

from dataclasses import dataclass, replace

from flexquant.server.controller.parameters import Parameters
from flexquant.server.controller.sample import Sample, StressReading
from flexquant.server.controller.state import State, Strain
from flexquant.server.controller.track import Track

MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Stress:
    """What the stress readings ask for, each with the reason for people; None: nothing.

    Args:
        hard: Act as if memory were critical.
        soft: Shrink.
        veto: Do not grow.
    """

    hard: str | None = None
    soft: str | None = None
    veto: str | None = None


def note(strain: Strain, sample: Sample, now: float, parameters: Parameters) -> Strain:
    """The strain, this sample included. A counter that falls has started again, and so does its track."""
    window = parameters.stall_window_s
    some, full, counts = dict[str, Track](), dict[str, Track](), dict[str, int]()
    limit_hit, killed, swapped = strain.limit_hit, strain.killed, strain.swapped
    for reading in sample.stress:
        source = reading.source
        if reading.some_us is not None:
            some[source] = _add(strain.some.get(source), now, reading.some_us, window)
        if reading.full_us is not None:
            full[source] = _add(strain.full.get(source), now, reading.full_us, window)
        for name, count in _counters(reading):
            key = f"{source}/{name}"
            counts[key] = count
            if count <= strain.counts.get(key, count):
                continue
            if name == "events":
                limit_hit = now
            elif name == "oom_kills":
                killed = now
            else:
                swapped = now
    return Strain(some, full, counts, limit_hit, killed, swapped)


def forget(strain: Strain) -> Strain:
    """What remains after a gap: the counters, but no rates across it."""
    return replace(strain, some={}, full={})


def judge(state: State, sample: Sample, now: float, parameters: Parameters, *, tight: bool) -> Stress:
    """What this sample's stress asks for.

    Args:
        state: Already contains the sample.
        sample: Of this tick.
        now: Seconds.
        parameters: Of the law.
        tight: Whether some domain is short of what growth leaves free. A container full of file cache hits its limit
            all the time and drops cache; that is no stress.
    """
    levels = {reading.source: reading.level for reading in sample.stress if reading.level is not None}
    hard = next((f"{source}: level critical" for source, level in levels.items() if level == "critical"), None)
    veto = next((f"{source}: level {level}" for source, level in levels.items() if level != "normal"), None)
    soft: str | None = None
    strain = state.strain
    if strain.swapped is not None and now - strain.swapped < parameters.veto_swap_s:
        veto = veto or f"the system swapped {now - strain.swapped:.0f} s ago"
    if _plenty(sample, parameters):
        return Stress(hard, soft, veto)
    for reading in sample.stress:
        for average, seconds in ((reading.some_avg10, 10), (reading.some_avg60, 60)):
            if average is not None and average >= parameters.veto_avg:
                veto = veto or f"{reading.source}: tasks waited {average:g} % of {seconds} s for memory"
        if reading.some_avg10 is not None and reading.some_avg10 >= parameters.stall_hard_avg10:
            hard = hard or f"{reading.source}: tasks waited {reading.some_avg10:g} % of 10 s for memory"
        stalled = _share(strain.full, reading.source, now, parameters)
        if stalled >= parameters.stall_hard:
            hard = hard or f"{reading.source}: all tasks wait {stalled:.0%} of the time for memory"
        stalled = _share(strain.some, reading.source, now, parameters)
        masked = state.grown_at is not None and now - state.grown_at < parameters.stall_mask_s
        if stalled >= parameters.stall_soft and not masked:
            soft = soft or f"{reading.source}: tasks wait {stalled:.0%} of the time for memory"
    if strain.killed == now:
        hard = hard or "the kernel has killed a process for want of memory"
    if strain.limit_hit == now and tight:
        soft = soft or "a container's memory limit was hit"
    return Stress(hard, soft, veto)


def _plenty(sample: Sample, parameters: Parameters) -> bool:
    """Whether giving back would help nobody: stalls then come from somebody's own limit."""
    return bool(sample.memory) and all(
        reading.available >= parameters.stall_plenty * reading.total for reading in sample.memory if reading.shared
    )


def _share(tracks: dict[str, Track], source: str, now: float, parameters: Parameters) -> float:
    """Share of the stall window that was spent waiting."""
    track = tracks.get(source)
    return 0.0 if track is None else -track.fall(now, parameters.stall_window_s) / MICROSECONDS


def _add(track: Track | None, now: float, value: int, window: float) -> Track:
    if track is None or track.points[-1][1] > value:
        track = Track()
    return track.add(now, value, window)


def _counters(reading: StressReading) -> list[tuple[str, int]]:
    named = (("events", reading.events), ("oom_kills", reading.oom_kills), ("swapped_out", reading.swapped_out))
    return [(name, count) for name, count in named if count is not None]
