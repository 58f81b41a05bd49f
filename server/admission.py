"""What a sequence needs before it begins: room in memory, then pages of the KV cache."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from flexquant.engine.errors import KVExhaustedError
from flexquant.engine.segment import Tokens
from flexquant.engine.tokenizer import Tokenizer
from flexquant.server.answer import Answer, PositionedBackend
from flexquant.server.api_error import ApiError, as_api_error
from flexquant.server.generation_request import GenerationRequest
from flexquant.server.memory_gate import MemoryGate


class AdmittingBackend(PositionedBackend, Protocol):
    """A backend that says beforehand what a sequence may take."""

    def bytes_to_map(self, tokens: int, prompt: Tokens | None = None, *, exact: bool = False) -> int:
        """KV bytes that `new_sequence` with the same arguments would promise; nothing changes."""
        ...


@dataclass(frozen=True, slots=True)
class Held:
    """A sequence does not begin now.

    Args:
        error: What its request is answered with when nothing runs that would free what it lacks; None: it waits for
            memory, which others give back.
    """

    error: ApiError | None

    def end(self, *, alone: bool) -> ApiError | None:
        """Why it has to end, with nothing running if `alone`; None when it can wait."""
        return self.error if alone else None


class Admission:
    """Begins answers. Engine thread only.

    Args:
        model: Where sequences are reserved.
        tokenizer: Turns tokens into text.
        gate: Knows how much memory may be promised.
    """

    def __init__(self, model: AdmittingBackend, tokenizer: Tokenizer, gate: MemoryGate) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._gate = gate
        self._asked: tuple[GenerationRequest, Tokens] | None = None  # who waits asks before every pass

    def begin(self, request: GenerationRequest) -> Answer | Held:
        """Reserve what the answer to `request` needs, or take nothing."""
        if self._asked is None or self._asked[0] is not request:
            self._asked = request, np.array(request.prompt, np.int64)
        known = None if request.scores_prompt else self._asked[1]
        needed = self._model.bytes_to_map(request.most_tokens, known, exact=request.exact)
        try:
            if not self._gate.admit(needed):
                return Held(None)
        except ApiError as error:
            return Held(error)
        try:
            answer = Answer(request, self._model, self._tokenizer)
        except KVExhaustedError as error:
            self._gate.take_back(needed)
            return Held(as_api_error(error))
        self._gate.reserved()
        self._asked = None
        return answer
