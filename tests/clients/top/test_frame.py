"""The picture of top: what is on it, and that it fits."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from flexquant.clients.top.frame import KEYS, frame
from flexquant.clients.top.glyphs import ASCII, UNICODE, Glyphs, glyphs_for
from flexquant.clients.top.view import View
from support import told


def shown(view: View, width: int = 80, height: int = 24, **options: Any) -> str:
    """The picture as text."""
    return "\n".join(line.plain for line in frame(view, width, height, now=told.NOW, **options))


def test_everything_that_matters_is_there_on_a_small_screen() -> None:
    view = told.view().decided([told.decision()]).read(told.reading(told.NOW + 2, 140), "my-llama")
    text = shown(view)
    for part in (
        "my-llama at http://here:8000",
        "position   3 of 10\n",
        "mode       auto\n",
        "quality    perplexity 14.900, KL 0.01000",
        "footprint  700.0 MiB ",
        "400.0 MiB to 3.0 GiB",
        "memory     5.0 GiB available, pressure none",
        "load       20.0 tokens/s, 1 running, 2 waiting, 5 requests so far",
        "law        hold",
        "shrink, 2 to 6: host: 1 MiB",
        KEYS,
    ):
        assert part in text, text


def test_what_is_unusual_is_told() -> None:
    text = shown(
        told.view(
            target=6,
            pinned_position=2,
            mode="pinned",
            ttl_seconds=30.0,
            override="critical",
            worst_position=8,
            available_bytes=None,
            refusing="host: 3 MiB",
            sources=[{"name": "cgroup", "available_bytes": None, "total_bytes": None, "error": "gone"}],
        )
    )
    for part in ("moving to 6", "pinned to 2 for 30 s", "overridden: critical", "never beyond 8", "unknown available"):
        assert part in text
    assert "refusing   new requests: host: 3 MiB" in text
    assert "without an answer: cgroup" in text


def test_a_daemon_that_is_gone_is_told_and_what_was_known_stays() -> None:
    text = shown(told.view().lost("http://here: no daemon answers"))
    assert "no daemon answers; trying again (below: what was known)" in text
    assert "position   3 of 10" in text


@pytest.mark.parametrize(("footprint", "filled"), [(400 << 20, 0), (3 << 30, 40), ((400 << 20) + (2672 << 19), 20)])
def test_the_bar_is_the_share_of_the_range(footprint: int, filled: int) -> None:
    text = shown(told.view(footprint_bytes=footprint), width=100, height=12)
    assert text.count(UNICODE.full) == filled
    assert text.count(UNICODE.empty) == 40 - filled


def test_a_question_takes_the_place_of_the_keys() -> None:
    text = shown(told.view(), asking="12")
    assert "pin to position: 12_   (0 (best) to 10; Enter pins, Esc does not)" in text
    assert KEYS not in text
    assert "pinned to 4" in shown(told.view(), message="pinned to 4")


def test_without_keys_it_is_as_long_as_what_there_is_to_say() -> None:
    text = shown(told.view(), keys=False)
    assert len(text.splitlines()) < 15
    assert KEYS not in text


def test_pressure_is_a_word_and_not_a_colour_alone() -> None:
    for pressure in ("none", "low", "critical", "unknown"):
        assert f"pressure {pressure}" in shown(told.view(pressure=pressure))


TEXTS = st.text(max_size=120)


@given(
    width=st.integers(1, 200),
    height=st.integers(1, 60),
    model=TEXTS,
    why=TEXTS,
    problem=st.none() | TEXTS,
    footprint=st.integers(0, 2**45),
    ends=st.tuples(st.integers(0, 2**45), st.integers(0, 2**45)).map(sorted),
    decisions=st.integers(0, 70),
    readings=st.integers(0, 5),
    asking=st.none() | st.text("0123456789", max_size=9),
    glyphs=st.sampled_from([UNICODE, ASCII]),
)
def test_it_fits_whatever_there_is_to_show(
    width: int,
    height: int,
    model: str,
    why: str,
    problem: str | None,
    footprint: int,
    ends: list[int],
    decisions: int,
    readings: int,
    asking: str | None,
    glyphs: Glyphs,
) -> None:
    view = View("http://here:8000", problem=problem)
    for at in range(readings):
        view = view.read(told.reading(float(at), at, footprint_bytes=footprint, footprint_range_bytes=ends), model)
    view = view.decided([told.decision(float(at), why=why) for at in range(decisions)])
    view = replace(view, problem=problem)
    lines = frame(view, width, height, now=told.NOW, asking=asking, message=why, glyphs=glyphs)
    assert len(lines) == height
    for line in lines:
        assert cell_len(line.plain) <= width
        assert len(line.plain.splitlines()) <= 1


def test_pictures_are_made_of_what_the_terminal_has() -> None:
    assert glyphs_for("utf-8") is UNICODE
    assert glyphs_for("ascii") is ASCII
    assert glyphs_for("latin-1") is ASCII
    assert glyphs_for("no-such-encoding") is ASCII
    assert ASCII.bar(0.5, 10) == ("#####", ".....")
    assert ASCII.columns([0, 5, 10], 2, 0, 10) == "=#"
    assert ASCII.columns([1, 1], 5, 1, 1) == ".."
