"""A model without weights: the next token is a fixed function of those before. For tests of all above the engine.

It is a Backend and moves as ElasticModel does: positions change at safe points only.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np

from flexquant.engine.errors import KVExhaustedError
from flexquant.engine.kv_cache import KVSequence, pages_for
from flexquant.engine.memory.registry import MemorySnapshot, ModuleBytes
from flexquant.engine.model_config import read_model_config
from flexquant.engine.segment import Floats, Segment, Tokens, nothing

DOCS_LLAMA = Path(__file__).parents[1] / "assets" / "docs-llama"
"""The model whose shape and tokenizer the fake has."""
EOS = 1
LAYERS = 4
"""Safe points per pass."""
PAGE_BYTES = 1000
"""Promised for each KV page; none is ever mapped."""


def next_token(token: int, length: int) -> int:
    """What follows `token` as the last of `length`; ids below 64 (special tokens, control characters) never do."""
    return 64 + (token * 31 + length * 17) % 4000


class FakeModel:
    """Continues every prompt by `next_token`, at any position.

    Args:
        pages: KV pages that sequences may reserve.
    """

    def __init__(self, pages: int = 64) -> None:
        self.config = read_model_config(DOCS_LLAMA)
        self.footprints = [4000, 3000, 2000, 1000]
        self.position = 0
        self.target = 0
        self.drop_page_cache = False
        self.on_ready: Callable[[], None] = nothing
        self.on_published: Callable[[int], None] = lambda _position: None
        self.gate = threading.Event()
        """Cleared: passes wait before every layer until it is set."""
        self.gate.set()
        self.at_gate = threading.Event()
        """Set while the engine thread waits at the gate."""
        self.passes = 0
        self.rows: list[list[int]] = []
        """Of every pass, in the order in which they ended: new tokens of each sequence."""
        self.free_pages = pages
        self.fail: Exception | None = None
        """Raised by the next pass."""
        self.fail_at = 0
        """How many passes there have to be before."""
        self.budgets: list[float | None] = []
        """Of the moves that were ordered."""
        self.drops = 0
        """Orders to give back what is kept for later prompts."""
        self.trims = 0
        """Orders to give back what the file cache holds."""
        self.script: Sequence[int] | None = None
        """Tokens of every answer, before the end-of-sequence token; None for the fixed function."""
        self.promised_bytes = 0
        self.reusable_bytes = 0
        self._moves: list[Future[int]] = []
        self._prompts: dict[KVSequence, int] = {}

    def new_sequence(self, tokens: int, prompt: Tokens | None = None, *, exact: bool = False) -> KVSequence:
        del exact  # nothing is kept
        pages = pages_for(tokens)
        if pages > self.free_pages:
            raise KVExhaustedError(f"{pages} pages are needed, {self.free_pages} are free")
        self.free_pages -= pages
        self.promised_bytes += pages * PAGE_BYTES
        sequence = KVSequence(reserved_pages=pages)
        self._prompts[sequence] = 0 if prompt is None else len(prompt)
        return sequence

    def bytes_to_map(self, tokens: int, prompt: Tokens | None = None, *, exact: bool = False) -> int:
        del prompt, exact  # as above
        return pages_for(tokens) * PAGE_BYTES

    def keep(self, sequence: KVSequence, tokens: Tokens, prompt_tokens: int) -> None:
        """Nothing is kept, but the call is checked: it comes while the sequence lives."""
        assert sequence.length <= len(tokens) >= prompt_tokens

    def drop_reusable(self) -> None:
        self.drops += 1
        self.on_ready()

    def drop_file_cache(self) -> None:
        self.trims += 1

    def release(self, sequence: KVSequence) -> None:
        self.free_pages += sequence.reserved_pages
        self.promised_bytes -= sequence.reserved_pages * PAGE_BYTES
        sequence.reserved_pages = 0
        self._prompts.pop(sequence, None)

    def forward(self, segments: Sequence[Segment], safe_point: Callable[[], None] = nothing) -> Floats:
        logits = np.zeros((len(segments), self.config.vocab_size), np.float32)
        for _ in range(LAYERS):
            if not self.gate.is_set():
                self.at_gate.set()
                assert self.gate.wait(60)
                self.at_gate.clear()
            self.safe_point()
            safe_point()
        if self.fail is not None and self.passes >= self.fail_at:
            failure, self.fail = self.fail, None
            raise failure
        self.passes += 1
        self.rows.append([len(segment.tokens) for segment in segments])
        for row, segment in enumerate(segments):
            if segment.read is not None:
                every = np.zeros((len(segment.tokens), self.config.vocab_size), np.float32)
                for place, token in enumerate(segment.tokens.tolist()):
                    every[place, next_token(token, segment.sequence.length + place + 1)] = 50.0
                segment.read(segment.sequence.length, every)
            segment.sequence.length += len(segment.tokens)
            logits[row, self._next(int(segment.tokens[-1]), segment.sequence)] = 50.0
        return logits

    def _next(self, token: int, sequence: KVSequence) -> int:
        if self.script is None:
            return next_token(token, sequence.length)
        place = sequence.length - self._prompts[sequence]
        return EOS if place >= len(self.script) else self.script[max(place, 0)]

    def safe_point(self) -> None:
        if self.position != self.target:
            self.position += 1 if self.target > self.position else -1
            self.on_published(self.position)
            self.on_ready()
        if self.position == self.target:
            while self._moves:
                self._moves.pop().set_result(self.position)

    @property
    def moving(self) -> bool:
        return self.position != self.target

    def move_to(self, position: int, *, budget_s: float | None = None) -> Future[int]:
        self.budgets.append(budget_s)
        moved: Future[int] = Future()
        self._moves.append(moved)
        self.target = position
        self.on_ready()
        return moved

    def resident_bytes(self) -> MemorySnapshot:
        weights = self.footprints[self.position]
        return MemorySnapshot({"all": ModuleBytes(weights, weights)}, 0, 0, {}, 0, 0)
