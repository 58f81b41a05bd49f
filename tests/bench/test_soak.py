"""The soak's schedule, its books, and its verdict."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.machine.decisions import Decision
from bench.many_clients.report import Report
from bench.soak.accounts import (
    Books,
    Handles,
    Released,
    Turns,
    auto_seconds,
    handles,
    most_turns,
    released,
    turns,
)
from bench.soak.checks import Check, table
from bench.soak.log import Seen
from bench.soak.schedule import HOGS, Auto, Leave, Limit, Pin, Take, schedule, takes
from bench.soak.verdict import checks, what_went_on

MIB = 1 << 20


# --- schedule


@given(st.integers(), st.floats(min_value=20, max_value=4000))
def test_a_schedule_is_the_same_for_the_same_seed_and_stays_within_its_time(seed: int, seconds: float) -> None:
    planned = schedule(seed, seconds, positions=5)
    assert planned == schedule(seed, seconds, positions=5)
    assert [item.at for item in planned] == sorted(item.at for item in planned)
    assert all(0 < item.at < seconds for item in planned)


@given(st.integers())
def test_a_hog_takes_and_leaves_in_turn(seed: int) -> None:
    planned = schedule(seed, 600, positions=5)
    for hog in range(HOGS):
        kinds = [type(item.event) for item in planned if isinstance(item.event, Take | Leave) and item.event.hog == hog]
        assert kinds[0] is Take
        assert all(before is not after for before, after in pairwise(kinds))


def test_ten_minutes_have_something_of_everything() -> None:
    planned = schedule(0, 600, positions=5)
    assert takes(planned) >= 10
    assert {type(item.event) for item in planned} == {Take, Leave, Pin, Limit, Auto}
    assert {item.event.number for item in planned if isinstance(item.event, Pin)} == set(range(5))


def test_another_seed_is_another_schedule() -> None:
    assert schedule(0, 600, positions=5) != schedule(1, 600, positions=5)


# --- efficiency


def look(time: float, registry: float, private: float, *, auto: bool = True) -> Books:
    return Books(time, round(registry * MIB), round(private * MIB), auto)


def test_every_stretch_that_falls_is_one_release_with_the_look_after_it() -> None:
    looks = [
        look(0, 200, 260),
        look(1, 200, 260),
        look(2, 150, 220),  # the system lags behind the books
        look(3, 120, 190),
        look(4, 120, 182),
        look(5, 180, 242),  # growth
        look(6, 170, 233),
        look(7, 170, 233),
    ]
    assert released(looks) == Released(2, ordered=90 * MIB, observed=(260 - 182 + 242 - 233) * MIB)
    assert released(looks).efficiency == pytest.approx(87 / 90)


def test_what_stays_in_the_heap_is_missed() -> None:
    assert released([look(0, 200, 260), look(1, 100, 210), look(2, 100, 210)]).efficiency == pytest.approx(0.5)


def test_small_changes_are_no_release_and_none_is_no_loss() -> None:
    assert released([look(0, 200, 260), look(1, 199.5, 300), look(2, 199, 310)]) == Released(0, 0, 0)
    assert released([]).efficiency == 1.0


@given(st.lists(st.integers(0, 300), min_size=2, max_size=40))
def test_a_process_that_holds_what_its_books_say_is_perfect(registry: list[int]) -> None:
    looks = [look(number, size, size + 60) for number, size in enumerate([*registry, registry[-1]])]
    assert released(looks).efficiency == 1.0


def test_books_come_from_the_state() -> None:
    state: Mapping[str, Any] = {"mode": "pinned", "memory": {"registry": 5, "private": 8, "kv": 1}}
    assert Books.of(2.0, state) == Books(2.0, 5, 8, auto=False)
    assert Books.of(2.0, state).beyond == 3


# --- turns


def decided(*found: tuple[float, str]) -> list[Decision]:
    return [Decision(when, what, 0, 1) for when, what in found]


def test_turns_are_counted_and_regretted_within_a_minute() -> None:
    found = decided((0, "shrink"), (1, "critical"), (40, "grow"), (42, "grow"), (90, "shrink"), (200, "grow"))
    assert turns(found) == Turns(reversals=3, regretted=1)
    assert turns(decided((0, "grow"), (61, "shrink"))) == Turns(reversals=1, regretted=0)
    assert turns(decided((0, "grow"), (1, "caches"), (2, "shrink"))) == Turns(reversals=1, regretted=1)


def test_what_users_wish_is_no_turn_of_the_law() -> None:
    assert turns(decided((0, "grow"), (5, "pin"), (10, "shrink"))) == Turns(0, 0)
    assert turns(decided((0, "shrink"), (5, "worst_position"), (10, "grow"))) == Turns(0, 0)


def test_the_time_in_auto_mode_and_the_bound() -> None:
    looks = [look(0, 1, 1), look(10, 1, 1), look(20, 1, 1, auto=False), look(30, 1, 1), look(45, 1, 1)]
    assert auto_seconds(looks) == 25
    assert most_turns(3600) == 11


# --- leaks


def test_descriptors_are_files_or_sockets() -> None:
    found = handles(["socket:[12]", "/dev/null", "pipe:[3]", "anon_inode:[eventpoll]", "socket:[14]"], threads=9)
    assert found == Handles(threads=9, files=3, sockets=2)


def test_more_than_before_is_a_leak_and_less_is_not() -> None:
    before = Handles(threads=9, files=5, sockets=2)
    assert Handles(12, 4, 2).leaked_since(before) == Handles(3, 0, 0)
    assert Handles(9, 5, 2).leaked_since(before).total == 0


# --- verdict


def good() -> Seen:
    load = Report(clients=2, seconds=60.0)
    load.outcomes["complete answer, streamed"] = 10
    seen = Seen(load, seconds=60.0, compared=3)
    seen.looks = [look(0, 300, 360), look(1, 200, 261), look(60, 200, 261)]
    books = look(0, 300, 360), Handles(9, 5, 1)
    seen.at_start, seen.at_end = books, books
    return seen


def failing(seen: Seen) -> list[str]:
    return [check.name for check in checks(seen) if check.held is False]


def test_a_good_soak_holds_every_check() -> None:
    assert failing(good()) == []
    assert "| FAILS |" not in table(checks(good()))
    assert "| clients | 2 |" in what_went_on(good())


def test_each_check_fails_alone() -> None:
    wrong_request, wrong_token, drifted, kept, leaked, drained, faulty = (good() for _ in range(7))
    wrong_request.load.wrong("500")
    wrong_token.wrong_tokens.append("another text")
    assert drifted.at_end is not None
    drifted.at_end = look(60, 300, 369), drifted.at_end[1]
    kept.looks = [look(0, 300, 360), look(1, 200, 270), look(60, 200, 270)]
    assert leaked.at_end is not None
    leaked.at_end = leaked.at_end[0], replace(leaked.at_end[1], sockets=2)
    drained.drained = "exit code 1"
    faulty.fault("in the log: ERROR")
    turned = good()
    turned.decisions = decided(*((10.0 * number, "grow" if number % 2 else "shrink") for number in range(14)))
    for seen, part in (
        (wrong_request, "admitted"),
        (wrong_token, "pinned"),
        (drifted, "RssAnon beyond"),
        (kept, "efficiency"),
        (leaked, "threads"),
        (drained, "SIGTERM"),
        (faulty, "errors"),
        (turned, "direction"),
    ):
        (name,) = failing(seen)
        assert part in name


def test_what_had_no_occasion_is_neither_good_nor_bad() -> None:
    seen = good()
    seen.compared, seen.looks = 0, []
    assert failing(seen) == []
    assert table(checks(seen)).count("| not seen |") == 2


def test_a_soak_that_ended_early_fails() -> None:
    seen = good()
    seen.at_end = None
    assert len(failing(seen)) == 2


def test_a_check_says_what_became_of_it() -> None:
    assert table([Check("files", "1 more", "0", held=False)]).splitlines()[-1] == "| files | 1 more | 0 | FAILS |"
