"""Our model on the card and on the CPU, and exllamav2 by itself, asked in the same way."""

import gc
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from flexquant.engine.compute import choose_compute
from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.exllamav2.compute import CardCompute
from flexquant.engine.exllamav2.open import card_compute
from flexquant.engine.kv_cache import KVSequence, pages_for
from flexquant.engine.manifest import assignment
from flexquant.engine.prefill import CHUNK_TOKENS
from flexquant.engine.segment import Floats, Segment

Tokens = npt.NDArray[np.int64]


@contextmanager
def on_card(
    ensemble: Ensemble, *, tokens: int, position: int = 0, sequence: str | None = None, keep_copies: bool = False
) -> Iterator[tuple[ElasticModel, CardCompute]]:
    """Our model on the card, with room for so many tokens of all sequences."""
    compute = card_compute(keep_copies=keep_copies)
    model = ElasticModel.load(
        ensemble,
        position=position,
        sequence=sequence,
        kv_pages=pages_for(tokens),
        compute=compute,
        placement=compute.placement(ensemble),
    )
    try:
        yield model, compute
    finally:
        model.close()


@contextmanager
def on_cpu(ensemble: Ensemble, *, tokens: int, position: int = 0) -> Iterator[ElasticModel]:
    """Our model on the CPU, by plain torch in float32: the reference."""
    model = ElasticModel.load(
        ensemble, position=position, kv_pages=pages_for(tokens), compute=choose_compute("torch", None)
    )
    try:
        yield model
    finally:
        model.close()


def settle(model: ElasticModel, position: int) -> None:
    """Go there with nothing else to do."""
    done = model.move_to(position)
    while not done.done():
        model.safe_point()
    if done.result() != position:
        raise RuntimeError(f"the model went to {done.result()}, not to {position}")


def prompt_logits(model: ElasticModel, tokens: Tokens, single: int) -> Floats:
    """Logits after the first tokens, put in as a prompt, and after each of `single` further ones."""
    sequence = model.new_sequence(len(tokens))
    try:
        prompt = len(tokens) - single
        for first in range(0, prompt, CHUNK_TOKENS):
            found = model.forward([Segment(sequence, tokens[first : min(prompt, first + CHUNK_TOKENS)])])
        rows = [found[0]]
        rows += [model.forward([Segment(sequence, tokens[at : at + 1])])[0] for at in range(prompt, len(tokens))]
        return np.stack(rows)
    finally:
        model.release(sequence)


def greedy(model: ElasticModel, prompt: Tokens, count: int) -> list[int]:
    """So many most likely tokens behind a prompt."""
    sequence = model.new_sequence(len(prompt) + count)
    try:
        return decode(model, sequence, prompt, count)
    finally:
        model.release(sequence)


def decode(model: ElasticModel, sequence: KVSequence, begin: Tokens, count: int) -> list[int]:
    """Append `begin`, and then the most likely tokens one by one; returns these."""
    found: list[int] = []
    tokens = begin
    for _ in range(count):
        found.append(int(model.forward([Segment(sequence, tokens)])[0].argmax()))
        tokens = np.array(found[-1:], np.int64)
    return found


class PlainExllama:
    """exllamav2 by itself, on the stores that our model has at a position.

    Args:
        ensemble: Whose.
        position: Of its sequence; where levels are mixed, every tensor comes from the file that has its variant.
        tokens: Of the cache.
        causal: Use the attention of exllamav2 that masks a prompt; the other one is the faster one for single tokens.
    """

    def __init__(
        self, ensemble: Ensemble, *, position: int, tokens: int, causal: bool, sequence: str | None = None
    ) -> None:
        import torch

        exllama: Any = importlib.import_module("exllamav2")  # late, and without types

        torch.backends.cuda.enable_cudnn_sdp(False)  # as ours does: with it exllamav2 takes 5 ms more per layer
        config = exllama.ExLlamaV2Config(str(ensemble.common.folder))
        config.no_sdpa = causal
        config.max_seq_len = tokens
        self._torch = torch
        for module, variant in assignment(
            ensemble.manifest, sequence or ensemble.manifest.default_sequence, position
        ).items():
            for entry in ensemble.specs[module][variant].entries.values():
                config.tensor_file_map[entry.name] = str(entry.file)
        self._model: Any = exllama.ExLlamaV2(config)
        self._model.load()
        self._cache: Any = exllama.ExLlamaV2Cache(self._model, max_seq_len=tokens)

    def restart(self) -> None:
        """Begin a new sequence."""
        self._cache.current_seq_len = 0

    def forward(self, tokens: Sequence[int] | Tokens) -> Floats:
        """Append tokens; logits after the last one: f32 [vocab]."""
        ids = self._torch.tensor(np.asarray(tokens)[None])
        logits = self._model.forward(ids, self._cache, last_id_only=True)
        found: Floats = logits[0, -1].float().cpu().numpy()
        return found

    def close(self) -> None:
        """Give the card's memory back."""
        self._model.unload()
        self._model = self._cache = None
        gc.collect()
        self._torch.cuda.empty_cache()
