"""Reading that nobody waits for takes a share of one core's time while somebody computes, and all of it otherwise."""

import threading
import time

from flexquant.engine.pace import LEAST_S, SHARE, Pace


class Clock:
    """Seconds that pass when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def rested(pace: Pace) -> float:
    began = time.monotonic()
    pace.rest()
    return time.monotonic() - began


def test_a_piece_of_work_is_followed_by_rest_in_proportion() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.computing = True
    pace.slow_down()
    clock.now += 0.01
    assert rested(pace) >= 0.9 * 0.01 * (1 / SHARE - 1)
    assert rested(pace) < 0.05, "no work was done since"


def test_small_pieces_are_rested_for_together() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.computing = True
    pace.slow_down()
    pieces = 100
    began = time.monotonic()
    for _ in range(pieces):
        clock.now += LEAST_S / 4
        pace.rest()
    assert time.monotonic() - began >= 0.9 * (pieces // 4 - 1) * LEAST_S * (1 / SHARE - 1)
    pace.slow_down()
    clock.now += LEAST_S / 2
    assert rested(pace) < 1


def test_nobody_rests_when_nobody_computes_or_when_there_is_a_hurry() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.computing = True
    clock.now += 100
    assert rested(pace) < 1, "reading is in a hurry unless told otherwise"
    pace.slow_down()
    pace.computing = False
    clock.now += 100
    assert rested(pace) < 1
    pace.computing = True
    pace.hurry()
    clock.now += 100
    assert rested(pace) < 1


def test_work_done_while_nobody_computed_is_not_rested_for_later() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.slow_down()
    clock.now += 100
    pace.rest()
    pace.computing = True
    assert rested(pace) < 1


def test_a_hurry_ends_a_rest() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.computing = True
    pace.slow_down()
    clock.now += 100
    rests = threading.Thread(target=pace.rest)
    rests.start()
    rests.join(0.05)
    assert rests.is_alive()
    pace.hurry()
    rests.join(10)
    assert not rests.is_alive()
