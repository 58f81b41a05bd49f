"""Runs our engine on request: `python -m bench.our_worker`, spoken to by `bench.worker`."""

import itertools
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bench.our_model import Kind, write_ensemble
from bench.our_swap import Sweep, give_back, paced_sweep, steady_sweep
from bench.prompts import prompt
from bench.scale import BenchShape
from bench.worker_loop import serve
from flexquant.engine.compute import choose_compute
from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.generation import Generation


class OurEngine:
    """One loaded model, and the sequences that are being continued."""

    def __init__(self) -> None:
        self._opened: ElasticModel | None = None
        self._running: list[Generation] = []
        self._prompts = itertools.count()
        """Numbers of prompts: none is given twice, because the engine keeps what it computed of earlier ones."""

    @property
    def _model(self) -> ElasticModel:
        if self._opened is None:
            raise RuntimeError("no model is open")
        return self._opened

    def about(self) -> dict[str, str]:
        """Which kernels compute on this machine, and versions."""
        return {"kernels": choose_compute().name, "torch": version("torch"), "version": version("flexquant")}

    def write(self, folder: str, shape: Mapping[str, Any], kind: Kind) -> None:
        """Write the ensemble unless it is there."""
        write_ensemble(Path(folder), BenchShape(**shape), kind)

    def open(self, folder: str, threads: int, kv_pages: int) -> dict[str, Any]:
        """Load the ensemble at its best position, KV pages of 16 bits."""
        self._opened = ElasticModel.load(
            Ensemble.open(Path(folder)),
            kv_pages=kv_pages,
            kv_dtype=np.float16,
            compute=choose_compute(threads=threads),
        )
        return {"footprints": self._model.footprints}

    def move(self, position: int) -> None:
        """Go there and wait until it is done."""
        moved = self._model.move_to(position)
        while not moved.done():
            self._model.safe_point()
        moved.result()

    def start(self, sequences: int, tokens: int, room: int) -> float:
        """Begin sequences, each with a prompt that no other had, one after the other up to its first token.

        Args:
            sequences: How many.
            tokens: Of each prompt.
            room: Tokens that `decode` will add at most.

        Returns:
            Seconds.
        """
        self.stop()
        vocab = self._model.config.vocab_size
        prompts = [prompt(next(self._prompts), tokens, vocab) for _ in range(sequences)]
        begun = time.perf_counter()
        for ids in prompts:
            generation = Generation(self._model, ids, max_tokens=room + 1, ignore_eos=True)
            self._running.append(generation)
            while not generation.generated:
                generation.step()
        return time.perf_counter() - begun

    def decode(self, tokens: int) -> list[float]:
        """Add `tokens` tokens to all sequences, all of them in one pass. Returns the seconds of every pass."""
        times = []
        for _ in range(tokens):
            begun = time.perf_counter()
            logits = self._model.forward([generation.next_segment() for generation in self._running])
            for generation, row in zip(self._running, logits, strict=True):
                generation.accept(row)
            times.append(time.perf_counter() - begun)
        return times

    def stop(self) -> None:
        """End all sequences."""
        while self._running:
            self._running.pop().close()

    def books(self) -> dict[str, int]:
        """Anonymous memory that the engine tells of, in bytes: `kv`, and `other`, all beside it."""
        books = self._model.resident_bytes()
        return {"kv": books.kv, "other": books.total - books.kv}

    def paced_sweep(self, last: int) -> Sweep:
        """See `our_swap`."""
        return paced_sweep(self._model, last)

    def steady_sweep(self, last: int) -> Sweep:
        """See `our_swap`."""
        return steady_sweep(self._model, last)

    def give_back(self, last: int) -> dict[str, float]:
        """See `our_swap`."""
        return give_back(self._model, last)


def main() -> None:
    """Serve until the bench closes the pipe."""
    engine = OurEngine()
    serve(
        {
            "about": engine.about,
            "write": engine.write,
            "open": engine.open,
            "move": engine.move,
            "start": engine.start,
            "decode": engine.decode,
            "stop": engine.stop,
            "books": engine.books,
            "paced_sweep": engine.paced_sweep,
            "steady_sweep": engine.steady_sweep,
            "give_back": engine.give_back,
        }
    )


if __name__ == "__main__":
    main()
