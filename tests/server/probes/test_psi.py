"""Pressure stall information."""

import errno
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexquant.server.controller.sample import StressReading
from flexquant.server.probes.psi import Pressure, PsiProbe, parse_pressure, read_pressure
from support.kernel_files import pressure_text, refuse, write_tree


def test_totals_and_averages_are_read(tmp_path: Path) -> None:
    write_tree(tmp_path, {"memory": pressure_text(some=1500, full=900, avg10=1.25, avg60=0.5)})
    probe = PsiProbe(tmp_path / "memory")
    assert probe.read() == [StressReading("psi", some_us=1500, full_us=900, some_avg10=1.25, some_avg60=0.5)]


def test_a_kernel_without_pressure_files_has_none(tmp_path: Path) -> None:
    assert read_pressure(tmp_path / "memory") is None


def test_a_kernel_started_without_pressure_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path, {"memory": ""})
    refuse(monkeypatch, tmp_path / "memory", errno.EOPNOTSUPP)
    assert read_pressure(tmp_path / "memory") is None


def test_another_failure_is_not_taken_for_absence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path, {"memory": ""})
    refuse(monkeypatch, tmp_path / "memory", errno.EACCES)
    with pytest.raises(PermissionError):
        read_pressure(tmp_path / "memory")


@pytest.mark.parametrize(
    "text", ["", "some avg10=0.00\n", "some\nfull\n", "some avg10=x avg60=0 total=0\nfull total=0\n"]
)
def test_what_is_no_pressure_is_said(text: str) -> None:
    with pytest.raises(ValueError, match=r"some|total|float"):
        parse_pressure(text)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has these files")
def test_the_real_kernel_agrees_with_the_format() -> None:
    path = Path("/proc/pressure/memory")
    if not path.exists():
        pytest.skip("this kernel has no /proc/pressure/memory")
    found = read_pressure(path)
    assert found is None or (found.some_us or 0) >= (found.full_us or 0) >= 0


microseconds = st.integers(min_value=0, max_value=(1 << 64) - 1)
shares = st.integers(min_value=0, max_value=10_000).map(lambda hundredths: hundredths / 100)


@given(microseconds, microseconds, shares, shares)
def test_numbers_round_trip(some: int, full: int, avg10: float, avg60: float) -> None:
    text = pressure_text(some=some, full=full, avg10=avg10, avg60=avg60)
    assert parse_pressure(text) == Pressure(some, full, avg10, avg60)


@given(st.text())
def test_any_text_is_understood_or_refused(text: str) -> None:
    try:
        parse_pressure(text)
    except ValueError:
        return
    assert "total" in text
