"""What other programs hold, over time: the shapes of load under which the control law is tried out."""

import math
import random
from collections.abc import Callable

Load = Callable[[float], float]
"""Bytes that other programs hold, by time in seconds."""


def constant(level: float) -> Load:
    """The same load for ever."""
    return lambda _: level


def step(before: float, after: float, at: float) -> Load:
    """A jump at one moment."""
    return lambda now: before if now < at else after


def ramp(before: float, after: float, start: float, seconds: float) -> Load:
    """A straight climb (or fall) that takes `seconds`."""
    return lambda now: before + (after - before) * min(max((now - start) / seconds, 0.0), 1.0)


def hog(base: float, amount: float, rate: float, start: float, stay: float) -> Load:
    """A program that allocates `amount` at `rate` bytes per second, stays, and ends at once."""
    end = start + amount / rate + stay
    return lambda now: base + (min(max(now - start, 0.0) * rate, amount) if now < end else 0.0)


def sawtooth(base: float, amplitude: float, period: float) -> Load:
    """Climbs for a period, drops, climbs again."""
    return lambda now: base + amplitude * (now % period) / period


def sine(base: float, amplitude: float, period: float) -> Load:
    """A slow swing around `base`."""
    return lambda now: base + amplitude * math.sin(2 * math.pi * now / period)


def square(base: float, amplitude: float, period: float) -> Load:
    """Half a period without, half a period with `amplitude`."""
    return lambda now: base + (amplitude if now % period >= period / 2 else 0.0)


def random_walk(base: float, stride: float, seed: int, every: float = 1.0) -> Load:
    """Wanders by up to `stride` bytes each `every` seconds, reflected at 0."""
    levels = [base]
    chance = random.Random(seed)

    def load(now: float) -> float:
        while len(levels) <= now / every:
            levels.append(abs(levels[-1] + chance.uniform(-stride, stride)))
        return levels[int(now / every)]

    return load
