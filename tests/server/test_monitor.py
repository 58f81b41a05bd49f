"""The round over all sources."""

import logging
from collections.abc import Callable, Iterator

import pytest

from flexquant.server.controller.sample import MemoryReading
from flexquant.server.monitor import Monitor


class Source:
    """A source whose answer the test sets."""

    def __init__(self, name: str, answer: Callable[[], int]) -> None:
        self.name = name
        self._answer = answer

    def read(self) -> list[MemoryReading]:
        return [MemoryReading(self.name, self._answer(), 100)]


def test_every_source_is_read() -> None:
    monitor = Monitor([Source("a", lambda: 1), Source("b", lambda: 2)])
    readings = monitor.read()
    assert [(reading.source, reading.available) for reading in readings.memory] == [("a", 1), ("b", 2)]
    assert readings.failures == {}
    assert monitor.names == ("a", "b")


def test_a_failing_source_is_left_out_said_once_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    answers: Iterator[int | OSError] = iter([OSError("unplugged"), OSError("unplugged"), 7])

    def answer() -> int:
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    monitor = Monitor([Source("steady", lambda: 1), Source("moody", answer)])
    caplog.set_level(logging.INFO)
    for _ in range(2):
        readings = monitor.read()
        assert [reading.source for reading in readings.memory] == ["steady"]
        assert readings.failures == {"moody": "OSError: unplugged"}
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "moody" in caplog.text
    assert [reading.source for reading in monitor.read().memory] == ["steady", "moody"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_all_sources_may_fail() -> None:
    def broken() -> int:
        raise ValueError("nonsense")

    readings = Monitor([Source("a", broken)]).read()
    assert readings.memory == ()
    assert readings.failures == {"a": "ValueError: nonsense"}
