"""A prompt, up to its first token: bound by arithmetic."""

from bench.row import Row
from bench.session import Session


def run(session: Session) -> list[Row]:
    """4 and 8 bits against llama.cpp."""
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
    return rows


def _prompt(tokens: int) -> dict[str, int]:
    return {"sequences": 1, "tokens": tokens, "room": 1}
