"""Any-Precision beside EXL2 at the same bits: decode at every width, and what moving takes, a bit of a layer a step."""

from collections.abc import Callable
from typing import Final

from bench.figures import Figure
from bench.row import Row
from bench.scale import PLANE_BITS
from bench.session import Session, tokens_per_second
from bench.suites.nested import Move
from bench.suites.swap import Samples, pauses

_ROUNDS: Final = 5
_SHORTER: Final = 5
"""Sweeps of so many times the steps of other suites: so many times fewer of them."""
_MIB: Final = 1 << 20


def run(session: Session) -> list[Row]:
    """Both models take turns; sweeps are beside the same tokens when nothing moves."""
    linears = session.scale.shape.linears
    last = (len(PLANE_BITS) - 1) * linears
    speeds: dict[tuple[bool, int], list[float]] = {
        (planes, bits): [] for planes in (False, True) for bits in PLANE_BITS
    }
    moves: dict[bool, list[Move]] = {False: [], True: []}
    paced: Samples = []
    steady: Samples = []
    with session.ours("stores of planes") as (stores, widths), session.ours("planes") as (planes, footprints):
        workers = {False: stores, True: planes}
        for worker in workers.values():
            worker.ask("give_back", last=last)  # brings the files into the page cache, and the code into memory
        for _ in range(session.scale.rounds):
            for level, bits in enumerate(PLANE_BITS):
                for kind, worker in workers.items():
                    worker.ask("move", position=level * linears)
                    speeds[kind, bits].append(tokens_per_second(worker, session.scale))
        for worker in workers.values():
            worker.ask("stop")
            worker.ask("move", position=0)
        for _ in range(_ROUNDS):
            for kind, worker in workers.items():
                moves[kind].append(worker.ask("give_back", last=last))
        sweeps = max(1, session.scale.sweeps // _SHORTER)
        for _ in range(sweeps):
            paced += planes.ask("paced_sweep", last=last)
            steady += planes.ask("steady_sweep", last=last)
    ends = f"{PLANE_BITS[0]} to {PLANE_BITS[-1]} bits"

    def moved(what: str, unit: str, figure: Callable[[Move], float], *, less: bool = False) -> Row:
        ours, theirs = (Figure.of([figure(move) for move in moves[kind]]) for kind in (True, False))
        name = f"any-precision, {ends}, unpaced, files in the page cache: {what}"
        return Row(name, unit, ours, theirs, "EXL2 of the same bits", less)

    told = f"{sweeps} sweeps 0 to {last} to 0 ({ends}), {len(paced)} tokens, one step per token"
    return [
        *(
            Row(
                f"any-precision, decode, {bits} bits",
                "tokens/s",
                Figure.of(speeds[True, bits]),
                Figure.of(speeds[False, bits]),
                "EXL2 of the same bits",
            )
            for bits in PLANE_BITS
        ),
        *(
            Row(
                f"any-precision, footprint, {bits} bits",
                "MB",
                Figure.exact(footprints[level * linears] / 1e6),
                Figure.exact(widths[level * linears] / 1e6),
                "EXL2 of the same bits",
                less_is_better=True,
            )
            for level, bits in enumerate(PLANE_BITS)
        ),
        moved("given back", "GB/s", lambda move: move["freed"] / move["down"] / 1e9),
        moved("taken again", "GB/s", lambda move: move["freed"] / move["up"] / 1e9),
        moved("read on the way down", "MB", lambda move: move["read_down"] / 1e6, less=True),
        moved("read on the way up", "MB", lambda move: move["read_up"] / 1e6, less=True),
        moved(
            "anonymous memory above that before, on the way down", "MiB", lambda move: move["risen"] / _MIB, less=True
        ),
        *pauses(f"any-precision, {told}", paced, steady),
    ]
