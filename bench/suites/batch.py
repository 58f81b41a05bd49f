"""Several sequences, one token each per pass."""

from bench.row import Row
from bench.session import Session, tokens_per_second


def run(session: Session) -> list[Row]:
    """4 and 8 bits against llama.cpp with as many sequences in one batch; tokens of all sequences count."""
    scale = session.scale
    rows = []
    with session.ours() as (engine, _):
        for bits in (4, 8):
            engine.ask("move", position=session.uniform_position(bits))
            ours: list[float] = []
            theirs: list[float] = []
            with session.peer(bits, sequences=scale.batch_sequences, context=256) as peer:
                for _ in range(scale.rounds):
                    ours.append(tokens_per_second(engine, scale, sequences=scale.batch_sequences))
                    engine.ask("stop")
                    if peer is not None:
                        theirs.append(tokens_per_second(peer.worker, scale, sequences=scale.batch_sequences))
            name = f"batch, {scale.batch_sequences} sequences together, {bits} bits"
            rows.append(session.compare(name, "tokens/s", ours, theirs, bits))
    return rows
