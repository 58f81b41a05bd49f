"""Runs torch's own 4-bit matrix product on request: `python -m bench.torch_worker`, spoken to by `bench.worker`."""

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


def main() -> None:
    """Serve until the bench closes the pipe."""
    int4 = Int4()
    serve({"open": int4.open, "run": int4.run})


if __name__ == "__main__":
    main()
