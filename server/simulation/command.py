"""`flexquant-simulate`: runs the control law against load traces, and replays what daemons recorded."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from flexquant.engine.errors import FlexQuantError, InputError
from flexquant.server.controller.outlook import largest_step
from flexquant.server.controller.parameters import GIB, MIB, PROFILE_SCALE, Parameters
from flexquant.server.controller.trace import Dump, TickRow
from flexquant.server.settings import parse_size
from flexquant.server.simulation.load_trace import LoadTrace
from flexquant.server.simulation.outcome import Outcome, outcome_of, table
from flexquant.server.simulation.plant import Plant, Tick, even_footprints
from flexquant.server.simulation.replay import Replay, recorded_ticks, replay
from flexquant.server.simulation.text_plot import BLOCKS, PLAIN_BLOCKS, text_plot
from flexquant.server.simulation.trace_reader import read_trace

PROGRAM: Final = "flexquant-simulate"
DIFFERS: Final = 1
"""Exit code when a replay decides otherwise than the daemon did."""


@dataclass(frozen=True, slots=True)
class Run:
    """One model's run, simulated or recorded.

    Args:
        name: The trace, and which daemon.
        ticks: Of the run.
        footprints: Of the model.
        critical: Reserve of the machine.
        replay: What its replay gave; None for a simulated run.
    """

    name: str
    ticks: Sequence[Tick]
    footprints: Sequence[int]
    critical: int
    replay: Replay | None = None

    @property
    def outcome(self) -> Outcome:
        """In figures."""
        return outcome_of(self.ticks, self.footprints, self.critical)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    given = _parser().parse_args(arguments)
    try:
        runs = [run for path in given.traces for run in _runs(Path(path), given)]
    except FlexQuantError as error:
        sys.stderr.write(f"{PROGRAM}: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"hint: {error.hint}\n")
        return error.exit_code
    if given.json:
        sys.stdout.write(f"{json.dumps({'runs': [_as_json(run) for run in runs]}, indent=2)}\n")
    else:
        _print(runs)
    return DIFFERS if any(run.replay and run.replay.difference for run in runs) else 0


# Running -------------------------------------------------------------------------------------------------------


def _runs(path: Path, given: argparse.Namespace) -> Iterator[Run]:
    try:
        with path.open(encoding="utf-8") as lines:
            trace = read_trace(lines, path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if isinstance(trace, Dump):
        yield _replayed(path.name, trace)
    else:
        yield from _simulated(trace, given)


def _replayed(name: str, dump: Dump) -> Run:
    found = replay(dump)
    ticks = recorded_ticks(dump)
    if not ticks:
        raise InputError(f"{name}: no source of memory answered in the whole dump")
    parameters, footprints = dump.header.parameters, dump.header.footprints
    step = largest_step(footprints)
    critical = max(
        parameters.reserves(reading.total, shared=reading.shared, largest_step=step).critical
        for row in dump.rows
        if isinstance(row, TickRow)
        for reading in row.sample.memory
    )
    return Run(name, ticks, footprints, critical, found)


def _simulated(trace: LoadTrace, given: argparse.Namespace) -> Iterator[Run]:
    header = trace.header
    plant = Plant(
        trace.load,
        even_footprints(header.steps, header.up, header.low),
        replace(Parameters.from_flags(profile=given.profile), seed=given.seed),
        total=header.total,
        latency=given.latency,
        retention=given.retention,
        stalls=trace.stalls,
        lost=given.lost,
        noise=header.noise if given.noise is None else given.noise,
        seed=given.seed,
    )
    models = given.daemons or header.daemons
    runs = plant.run_together(models, min(given.seconds or header.seconds, header.seconds))
    for number, ticks in enumerate(runs, start=1):
        name = header.name if models == 1 else f"{header.name} {number}"
        yield Run(name, ticks, plant.footprints, plant.reserves.critical)


# Telling -------------------------------------------------------------------------------------------------------


def _print(runs: Sequence[Run]) -> None:
    for run in runs:
        sys.stdout.write(f"{_plots(run)}\n\n")
    sys.stdout.write(f"{table([(run.name, run.outcome) for run in runs])}\n")
    for run in runs:
        if run.replay is not None:
            sys.stdout.write(f"\n{run.name}: {_said(run.replay)}\n")


def _plots(run: Run) -> str:
    """Available memory and footprint over time."""
    try:
        BLOCKS.encode(sys.stdout.encoding or "ascii")
        blocks = BLOCKS
    except UnicodeEncodeError:
        blocks = PLAIN_BLOCKS
    free = [(tick.at, tick.available) for tick in run.ticks]
    held = [(tick.at, run.footprints[tick.position]) for tick in run.ticks]
    most = max(value for _, value in free)
    return "\n".join(
        [
            _plot(f"{run.name}: available (least of each column)", free, most, blocks),
            _plot("footprint", held, run.footprints[0], blocks),
        ]
    )


def _plot(title: str, points: Sequence[tuple[float, int]], most: int, blocks: str) -> str:
    """Bytes over time, in the unit that suits the largest."""
    unit, name = (GIB, "GiB") if most >= GIB else (MIB, "MiB")
    return text_plot(f"{title}, {name}", [(at, held / unit) for at, held in points], most / unit, blocks=blocks)


def _said(found: Replay) -> str:
    if found.difference is None:
        return f"replayed, {found.ticks} ticks decide the same"
    at = found.difference
    return (
        f"replayed, {found.ticks} ticks decide the same, then row {at.row} at {at.now:.3f} s does not\n"
        f"  {at.what}\n  recorded: {at.recorded}\n  replayed: {at.replayed}"
    )


def _as_json(run: Run) -> dict[str, Any]:
    outcome = run.outcome
    return {
        "trace": run.name,
        **asdict(outcome),
        "within_bound": outcome.kept,
        "replay": None if run.replay is None else asdict(run.replay),
    }


# Arguments -----------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Run the control law against load traces in closed loop, and replay what `flexquant doctor --dump` "
        "wrote. Exits with 1 when a replay decides otherwise than the daemon did.",
    )
    made.add_argument("traces", nargs="+", metavar="TRACE", help="a load trace or a dump (JSON Lines)")
    made.add_argument("--json", action="store_true", help="print JSON")
    loads = made.add_argument_group("for load traces; a dump has its own")
    loads.add_argument("--profile", choices=PROFILE_SCALE, default="balanced", help="how much is left to others")
    loads.add_argument(
        "--latency", type=_number(0, 60), default=0.05, metavar="S", help="seconds from an order to its first step"
    )
    loads.add_argument(
        "--retention", type=_number(0, 1), default=0.0, metavar="SHARE", help="of a release that stays until a trim"
    )
    loads.add_argument("--lost", type=_number(0, 1), default=0.0, metavar="SHARE", help="of samples without an answer")
    loads.add_argument("--noise", type=_size, metavar="SIZE", help="by which readings may be wrong, such as 20M")
    loads.add_argument("--seed", type=int, default=0, help="of noise, losses and cool-downs")
    loads.add_argument("--daemons", type=int, choices=(1, 2), help="models on the machine")
    loads.add_argument("--seconds", type=_number(1, 604_800), help="stop earlier")
    return made


def _number(least: float, most: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not between {least:g} and {most:g}")
        return value

    return number


def _size(text: str) -> int:
    try:
        size = parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    assert isinstance(size, int)
    return size


if __name__ == "__main__":
    sys.exit(main())
