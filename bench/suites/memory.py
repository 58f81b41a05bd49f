"""What the daemon holds beyond what it tells: weights, KV pages and declared working memory."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from bench.figures import Figure
from bench.prompts import prompt
from bench.row import Row
from bench.server_process import ServerError, server
from bench.session import Session
from flexquant.engine.memory.process import anonymous_bytes

_BOUND: Final = 320 << 20
_ANSWER_TOKENS: Final = 8
_PROMPT_TOKENS: Final = 248
"""One pass together with the answer: the pages of all tokens are there from the pass's beginning to the end."""
_MIB: Final = 1 << 20
_SAMPLE_SECONDS: Final = 0.005


def run(session: Session) -> list[Row]:
    """RssAnon of the daemon after the start, and at its peak while it answers, each beyond the books."""
    position = session.uniform_position(4)
    with session.ours() as (engine, _):
        engine.ask("move", position=position)
        engine.ask("start", sequences=1, tokens=_PROMPT_TOKENS, room=_ANSWER_TOKENS)
        engine.ask("decode", tokens=_ANSWER_TOKENS)
        books = engine.ask("books")  # the daemon does not tell them, and the same model keeps the same ones
    request = {"max_tokens": 1, "temperature": 0, "ignore_eos": True}
    with server(session.daemon_command(position)) as started:
        started.first_token({**request, "prompt": [300], "max_tokens": _ANSWER_TOKENS})
        if started.get("/v1/elastic")["position"] != position:
            raise ServerError("the daemon is not at the position asked for: is memory short?")
        started.complete({**request, "prompt": [300], "max_tokens": _ANSWER_TOKENS})
        idle = anonymous_bytes(started.process.pid)
        ids = prompt(0, _PROMPT_TOKENS, session.scale.shape.vocab)
        with _peak(started.process.pid) as peak:
            started.complete({**request, "prompt": ids, "max_tokens": _ANSWER_TOKENS})
    return [
        _row("idle after a short answer", idle - books["other"]),
        _row(f"peak of a pass of {_PROMPT_TOKENS} tokens", peak[0] - books["other"] - books["kv"]),
    ]


@contextmanager
def _peak(pid: int) -> Iterator[list[int]]:
    """The most anonymous memory, in bytes, that a process is seen to hold inside the block: a list of one."""
    peak = [0]
    done = threading.Event()

    def look() -> None:
        while True:
            peak[0] = max(peak[0], anonymous_bytes(pid))
            if done.wait(_SAMPLE_SECONDS):
                return

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def _row(when: str, nbytes: int) -> Row:
    return Row(
        f"memory, daemon at 4 bits: RssAnon beyond weights, KV pages and declared scratch, {when}",
        "MiB",
        Figure.exact(nbytes / _MIB),
        Figure.exact(_BOUND / _MIB),
        "the bound",
        less_is_better=True,
    )
