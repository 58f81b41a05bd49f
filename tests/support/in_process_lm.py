"""A model of lm-evaluation-harness that scores texts in this process: no HTTP, no server, no scoring code of ours.

It takes the logits of every token from the engine; log-probabilities are torch's.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.prefill import chunks
from flexquant.engine.prefix_cache import PAGE_TOKENS
from flexquant.engine.segment import Floats, Segment
from flexquant.engine.tokenizer import Tokenizer

Request = tuple[tuple[str, str] | None, list[int], list[int]]
"""Texts, and the tokens of a context and of what is scored behind it."""


class InProcessLM(TemplateLM):  # type: ignore[misc]  # lm_eval is untyped where types are checked
    """An ensemble at position 0.

    Args:
        folder: Of the ensemble.
        window: Most tokens that a text is scored with at a time.
    """

    def __init__(self, folder: Path, window: int) -> None:
        super().__init__()
        ensemble = Ensemble.open(folder)
        self._model = ElasticModel.load(ensemble, kv_pages=-(-window // PAGE_TOKENS))
        self._tokens = Tokenizer.open(ensemble.tokenizer_folder)
        self._window = window

    @property
    def eot_token_id(self) -> int:
        """What a text without a context follows."""
        assert self._tokens.bos_id is not None
        return self._tokens.bos_id

    def tok_encode(self, string: str, **_: Any) -> list[int]:
        """Tokens of a text, without any for its beginning."""
        return self._tokens.encode(string, bos=False)

    def _loglikelihood_tokens(self, requests: Sequence[Request], **_: Any) -> list[tuple[float, bool]]:
        return [self._score(context, continuation) for _, context, continuation in requests]

    def loglikelihood_rolling(self, requests: Sequence[Instance], **_: Any) -> list[float]:
        """Log-likelihood of whole texts, in windows."""
        return [self._score_text(*request.args) for request in requests]

    def generate_until(self, requests: Sequence[Instance], **_: Any) -> list[str]:
        """No task here asks for it."""
        raise NotImplementedError

    def close(self) -> None:
        """Give the model's memory back."""
        self._model.close()

    def _score_text(self, text: str) -> float:
        windows = get_rolling_token_windows(
            self.tok_encode(text), self.prefix_token_id, self._window - 1, context_len=1
        )
        return sum(self._score(*make_disjoint_window(window))[0] for window in windows)

    def _score(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        """Log-likelihood of `continuation` behind `context`, and whether greedy decoding would say the same."""
        tokens = (context + continuation)[-self._window :]
        logs = torch.from_numpy(self._logits(tokens)).double().log_softmax(dim=-1)[-len(continuation) - 1 : -1]
        targets = torch.tensor(continuation)
        return float(logs.gather(1, targets[:, None]).sum()), bool((logs.argmax(dim=1) == targets).all())

    def _logits(self, tokens: list[int]) -> Floats:
        """After each of `tokens`: f32 [tokens, vocab]."""
        found: list[Floats] = []

        def read(_position: int, logits: Floats) -> None:
            found.append(logits.copy())

        ids = np.array(tokens, np.int64)
        sequence = self._model.new_sequence(len(tokens))
        try:
            for chunk in chunks(0, len(tokens)):
                self._model.forward([Segment(sequence, ids[chunk.start : chunk.stop], read)])
        finally:
            self._model.release(sequence)
        return np.concatenate(found)
