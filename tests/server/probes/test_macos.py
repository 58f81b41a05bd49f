"""The pressure level of macOS."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexquant.server.controller.sample import Level, StressReading
from flexquant.server.probes.macos import LEVELS, PRESSURE_LEVEL, MacosProbe, sysctl_integer


@pytest.mark.parametrize(("number", "level"), [(1, "normal"), (2, "warn"), (4, "critical")])
def test_the_levels_have_names(number: int, level: Level) -> None:
    asked: list[str] = []

    def sysctl(name: str) -> int:
        asked.append(name)
        return number

    assert MacosProbe(sysctl).read() == [StressReading("macos", level=level)]
    assert asked == [PRESSURE_LEVEL]


@given(st.integers().filter(lambda number: number not in LEVELS))
def test_an_unknown_level_is_named(number: int) -> None:
    with pytest.raises(ValueError, match=f"{PRESSURE_LEVEL} is {number}; known are 1, 2, 4"):
        MacosProbe(lambda _: number).read()


@pytest.mark.skipif(sys.platform != "darwin", reason="asks the kernel of macOS")
def test_the_real_kernel_answers() -> None:
    assert sysctl_integer(PRESSURE_LEVEL) in LEVELS
    with pytest.raises(FileNotFoundError):
        sysctl_integer("kern.no_such_thing")
