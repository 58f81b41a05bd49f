"""Runs llama.cpp on request: `python -m bench.peer_worker`, spoken to by `bench.worker`.

Needs `llama-cpp-python` and `gguf`, and nothing of ours beside the bench.
"""

import ctypes
import importlib
import re
import time
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.peer_model import write_gguf
from bench.prompts import prompt
from bench.scale import BenchShape
from bench.worker_loop import serve

MICRO_BATCH: Final = 512
_F16: Final = 1
"""GGML_TYPE_F16, of keys and values."""
_REPACK: Final = re.compile(r"repack: repack tensor \S+ with (\S+)")
_FLASH: Final = re.compile(r"Flash Attention (enabled|disabled)|Flash Attention was auto, set to (enabled|disabled)")


class PeerEngine:
    """One model and one context of llama.cpp's C API, and the sequences that are being continued."""

    def __init__(self) -> None:
        # Only here, so that a worker without the package can say that it has none.
        self._api: Any = importlib.import_module("llama_cpp.llama_cpp")
        self._log: list[str] = []
        self._keep_log = self._api.llama_log_callback(self._hear)
        self._api.llama_log_set(self._keep_log, ctypes.c_void_p(0))
        self._api.llama_backend_init()
        self._context: Any = None
        self._batch: Any = None
        self._vocab = 0
        self._last: list[int] = []
        """By sequence: the token that the next pass appends."""
        self._length = 0
        """Tokens in the cache, of every sequence."""

    def about(self) -> dict[str, Any]:
        """Versions, and what the build can do."""
        return {
            "version": version("llama-cpp-python"),
            "gguf": version("gguf"),
            "build": self._api.llama_print_system_info().decode().strip(),
        }

    def write(self, path: str, shape: Mapping[str, Any], bits: int) -> None:
        """Write the model unless it is there."""
        write_gguf(Path(path), BenchShape(**shape), bits)

    def open(self, path: str, threads: int, sequences: int, context: int) -> dict[str, Any]:
        """Load a model with llama.cpp's defaults: repacking, mapped file, automatic flash attention.

        Args:
            path: Of the GGUF file.
            threads: For single tokens and for prompts.
            sequences: Most of them at a time.
            context: Most tokens of each.
        """
        api = self._api
        model = api.llama_model_load_from_file(path.encode(), api.llama_model_default_params())
        if not model:
            raise RuntimeError(f"{path} cannot be loaded: {' '.join(self._log[-3:])}")
        settings = api.llama_context_default_params()
        settings.n_ctx = context * sequences
        settings.n_seq_max = sequences
        settings.n_batch = settings.n_ubatch = MICRO_BATCH
        settings.n_threads = settings.n_threads_batch = threads
        settings.type_k = settings.type_v = _F16
        settings.no_perf = True
        self._context = api.llama_init_from_model(model, settings)
        if not self._context:
            raise RuntimeError(f"{path}: no context: {' '.join(self._log[-3:])}")
        self._batch = api.llama_batch_init(MICRO_BATCH, 0, 1)
        self._vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
        embedding = 2 * self._vocab * api.llama_model_n_embd(model)  # F16, looked up and not read through
        return {"weight_bytes": api.llama_model_size(model) - embedding, "told": self._told()}

    def _told(self) -> str:
        """What llama.cpp logged about its own choices."""
        repacked = Counter(found[1] for line in self._log if (found := _REPACK.search(line)))
        flash = [found[1] or found[2] for line in self._log if (found := _FLASH.search(line))]
        layouts = ", ".join(f"{count} tensors as {layout}" for layout, count in repacked.items())
        return f"repacked: {layouts or 'nothing'}; flash attention: {flash[-1] if flash else 'not told'}"

    def start(self, sequences: int, tokens: int, room: int) -> float:
        """As our worker's `start`; `room` has no meaning here."""
        del room
        self.stop()
        prompts = [prompt(number, tokens, self._vocab) for number in range(sequences)]
        begun = time.perf_counter()
        for sequence, ids in enumerate(prompts):
            for first in range(0, tokens, MICRO_BATCH):
                part = ids[first : first + MICRO_BATCH]
                rows = [(token, first + place, sequence) for place, token in enumerate(part)]
                self._run(rows, logits=[len(rows) - 1] if first + len(part) == tokens else [])
            self._last.append(self._likeliest(-1))
        self._length = tokens
        return time.perf_counter() - begun

    def decode(self, tokens: int) -> list[float]:
        """As our worker's `decode`."""
        times = []
        for _ in range(tokens):
            begun = time.perf_counter()
            rows = [(token, self._length, sequence) for sequence, token in enumerate(self._last)]
            self._run(rows, logits=range(len(rows)))
            self._last = [self._likeliest(row) for row in range(len(rows))]
            self._length += 1
            times.append(time.perf_counter() - begun)
        return times

    def stop(self) -> None:
        """End all sequences."""
        self._last = []
        self._length = 0
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), False)

    def _run(self, rows: list[tuple[int, int, int]], logits: range | list[int]) -> None:
        """One pass over rows (token, position, sequence); `logits` are the rows whose logits are wanted."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for row, (token, position, sequence) in enumerate(rows):
            batch.token[row] = token
            batch.pos[row] = position
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = sequence
            batch.logits[row] = row in logits
        code = self._api.llama_decode(self._context, batch)
        if code != 0:
            raise RuntimeError(f"llama_decode answers {code}")

    def _likeliest(self, row: int) -> int:
        logits = self._api.llama_get_logits_ith(self._context, row)
        return int(np.ctypeslib.as_array(logits, (self._vocab,)).argmax())

    def _hear(self, _level: int, text: bytes, _data: object) -> None:
        self._log.append(text.decode(errors="replace").strip())


def main() -> None:
    """Serve until the bench closes the pipe."""
    engine = PeerEngine()
    serve(
        {
            "about": engine.about,
            "write": engine.write,
            "open": engine.open,
            "start": engine.start,
            "decode": engine.decode,
            "stop": engine.stop,
        }
    )


if __name__ == "__main__":
    main()
