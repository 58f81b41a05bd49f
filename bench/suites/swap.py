"""What moving costs the reader, and how fast memory comes back."""

from typing import Final

from bench.figures import Figure, by_key, over_baseline, percentile
from bench.row import Row
from bench.session import Session
from bench.worker import Worker

_SHARE: Final = 0.99
_FASTEST_ROUNDS: Final = 5
_SAME: Final = "the same positions, nothing moves"
Samples = list[tuple[int, float]]
"""(position, seconds) of every token."""


def run(session: Session) -> list[Row]:
    """Sweeps from 8 to 4 bits and back, at most one step per token, beside the same positions when nothing moves."""
    last = session.uniform_position(4)
    sweeps = Sweeps()
    with session.ours() as (engine, _):
        engine.ask("give_back", last=last)  # brings the files into the page cache, and the code into memory
        for _ in range(session.scale.sweeps):
            sweeps.add(engine, last)
        moves = [engine.ask("give_back", last=last) for _ in range(_FASTEST_ROUNDS)]
    return [
        *sweeps.rows("swap", f"{session.scale.sweeps} sweeps 0 to {last} to 0 (8 to 4 bits)"),
        _speed("given back", last, [move["freed"] / move["down"] for move in moves]),
        _speed("taken again, 4 to 8 bits", last, [move["freed"] / move["up"] for move in moves]),
    ]


class Sweeps:
    """Tokens of sweeps, one step at a time, and tokens at the same positions when nothing moves."""

    def __init__(self) -> None:
        self._paced: dict[str, Samples] = {"down": [], "up": []}
        self._steady: dict[str, Samples] = {"down": [], "up": []}

    def add(self, worker: Worker, last: int) -> None:
        """Make one of each between 0 and `last`."""
        for samples, kind in ((self._paced, "paced_sweep"), (self._steady, "steady_sweep")):
            found: dict[str, Samples] = worker.ask(kind, last=last)
            for way, tokens in found.items():
                samples[way] += tokens

    def rows(self, suite: str, what: str) -> list[Row]:
        """Of both ways together, then of each."""
        both = _pauses(
            f"{suite}, {what}, {len(self._paced['down'])} tokens down and {len(self._paced['up'])} up",
            [*self._paced["down"], *self._paced["up"]],
            [*self._steady["down"], *self._steady["up"]],
        )
        ways = [_p99(f"{suite}, the way {way}", self._paced[way], self._steady[way]) for way in ("down", "up")]
        return [*both, *ways]


def _pauses(sweeps: str, paced: Samples, steady: Samples) -> list[Row]:
    """Times between tokens in sweeps, beside the same tokens when nothing moves."""
    milliseconds = {"paced": [1000 * value for _, value in paced], "steady": [1000 * value for _, value in steady]}
    baseline = {position: Figure.of(values).median for position, values in by_key(steady).items()}
    relative = percentile(over_baseline(paced, baseline), _SHARE)
    steady_relative = percentile(over_baseline(steady, baseline), _SHARE)
    return [
        _p99(sweeps, paced, steady),
        Row(
            f"{sweeps}: time between tokens, median",
            "ms",
            Figure.exact(percentile(milliseconds["paced"], 0.5)),
            Figure.exact(percentile(milliseconds["steady"], 0.5)),
            _SAME,
            less_is_better=True,
        ),
        Row(
            f"{sweeps}: each token over the steady median at its position, p99",
            "times",
            Figure.exact(relative),
            Figure.exact(steady_relative),
            _SAME,
            less_is_better=True,
        ),
    ]


def _p99(sweeps: str, paced: Samples, steady: Samples) -> Row:
    seconds = [percentile([value for _, value in samples], _SHARE) for samples in (paced, steady)]
    return Row(
        f"{sweeps}: time between tokens, p99",
        "ms",
        Figure.exact(1000 * seconds[0]),
        Figure.exact(1000 * seconds[1]),
        _SAME,
        less_is_better=True,
    )


def _speed(what: str, last: int, rates: list[float]) -> Row:
    return Row(
        f"swap, 0 to {last} unpaced, files in the page cache: {what}",
        "MB/s",
        Figure.of([rate / 1e6 for rate in rates]),
        None,
        "nothing: no peer resizes a live model",
    )
