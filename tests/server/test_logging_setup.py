"""What the log looks like."""

import logging
from collections.abc import Iterator

import pytest

from flexquant.server.logging_setup import fields, set_up_logging


@pytest.fixture(autouse=True)
def _restored_loggers() -> Iterator[None]:
    kept = [(log, log.handlers, log.propagate, log.level) for log in map(logging.getLogger, ("flexquant", "uvicorn"))]
    yield
    for log, handlers, propagate, level in kept:
        log.handlers, log.propagate = handlers, propagate
        log.setLevel(level)


def test_lines_go_to_stderr_from_the_level_on(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("info")
    logging.getLogger("flexquant.part").info("told")
    logging.getLogger("flexquant.part").debug("not told")
    logging.getLogger("uvicorn.error").info("not told either")
    logging.getLogger("uvicorn.error").warning("told too")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert [line.split(": ", 1)[1] for line in shown.err.splitlines()] == ["told", "told too"]


def test_setting_up_twice_does_not_double_lines(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("info")
    set_up_logging("info")
    logging.getLogger("flexquant").info("once")
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_fields_leave_out_what_is_not_known() -> None:
    assert fields(id="x", seconds=0.12345, tokens=3, finish=None) == "id=x seconds=0.123 tokens=3"
