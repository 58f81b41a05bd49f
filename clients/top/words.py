"""What `top` says in words, in its picture and in its lines alike."""

from datetime import datetime

from flexquant.clients.load import Load
from flexquant.clients.printable import one_line
from flexquant.clients.types import Decision


def clock(at: float) -> str:
    """The time of day, `at` in seconds since 1970."""
    return datetime.fromtimestamp(at).strftime("%H:%M:%S")


def decided(decision: Decision) -> str:
    """When and what was decided, and why."""
    start, end = decision.from_position, decision.to_position
    moved = f", {start} to {end}" if start != end else ""
    return one_line(f"{clock(decision.when)} {decision.what}{moved}: {decision.why}")


def busy(load: Load, tokens_per_second: float | None) -> str:
    """What the daemon is busy with."""
    rate = "" if tokens_per_second is None else f"{tokens_per_second:.1f} tokens/s, "
    return f"{rate}{load.running} running, {load.waiting} waiting, {load.requests} requests so far"
