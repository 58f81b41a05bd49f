"""The nested model beside the one of two stores: decode at both ends, and what moving takes."""

from collections.abc import Callable
from typing import Final

from bench.figures import Figure
from bench.row import Row
from bench.scale import NESTED_BITS
from bench.session import Session, tokens_per_second
from bench.suites.swap import Sweeps

_ROUNDS: Final = 5
_MIB: Final = 1 << 20
Move = dict[str, float]
"""See `our_swap.give_back`."""


def run(session: Session) -> list[Row]:
    """Both models take turns; the nested one's sweeps are beside the same tokens when nothing moves."""
    last = session.uniform_position(4)
    speeds: dict[tuple[bool, int], list[float]] = {
        (nested, bits): [] for nested in (False, True) for bits in NESTED_BITS
    }
    moves: dict[bool, list[Move]] = {False: [], True: []}
    sweeps = Sweeps()
    with session.ours() as (pair, _), session.ours("nested") as (nested, _):
        workers = {False: pair, True: nested}
        for worker in workers.values():
            worker.ask("give_back", last=last)  # brings the files into the page cache, and the code into memory
        for _ in range(session.scale.rounds):
            for bits in NESTED_BITS:
                for kind, worker in workers.items():
                    worker.ask("move", position=session.uniform_position(bits))
                    speeds[kind, bits].append(tokens_per_second(worker, session.scale))
            for worker in workers.values():
                worker.ask("stop")
                worker.ask("move", position=0)
        for _ in range(_ROUNDS):
            for kind, worker in workers.items():
                moves[kind].append(worker.ask("give_back", last=last))
        for _ in range(session.scale.sweeps):
            sweeps.add(nested, last)
    return [
        *(
            Row(
                f"nested, decode, {bits} bits",
                "tokens/s",
                Figure.of(speeds[True, bits]),
                Figure.of(speeds[False, bits]),
                "two stores",
            )
            for bits in NESTED_BITS
        ),
        _moved("given back", "GB/s", moves, lambda move: move["freed"] / move["down"] / 1e9),
        _moved("taken again", "GB/s", moves, lambda move: move["freed"] / move["up"] / 1e9),
        _moved("read on the way down", "MB", moves, lambda move: move["read_down"] / 1e6, less=True),
        _moved("read on the way up", "MB", moves, lambda move: move["read_up"] / 1e6, less=True),
        _moved(
            "anonymous memory above that before, on the way down", "MiB", moves, lambda m: m["risen"] / _MIB, less=True
        ),
        *sweeps.rows("nested", f"{session.scale.sweeps} sweeps 0 to {last} to 0"),
    ]


def _moved(
    what: str, unit: str, moves: dict[bool, list[Move]], figure: Callable[[Move], float], *, less: bool = False
) -> Row:
    ours, theirs = (Figure.of([figure(move) for move in moves[nested]]) for nested in (True, False))
    return Row(f"nested, unpaced, files in the page cache: {what}", unit, ours, theirs, "two stores", less)
