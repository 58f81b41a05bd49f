"""llama.cpp's importance matrix: the mean square of every input of every decoder linear on the calibration text."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from bench.quantizers.llama_file import gguf_name
from flexquant.engine.decoder import Decoder
from flexquant.engine.model_config import HEAD, ModelConfig
from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.weights import DenseWeights
from flexquant.ensemble_builder.bounded_weights import BoundedWeights
from flexquant.ensemble_builder.evaluation import Windows, final_hidden


def write_importance(path: Path, index: TensorIndex, config: ModelConfig, calibration: Windows) -> None:
    """Run the unquantized model over a text and write an .npz file for `llama_worker`.

    Args:
        path: Of the file.
        index: The checkpoint's tensors.
        config: Its configuration.
        calibration: The text.
    """
    sums: dict[str, Tensor] = {}
    final_hidden(Decoder(config, BoundedWeights(lambda: _Watched(index, config, sums))), calibration)
    tokens = calibration.tokens.numel()
    means: dict[str, Any] = {gguf_name(key): (total / tokens).float().numpy() for key, total in sums.items()}
    np.savez(path, **means)


class _Watched(DenseWeights):
    """Adds up the squares of what goes into the decoder linears, by key, f64 [in_features]."""

    def __init__(self, index: TensorIndex, config: ModelConfig, sums: dict[str, Tensor]) -> None:
        super().__init__(index, config)
        self._sums = sums

    def linear(self, key: str, x: Tensor) -> Tensor:
        """See `Weights`."""
        if key != HEAD:
            total = x.double().square().sum(dim=0)
            self._sums[key] = self._sums[key] + total if key in self._sums else total
        return super().linear(key, x)
