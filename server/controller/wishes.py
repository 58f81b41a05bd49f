"""The user's wishes: pins and limits, as changes of the law's state."""

from collections.abc import Sequence
from dataclasses import replace

from flexquant.engine.errors import UsageError
from flexquant.server.controller.law import Law
from flexquant.server.controller.state import Pin, State, WorstPosition


def pin(law: Law, state: State, position: int, now: float, ttl_seconds: float | None) -> State:
    """Hold `position`, for `ttl_seconds` if given.

    Raises:
        UsageError: The position is out of range or beyond the worst position, or the time is not positive.
    """
    _check_position(law, "position", position)
    worst = law.worst(state.without_expired(now))
    if position > worst:
        raise UsageError(f"position {position} is beyond worst_position {worst}")
    return replace(state, pin=Pin(position, since=now, until=_end(ttl_seconds, now)), override=False, failed_at=None)


def auto(state: State, now: float, ttl_seconds: float | None) -> State:
    """Follow the memory again; with `ttl_seconds` the pin returns after that time.

    Raises:
        UsageError: The time is not positive.
    """
    held, until = state.pin, _end(ttl_seconds, now)
    held = None if held is None or until is None else replace(held, since=until)
    return replace(state, pin=held, override=False)


def limit(law: Law, state: State, position: int, now: float, ttl_seconds: float | None) -> State:
    """Never go beyond `position`; N takes the limit away.

    Raises:
        UsageError: The position is out of range, or the time is not positive.
    """
    _check_position(law, "worst_position", position)
    return replace(state, worst=WorstPosition(position, _end(ttl_seconds, now)), failed_at=None)


def best_within(footprints: Sequence[int], nbytes: int) -> int:
    """The best position whose weights take at most `nbytes`.

    Raises:
        UsageError: Even the smallest position takes more.
    """
    best = next((k for k, footprint in enumerate(footprints) if footprint <= nbytes), None)
    if best is None:
        raise UsageError(
            f"bytes {nbytes}: no position is that small; footprints range from {footprints[-1]} to {footprints[0]}"
        )
    return best


def _check_position(law: Law, field: str, position: int) -> None:
    last = len(law.footprints) - 1
    if not 0 <= position <= last:
        raise UsageError(f"{field} {position} is out of range; this model has positions 0 to {last}")


def _end(ttl_seconds: float | None, now: float) -> float | None:
    if ttl_seconds is None:
        return None
    if not 0 < ttl_seconds < float("inf"):
        raise UsageError(f"ttl_seconds {ttl_seconds:g}: must be a positive number of seconds")
    return now + ttl_seconds
