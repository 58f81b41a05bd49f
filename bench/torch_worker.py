"""Runs torch's own matrix products on request: `python -m bench.torch_worker`, spoken to by `bench.worker`."""

import time
from typing import Final

import torch
from torch import Tensor

from bench.worker_loop import serve

GROUP: Final = 32
_COPIES_BYTES: Final = 128 << 20
"""Weights that are gone through in turn, so that none is still in a cache."""
_INNER_K_TILES: Final = 2
"""A parameter of torch's packing that the CPU ignores."""


class Int4:
    """Layers of random weights in torch's packed form."""

    def __init__(self) -> None:
        self._layers: list[tuple[Tensor, Tensor, Tensor]] = []
        self._bytes = 0

    def open(self, shapes: list[tuple[int, int]], threads: int, least_bytes: int = _COPIES_BYTES) -> None:
        """Make copies of a decoder layer's matrices (inputs, outputs) until they take `least_bytes`."""
        torch.set_num_threads(threads)
        while self._bytes < least_bytes:
            for inputs, outputs in shapes:
                weight = torch.randint(0, 16, (outputs, inputs), dtype=torch.int32)
                packed = torch._convert_weight_to_int4pack_for_cpu(weight, _INNER_K_TILES)
                scales = torch.full((inputs // GROUP, outputs, 2), 0.01, dtype=torch.bfloat16)
                self._layers.append((torch.randn(1, inputs, dtype=torch.bfloat16), packed, scales))
                self._bytes += packed.nbytes + scales.nbytes

    def run(self, rounds: int) -> float:
        """Bytes of weights and scales per second, one row of activations."""
        with torch.inference_mode():
            begun = time.perf_counter()
            for _ in range(rounds):
                for x, packed, scales in self._layers:
                    torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, GROUP, scales)
            return rounds * self._bytes / (time.perf_counter() - begun)


class Dense:
    """A decoder layer's matrices in bfloat16, as if they had been dequantized already."""

    def __init__(self) -> None:
        self._products: list[tuple[Tensor, Tensor]] = []

    def open(self, shapes: list[tuple[int, int]], threads: int, tokens: int) -> None:
        """Make the matrices (inputs, outputs), and `tokens` rows of activations for each."""
        torch.set_num_threads(threads)
        for inputs, outputs in shapes:
            x, weight = (torch.randn(rows, inputs, dtype=torch.bfloat16) for rows in (tokens, outputs))
            self._products.append((x, weight))

    def run(self, rounds: int) -> float:
        """Multiplications and additions per second."""
        with torch.inference_mode():
            begun = time.perf_counter()
            for _ in range(rounds):
                for x, weight in self._products:
                    torch.nn.functional.linear(x, weight)
            seconds = time.perf_counter() - begun
        return rounds * sum(2 * len(x) * weight.numel() for x, weight in self._products) / seconds


def main() -> None:
    """Serve until the bench closes the pipe."""
    int4, dense = Int4(), Dense()
    serve({"open": int4.open, "run": int4.run, "open_dense": dense.open, "run_dense": dense.run})


if __name__ == "__main__":
    main()
