"""One sequence, one token at a time: bound by reading the weights."""

import sys
from collections.abc import Sequence
from typing import Final

from bench.figures import Figure, spread_positions, worst_deviation
from bench.read_bandwidth import read_bandwidth
from bench.row import Row
from bench.scale import BITS
from bench.session import Session, tokens_per_second
from bench.worker import Worker

_GB: Final = 1e9
_INT4_ROUNDS: Final = 10


def run(session: Session) -> list[Row]:
    """Widths against llama.cpp, memory bandwidth, torch and each other; time against footprint."""
    scale = session.scale
    ours: dict[int, list[float]] = {bits: [] for bits in BITS}
    theirs: dict[int, list[float]] = {4: [], 8: []}
    bandwidth: list[float] = []
    int4: list[float] = []
    with (
        session.ours() as (engine, footprints),
        session.peer(4) as q4,
        session.peer(8) as q8,
        Worker(sys.executable, "bench.torch_worker", {"OMP_NUM_THREADS": str(session.threads)}) as torch_worker,
    ):
        peers = {4: q4, 8: q8}
        torch_worker.ask("open", shapes=layer_shapes(session), threads=session.threads)
        for _ in range(scale.rounds):
            for bits in BITS:
                engine.ask("move", position=session.uniform_position(bits))
                ours[bits].append(tokens_per_second(engine, scale))
                peer = peers.get(bits)
                if peer is not None:
                    theirs[bits].append(tokens_per_second(peer.worker, scale))
            engine.ask("stop")
            bandwidth += [max(read_bandwidth(scale.calibration_bytes, session.threads)) / _GB]
            int4.append(torch_worker.ask("run", rounds=_INT4_ROUNDS) / _GB)
        read = {bits: footprints[session.uniform_position(bits)] / _GB for bits in BITS}
        rows = []
        for bits, peer in peers.items():
            rows.append(session.compare(f"decode, {bits} bits", "tokens/s", ours[bits], theirs[bits], bits))
            peer_read = 0.0 if peer is None else peer.weight_bytes / _GB
            rows.append(
                session.compare(
                    f"decode, {bits} bits, weights read",
                    "GB/s",
                    _scaled(ours[bits], read[bits]),
                    _scaled(theirs[bits], peer_read),
                    bits,
                )
            )
        reading = Figure.of(_scaled(ours[4], read[4]))
        rows += [
            Row("decode, 4 bits, weights read", "GB/s", reading, Figure.of(bandwidth), "read bandwidth of the machine"),
            Row(
                "decode, 4 bits, weights read",
                "GB/s",
                reading,
                Figure.of(int4),
                "torch _weight_int4pack_mm_for_cpu, one row, the matrices of a layer alone",
            ),
        ]
        rows += [
            Row(f"decode, {bits} bits", "tokens/s", Figure.of(ours[bits]), Figure.of(ours[4]), "FlexQuant, 4 bits")
            for bits in (3, 2)
        ]
        for bits in (4, 2):
            rows.append(_straightness(session, engine, footprints, session.uniform_position(bits), bits))
    return rows


def _straightness(session: Session, engine: Worker, footprints: Sequence[int], last: int, bits: int) -> Row:
    """How far the time per token is from a straight line in footprint, between position 0 and `last`."""
    scale = session.scale
    positions = spread_positions(last, scale.positions)
    seconds: dict[int, list[float]] = {position: [] for position in positions}
    for number in range(scale.rounds):
        for position in positions if number % 2 == 0 else reversed(positions):
            engine.ask("move", position=position)
            seconds[position].append(1 / tokens_per_second(engine, scale))
    engine.ask("stop")
    medians = [Figure.of(seconds[position]).median for position in positions]
    deviation = 100 * worst_deviation([footprints[position] for position in positions], medians)
    return Row(
        f"decode, {len(positions)} positions from 8 to {bits} bits, time per token off a straight line in footprint",
        "% at most",
        Figure.exact(deviation),
        None,
        "line of least squares through the medians",
        less_is_better=True,
    )


def layer_shapes(session: Session) -> list[tuple[int, int]]:
    """Inputs and outputs of a decoder layer's matrices."""
    shape = session.scale.shape
    key_value = shape.hidden // shape.heads * shape.kv_heads
    attention = [(shape.hidden, shape.hidden)] * 2 + [(shape.hidden, key_value)] * 2
    return attention + [(shape.hidden, shape.intermediate)] * 2 + [(shape.intermediate, shape.hidden)]


def _scaled(samples: Sequence[float], factor: float) -> list[float]:
    return [factor * sample for sample in samples]
