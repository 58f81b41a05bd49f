"""Progress: a bar on a terminal, plain lines elsewhere, and how long it still takes."""

import io

import pytest

from flexquant.ensemble_builder.progress import LINE_SECONDS, Progress, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_come_every_few_seconds_with_an_estimate() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(stream, clock=clock, environment={}).stage("quantizing", 10) as stage:
        for _ in range(10):
            clock.now += LINE_SECONDS / 2
            stage.advance()
    assert stream.getvalue().splitlines() == [
        "quantizing: 2/10, about 20 s left",
        "quantizing: 4/10, about 15 s left",
        "quantizing: 6/10, about 10 s left",
        "quantizing: 8/10, about 5 s left",
        "quantizing: 10/10, about 0 s left",
        "quantizing: 10/10 in 25 s",
    ]


def test_parts_of_an_earlier_run_do_not_make_the_estimate_better() -> None:
    clock = Clock()
    with Progress(io.StringIO(), clock=clock).stage("quantizing", 100, done=80) as stage:
        assert stage.remaining is None
        clock.now += 3
        stage.advance(2)
        assert stage.remaining == pytest.approx(27)


def test_numbers_of_parts_are_written_as_asked() -> None:
    stream = io.StringIO()
    with Progress(stream, clock=Clock()).stage(
        "downloading", 2000, show=lambda count: f"{count / 1e3:.1f} kB"
    ) as stage:
        stage.advance(1500)
    assert stream.getvalue() == "downloading: 1.5 kB/2.0 kB in 0 s\n"


def test_a_terminal_shows_a_bar_that_leaves_one_line() -> None:
    stream, clock = Terminal(), Clock()
    with Progress(stream, clock=clock, environment={}).stage("searching", 2) as stage:
        clock.now += 1
        stage.advance()
    shown = stream.getvalue()
    assert "searching \x1b[36m============\x1b[0m             1/2, about 1 s left" in shown
    assert shown.endswith("\r\x1b[Ksearching: 1/2 in 1 s\n")
    assert shown.count("\n") == 1


def test_no_color_keeps_the_bar_without_colours() -> None:
    stream = Terminal()
    with Progress(stream, environment={"NO_COLOR": "1"}).stage("searching", 1, done=1):
        pass
    assert "=" in stream.getvalue()
    assert "\x1b[36m" not in stream.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_no_control_characters_without_a_capable_terminal(stream: io.StringIO) -> None:
    progress = Progress(stream, environment={"TERM": "dumb"})
    with progress.stage("searching", 1) as stage:
        stage.advance()
    progress.note("a note")
    assert stream.getvalue() == "searching: 1/1 in 0 s\na note\n"


def test_a_note_does_not_tear_the_bar() -> None:
    stream = Terminal()
    progress = Progress(stream, environment={})
    with progress.stage("searching", 1):
        progress.note("a note")
    assert "\r\x1b[Ka note\n" in stream.getvalue()


def test_a_failed_stage_does_not_say_that_it_is_done() -> None:
    stream = io.StringIO()
    with pytest.raises(KeyError), Progress(stream, environment={}).stage("searching", 1):
        raise KeyError
    assert stream.getvalue() == ""


def test_a_stage_of_nothing_is_shown_as_done() -> None:
    stream = Terminal()
    with Progress(stream, environment={}).stage("searching", 0):
        pass
    assert stream.getvalue().endswith("searching: 0/0 in 0 s\n")


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (249, "4:09 min"), (7440, "2:04 h")]
)
def test_duration(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
