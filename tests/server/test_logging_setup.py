"""What the log looks like."""

import asyncio
import json
import logging
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexquant.server.logging_setup import Fields, JsonLines, set_up_logging
from support.fake_daemon import FakeDaemon, fake_daemon


@pytest.fixture(autouse=True)
def _restored_loggers() -> Iterator[None]:
    kept = [
        (log, log.handlers, log.propagate, log.level) for log in map(logging.getLogger, ("flexquant", "uvicorn", ""))
    ]
    yield
    for log, handlers, propagate, level in kept:
        log.handlers, log.propagate = handlers, propagate
        log.setLevel(level)
    logging.captureWarnings(capture=False)


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
    assert str(Fields(id="x", seconds=0.12345, tokens=3, finish=None)) == "id=x seconds=0.123 tokens=3"


def test_fields_cannot_break_out_of_their_line() -> None:
    assert str(Fields(path="/a\nINFO x", id="a-b.c")) == r"path='/a\nINFO x' id=a-b.c"


def json_lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    shown = capsys.readouterr()
    assert shown.out == ""
    return [json.loads(line) for line in shown.err.splitlines()]


def test_json_has_the_fields_of_the_text_as_keys(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("info", "json")
    logging.getLogger("flexquant.part").info("move %s", Fields(position_end=2, seconds=0.25, finish=None, path="/a b"))
    (line,) = json_lines(capsys)
    assert datetime.fromisoformat(line.pop("time")).tzinfo is UTC
    assert line == {
        "level": "info",
        "logger": "flexquant.part",
        "message": "move",
        "position_end": 2,
        "seconds": 0.25,
        "path": "/a b",
    }


@given(st.text(), st.text())
def test_every_record_is_one_line_of_json(message: str, value: str) -> None:
    record = logging.LogRecord("any", logging.ERROR, "file", 1, message.replace("%", "") + " %s", (value,), None)
    shown = JsonLines().format(record)
    assert len(shown.splitlines()) == 1
    assert json.loads(shown)["message"] == record.getMessage()


def test_every_library_and_every_traceback_speaks_json(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("info", "json")
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        logging.getLogger("uvicorn.error").exception("failed")
    logging.getLogger("asyncio").error("task %d lost", 3)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    failed, lost, warned = json_lines(capsys)
    assert failed["exception"].endswith("ValueError: first\nsecond")
    assert (lost["logger"], lost["message"]) == ("asyncio", "task 3 lost")
    assert (warned["logger"], warned["level"]) == ("py.warnings", "warning")


def test_words_of_prompts_and_answers_are_in_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    async def run(daemon: FakeDaemon) -> None:
        async with daemon.client() as client:
            for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", "/v1/elastic/target"):
                for body in (
                    {"prompt": "private", "max_tokens": 3},
                    {"messages": [{"role": "user", "content": "private"}], "max_tokens": 3},
                    {"prompt": ["private", 1], "messages": "private", "tokens": "private", "bytes": "private"},
                ):
                    await client.post(path, json=body)
            daemon.model.fail = RuntimeError("on purpose")
            await client.post("/v1/completions", json={"prompt": "private"})

    set_up_logging("debug", "json")
    with fake_daemon() as daemon:
        asyncio.run(run(daemon))
    lines = json_lines(capsys)
    requests = [line for line in lines if line["message"] == "request"]
    assert len(requests) == 16
    assert requests[0]["path"] == "/v1/completions"
    assert {"id", "method", "path", "status", "seconds", "finish", "prompt_tokens", "position_worst"} <= set(
        requests[0]
    )
    assert any("on purpose" in line.get("exception", "") for line in lines)
    assert "private" not in json.dumps(lines)
