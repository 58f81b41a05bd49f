"""A prompt, up to its first token: bound by arithmetic."""

import sys
from typing import Final

from bench.figures import Figure
from bench.row import Row
from bench.session import Session
from bench.suites.decode import layer_shapes
from bench.worker import Worker

_DENSE_ROUNDS: Final = 4


def run(session: Session) -> list[Row]:
    """4 and 8 bits against llama.cpp, and what dense products of dequantized weights could do at best."""
    scale = session.scale
    rows = []
    with session.ours() as (engine, _):
        for bits in (4, 8):
            engine.ask("move", position=session.uniform_position(bits))
            ours: list[float] = []
            theirs: list[float] = []
            with session.peer(bits) as peer:
                for number in range(1 + scale.prefill_rounds):
                    of_round = [scale.prefill_tokens / engine.ask("start", **_prompt(scale.prefill_tokens))]
                    engine.ask("stop")
                    if peer is not None:
                        of_round.append(
                            scale.prefill_tokens / peer.worker.ask("start", **_prompt(scale.prefill_tokens))
                        )
                    if number:  # the first round warms up
                        ours.append(of_round[0])
                        theirs += of_round[1:]
            rows.append(
                session.compare(f"prefill, {scale.prefill_tokens} tokens, {bits} bits", "tokens/s", ours, theirs, bits)
            )
    return [*rows, _dense(session, rows[0].ours)]


def _dense(session: Session, ours: Figure) -> Row:
    """The whole prefill's arithmetic against the linear layers alone in torch, where nothing is left to dequantize."""
    scale, shapes = session.scale, layer_shapes(session)
    with Worker(sys.executable, "bench.torch_worker", {"OMP_NUM_THREADS": str(session.threads)}) as worker:
        worker.ask("open_dense", shapes=shapes, threads=session.threads, tokens=scale.prefill_tokens)
        rates = [worker.ask("run_dense", rounds=_DENSE_ROUNDS) / 1e9 for _ in range(1 + scale.prefill_rounds)]
    per_token = 2 * scale.shape.layers * sum(inputs * outputs for inputs, outputs in shapes) / 1e9
    return Row(
        f"prefill, {scale.prefill_tokens} tokens, 4 bits, all of it, counted as its linear layers' arithmetic",
        "Gop/s",
        Figure(ours.median * per_token, ours.least * per_token, ours.most * per_token, ours.rounds),
        Figure.of(rates[1:]),
        "torch, bfloat16, the matrices of a layer alone, dequantized beforehand",
    )


def _prompt(tokens: int) -> dict[str, int]:
    return {"sequences": 1, "tokens": tokens, "room": 1}
