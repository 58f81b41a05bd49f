"""The reference: layers lie in arenas as they are on disk, and torch computes. Needs no compiler, and is slow."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from flexquant.engine.decoder import Decoder
from flexquant.engine.disk_layout import layout, size_bytes
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.kv_cache import KVCache
from flexquant.engine.layer_spec import LayerSpec
from flexquant.engine.memory.heap import map_large_blocks
from flexquant.engine.prefill import CHUNK_TOKENS
from flexquant.engine.residency import Residency
from flexquant.engine.segment import Floats, Segment
from flexquant.engine.swap import Swapper
from flexquant.engine.tensor_index import read_into
from flexquant.engine.torch_method import TORCH_METHODS
from flexquant.engine.torch_weights import TorchWeights


class TorchCompute:
    """Implements `Compute`.

    Args:
        threads: That compute, in the whole process.
    """

    name: Final = "torch"
    independent_rows: Final = False

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        map_large_blocks()

    def size_bytes(self, spec: LayerSpec) -> int:
        """See `Compute`."""
        return size_bytes(spec)

    def scratch(self, ensemble: Ensemble) -> Mapping[str, int]:
        """See `Compute`. Files are read straight into their arena, so there is no staging memory.

        `pass` holds what a layer keeps at its widest: eight rows of hidden states or queries and four of the MLP, the
        copy of its inputs that `linear` makes included.
        """
        config = ensemble.config
        widest = max(config.hidden_size, config.heads * config.head_dim)
        row = torch.float32.itemsize * (8 * widest + 4 * config.intermediate_size)
        scratch_bytes = TORCH_METHODS[ensemble.manifest.method].scratch_bytes
        return {
            "dequantize": max(scratch_bytes(shape.in_features) for shape in config.linears()),
            "pass": CHUNK_TOKENS * row,
        }

    def scratch_per_token(self, ensemble: Ensemble) -> int:
        """See `Compute`. Attention copies one layer's keys and values to float32, and makes a mask of its own type."""
        config = ensemble.config
        keys_and_values = 2 * config.kv_heads * config.head_dim * torch.float32.itemsize
        return keys_and_values + CHUNK_TOKENS * (torch.bool.itemsize + torch.float32.itemsize)

    def filler(self, ensemble: Ensemble, rest: Callable[[], None]) -> Callable[[LayerSpec, memoryview], None]:  # noqa: ARG002  # needs nothing of it
        """See `Compute`."""

        def fill(spec: LayerSpec, buffer: memoryview) -> None:
            for entry, offset in layout(spec):
                read_into(entry, buffer[offset : offset + entry.nbytes])
                rest()

        return fill

    def decoder(self, ensemble: Ensemble, residency: Residency, swapper: Swapper) -> "TorchDecoder":
        """See `Compute`."""
        return TorchDecoder(TorchWeights(ensemble, residency, swapper))


class TorchDecoder:
    """Implements `ElasticDecoder`."""

    def __init__(self, weights: TorchWeights) -> None:
        self._weights = weights
        self._decoder = Decoder(weights.config, weights)

    def forward(self, segments: Sequence[Segment], cache: KVCache, safe_point: Callable[[], None]) -> Floats:
        """See `ElasticDecoder`."""
        return self._decoder.forward(segments, cache, safe_point)

    def reconstruct(self, module: str) -> tuple[int, npt.NDArray[np.float16]]:
        """See `ElasticDecoder`."""
        variant, weights = self._weights.reconstruct(module)
        return variant, weights.numpy()
