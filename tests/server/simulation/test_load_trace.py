"""Load traces: straight lines between points, jumps, and the files of the repository."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexquant.server.controller.parameters import GIB
from flexquant.server.simulation.load_trace import LoadHeader, LoadPoint, LoadTrace, load_lines
from flexquant.server.simulation.named_loads import SECONDS, file_text, named_loads, write
from flexquant.server.simulation.trace_reader import read_trace

FOLDER = Path(__file__).parents[2] / "assets" / "traces"
TRACE = LoadTrace(
    LoadHeader("x", 20),
    (LoadPoint(2, 100), LoadPoint(4, 200, some=0.5), LoadPoint(4, 50), LoadPoint(8, 50), LoadPoint(8, 0)),
)


@pytest.mark.parametrize(
    ("at", "held"), [(0, 100), (2, 100), (3, 150), (3.9, 195), (4, 50), (6, 50), (7.99, 50), (8, 0), (99, 0)]
)
def test_between_points_the_load_goes_straight(at: float, held: float) -> None:
    assert TRACE.load(at) == pytest.approx(held)


def test_stalls_go_straight_too() -> None:
    assert TRACE.stalls(3) == (0.25, 0)
    assert TRACE.stalls(4) == (0, 0)


@given(
    points=st.lists(
        st.builds(LoadPoint, st.floats(0, 1e6), st.floats(0, 2**50), st.floats(0, 1), st.floats(0, 1)), min_size=1
    ),
    name=st.text(),
    noise=st.integers(0, 2**40),
)
def test_what_is_written_is_read_back(points: list[LoadPoint], name: str, noise: int) -> None:
    trace = LoadTrace(LoadHeader(name, 5.0, noise=noise), tuple(sorted(points, key=lambda point: point.at)))
    assert read_trace(load_lines(trace), "x") == trace


def test_the_files_are_what_the_generator_makes(tmp_path: Path) -> None:
    """A file that was changed by hand would no longer be what its name and the code say."""
    written = {path.name: path.read_bytes() for path in write(tmp_path)}
    assert written == {path.name: path.read_bytes() for path in FOLDER.iterdir()}


@pytest.mark.parametrize("name", named_loads())
def test_each_is_a_quarter_of_an_hour_of_a_machine_of_16_gib(name: str) -> None:
    trace = read_trace((FOLDER / f"{name}.jsonl").read_text(encoding="ascii").splitlines(), name)
    assert isinstance(trace, LoadTrace)
    header = trace.header
    assert (header.total, header.up, header.low, header.seconds) == (16 * GIB, 3 * GIB, 1 * GIB, SECONDS)
    assert trace.points[-1].at <= SECONDS
    assert len(file_text(trace)) < 16 << 10
    assert header.daemons == (2 if name == "two-daemons" else 1)
