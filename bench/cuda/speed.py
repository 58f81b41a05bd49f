"""Tokens per second, ours beside exllamav2 by itself on the same stores, in turns."""

import time
from typing import Any, Final

import numpy as np

from bench.cuda.answers import sample
from bench.cuda.models import PlainExllama, decode, on_card
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.segment import Segment

_WARM: Final = 260
"""Tokens before the timed ones: exllamav2 captures its CUDA graphs in the 205th pass of a kind."""


def decoding(ensemble: Ensemble, *, rounds: int, tokens: int, prompt: int = 16) -> list[dict[str, Any]]:
    """One stream of most likely tokens, at both ends of the sequence and in the middle of it."""
    last = len(ensemble.sequence().transitions)
    begin = sample(0, prompt, ensemble)
    room = prompt + _WARM + tokens * rounds + 8
    found = []
    for position in (0, last // 2, last):
        plain = PlainExllama(ensemble, position=position, tokens=-(-room // 256) * 256, causal=False)
        with on_card(ensemble, tokens=room, position=position) as (model, _):
            sequence = model.new_sequence(room)
            ours_last = decode(model, sequence, begin, _WARM)[-1]
            plain.forward(begin)
            theirs_last = _decode_plain(plain, 1, _WARM)
            ours, theirs = [], []
            for _ in range(rounds):
                at = time.perf_counter()
                ours_last = decode(model, sequence, np.array([ours_last]), tokens)[-1]
                ours.append(tokens / (time.perf_counter() - at))
                at = time.perf_counter()
                theirs_last = _decode_plain(plain, theirs_last, tokens)
                theirs.append(tokens / (time.perf_counter() - at))
            model.release(sequence)
        plain.close()
        ratio = float(np.median(ours) / np.median(theirs))
        found.append({"position": position, "ours": ours, "plain": theirs, "ratio": ratio, "ok": ratio >= 0.97})
    return found


def _decode_plain(plain: PlainExllama, token: int, count: int) -> int:
    for _ in range(count):
        token = int(plain.forward([token]).argmax())
    return token


def streams(ensemble: Ensemble, *, counts: tuple[int, ...], tokens: int) -> list[dict[str, Any]]:
    """Tokens per second of several streams together; exllamav2 by itself has no batches without flash-attn."""
    found = []
    with on_card(ensemble, tokens=1024 * max(counts)) as (model, _):
        for count in counts:
            sequences = [model.new_sequence(64 + 2 * tokens) for _ in range(count)]
            for number, sequence in enumerate(sequences):
                model.forward([Segment(sequence, sample(number, 16, ensemble))])
            following = np.full(1, 9, np.int64)
            speeds = []
            for _ in range(2):  # the first round warms up
                at = time.perf_counter()
                for _ in range(tokens):
                    model.forward([Segment(sequence, following) for sequence in sequences])
                speeds.append(count * tokens / (time.perf_counter() - at))
            for sequence in sequences:
                model.release(sequence)
            found.append({"streams": count, "tokens_per_s": speeds[-1]})
    return found


def prefilling(ensemble: Ensemble, *, tokens: int, rounds: int) -> dict[str, Any]:
    """A prompt, in our chunks; exllamav2 takes it at once, with its causal attention."""
    prompt = sample(3, tokens, ensemble)
    plain = PlainExllama(ensemble, position=0, tokens=-(-tokens // 256) * 256 + 256, causal=True)
    ours, theirs = [], []
    with on_card(ensemble, tokens=tokens + 64) as (model, _):
        for _ in range(rounds + 1):  # the first round warms up
            sequence = model.new_sequence(tokens + 1)
            at = time.perf_counter()
            for first in range(0, tokens, 256):
                model.forward([Segment(sequence, prompt[first : first + 256])])
            ours.append(tokens / (time.perf_counter() - at))
            model.release(sequence)
            plain.restart()
            at = time.perf_counter()
            plain.forward(prompt)
            theirs.append(tokens / (time.perf_counter() - at))
    plain.close()
    return {"tokens": tokens, "ours": ours[1:], "plain": theirs[1:]}
