"""One sequence behind a long context: attention reads the cache beside the weights."""

from bench.row import Row
from bench.session import Session, decode_rate


def run(session: Session) -> list[Row]:
    """4 bits against llama.cpp, 16-bit keys and values on both sides.

    Both fill their cache once, by a real prefill, and go on from there: round by round the context grows on both sides
    by the same tokens.
    """
    scale = session.scale
    tokens = scale.rounds * scale.decode_tokens + scale.warm_tokens
    ours: list[float] = []
    theirs: list[float] = []
    filling: list[float] = []
    peer_filling: list[float] = []
    with session.ours() as (engine, _), session.peer(4, context=scale.context_tokens + tokens + 64) as peer:
        engine.ask("move", position=session.uniform_position(4))
        prompt = {"sequences": 1, "tokens": scale.context_tokens, "room": tokens}
        filling.append(scale.context_tokens / engine.ask("start", **prompt))
        engine.ask("decode", tokens=scale.warm_tokens)
        if peer is not None:
            peer_filling.append(scale.context_tokens / peer.worker.ask("start", **prompt))
            peer.worker.ask("decode", tokens=scale.warm_tokens)
        for _ in range(scale.rounds):
            ours.append(decode_rate(engine, scale.decode_tokens))
            if peer is not None:
                theirs.append(decode_rate(peer.worker, scale.decode_tokens))
    name = f"context, {scale.context_tokens} tokens, 4 bits"
    return [
        session.compare(f"{name}, decode", "tokens/s", ours, theirs, 4),
        session.compare(f"{name}, prefill of all of it, once", "tokens/s", filling, peer_filling, 4),
    ]
