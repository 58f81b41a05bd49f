"""How much each weight matters: the diagonal of the Fisher information, as Any-Precision LLM and SqueezeLLM take it.

Of each window the gradient of its summed cross-entropy with respect to a weight is squared; the squares are summed over
the windows, in float32. The model is run backward layer by layer, each from its kept input, so memory holds one layer,
its sums and its gradients, and one window's activations.
"""

from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from flexquant.engine.attention import CausalAttention
from flexquant.engine.decoder import Decoder
from flexquant.engine.model_config import HEAD, ModelConfig
from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.weights import DenseWeights
from flexquant.ensemble_builder.store_writer import float16

LOGIT_BYTES: Final = 64 << 20
"""Size of a tile of logits; several live at once."""

Information = dict[str, Tensor]
"""By key of a linear layer: f32 [out_features, in_features]."""


class DifferentiableWeights:
    """Dense weights, of which autograd follows the linear layers' matrices. There is one such object per layer.

    Args:
        index: The checkpoint's tensors.
        config: Its configuration.
        keys: The linear layers whose matrices are followed.

    Raises:
        CheckpointError: A tensor is missing or has another shape or type than the configuration says, or a value is not
            finite in float16.
    """

    def __init__(self, index: TensorIndex, config: ModelConfig, keys: Sequence[str]) -> None:
        self._dense = DenseWeights(index, config)
        self.matrices = {key: self._dense.weight(key) for key in keys}
        """By key: f32 [out_features, in_features]."""
        for key, matrix in self.matrices.items():
            float16(matrix, f"{index.folder}: {key}")
            matrix.requires_grad_()

    def embed(self, tokens: Tensor) -> Tensor:
        """See `Weights`."""
        return self._dense.embed(tokens)

    def norm(self, key: str) -> Tensor:
        """See `Weights`."""
        return self._dense.norm(key)

    def linear(self, key: str, x: Tensor) -> Tensor:
        """See `Weights`."""
        return F.linear(x, self.matrices[key], self.bias(key))

    def bias(self, key: str) -> Tensor | None:
        """Return a linear layer's bias, f32 [out_features], if it has one."""
        return self._dense.bias(key)


def head_information(
    config: ModelConfig, weights: DifferentiableWeights, hidden: Tensor, tokens: Tensor
) -> tuple[Information, Tensor]:
    """Return the head's information, and the gradient with respect to its input.

    Args:
        config: The model's.
        weights: The head's.
        hidden: What the last layer puts out: f32 [windows, window, hidden].
        tokens: The text: int64 [windows, window]. All but the first of a window are predicted.

    Returns:
        Information, and f32 [windows, window, hidden].
    """
    decoder, matrix = Decoder(config, weights), weights.matrices[HEAD]
    found, gradient = torch.zeros_like(matrix, requires_grad=False), torch.zeros_like(hidden)
    rows = max(1, LOGIT_BYTES // (4 * config.vocab_size))
    for window, text in enumerate(tokens):
        of_window = torch.zeros_like(found)
        for start in range(0, len(text) - 1, rows):
            end = min(start + rows, len(text) - 1)
            inputs = hidden[window, start:end].clone().requires_grad_()
            loss = F.cross_entropy(decoder.logits(inputs), text[start + 1 : end + 1], reduction="sum")
            gradient[window, start:end], of_tile = torch.autograd.grad(loss, (inputs, matrix))
            of_window += of_tile
        found.addcmul_(of_window, of_window)
    return {HEAD: found}, gradient


def layer_information(
    config: ModelConfig, weights: DifferentiableWeights, layer: int, hidden: Tensor, gradient: Tensor
) -> tuple[Information, Tensor]:
    """Return the information of a layer's matrices, and the gradient with respect to the layer's input.

    Args:
        config: The model's.
        weights: The layer's.
        layer: Index of the layer.
        hidden: Its input: f32 [windows, window, hidden].
        gradient: With respect to its output: f32 [windows, window, hidden].

    Returns:
        Information, and f32 [windows, window, hidden].
    """
    decoder, matrices = Decoder(config, weights), weights.matrices
    found = {key: torch.zeros_like(matrix, requires_grad=False) for key, matrix in matrices.items()}
    before = torch.empty_like(gradient)
    positions, attend = torch.arange(hidden.shape[1]), CausalAttention(hidden.shape[1])
    for window, above in enumerate(gradient):
        inputs = hidden[window].clone().requires_grad_()
        output = decoder.layer(layer, inputs, positions, attend)
        before[window], *of_matrices = torch.autograd.grad(output, (inputs, *matrices.values()), above)
        for key, of_matrix in zip(matrices, of_matrices, strict=True):
            found[key].addcmul_(of_matrix, of_matrix)
    return found, before
