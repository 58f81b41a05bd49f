"""What the decoder needs of a model's weights, and the plain forms: one whole store, kept in float32."""

from collections.abc import Collection, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from flexquant.engine.disk_layout import layout, size_bytes
from flexquant.engine.errors import CheckpointError
from flexquant.engine.exl2.dequantize import Exl2Matrix, dequantize, matrix_from
from flexquant.engine.exl2.spec import Exl2Spec, is_quantized, read_spec
from flexquant.engine.fused_projections import with_separate_projections
from flexquant.engine.mapped_embedding import MappedEmbedding
from flexquant.engine.model_config import EMBEDDING, HEAD, LinearShape, ModelConfig
from flexquant.engine.tensor_index import TensorEntry, TensorIndex, read_into
from flexquant.engine.torch_scratch import HOST
from flexquant.engine.torch_tensors import read_tensor


class Weights(Protocol):
    """Weights of one model. Results are new tensors, which the caller may overwrite, except for `norm`."""

    def embed(self, tokens: Tensor) -> Tensor:
        """Embed tokens: int64 [rows] -> f32 [rows, hidden]."""
        ...

    def norm(self, key: str) -> Tensor:
        """Return a norm's weight: f32 [hidden], or [head_dim] of the norms of heads."""
        ...

    def linear(self, key: str, x: Tensor) -> Tensor:
        """Apply a linear layer with its bias: f32 [rows, in_features] -> f32 [rows, out_features]."""
        ...


class DenseWeights:
    """An unquantized checkpoint. Tensors are read on first use and kept in float32; the embedding stays in its file.

    Args:
        index: The checkpoint's tensors.
        config: Its configuration.
        device: Where tensors are kept, and what is computed with them lies.

    Raises:
        CheckpointError: A tensor is missing or has another shape or type than the configuration says.
    """

    def __init__(self, index: TensorIndex, config: ModelConfig, device: torch.device = HOST) -> None:
        self._device = device
        self._index = with_separate_projections(index, config.linears())
        self._shapes = {shape.key: shape for shape in config.linears()}
        self._tied_head = config.tied_head
        self._kept: dict[str, Tensor] = {}
        _check(index[EMBEDDING], (config.vocab_size, config.hidden_size))
        self._embedding = MappedEmbedding(index[EMBEDDING])
        for name, length in config.norms().items():
            _check(index[name], (length,))
        for shape in self._shapes.values():
            self._check_linear(shape)

    @property
    def kept_bytes(self) -> int:
        """Bytes of the float32 copies made so far."""
        return sum(tensor.nbytes for tensor in self._kept.values())

    @property
    def mapped_bytes(self) -> int:
        """Bytes of the file-mapped embedding."""
        return self._embedding.mapped_bytes

    def embed(self, tokens: Tensor) -> Tensor:
        """See `Weights`."""
        return torch.from_numpy(self._embedding.rows(tokens.numpy())).to(self._device)

    def norm(self, key: str) -> Tensor:
        """See `Weights`."""
        return self._tensor(key)

    def linear(self, key: str, x: Tensor) -> Tensor:
        """See `Weights`."""
        return F.linear(x, self.weight(key), self.bias(key))

    def columns(self, key: str, x: Tensor, first: int, last: int) -> Tensor:
        """Compute outputs `first` to `last` of a linear layer: f32 [rows, in_features] -> f32 [rows, last - first]."""
        bias = self.bias(key)
        return F.linear(x, self.weight(key)[first:last], None if bias is None else bias[first:last])

    def weight(self, key: str) -> Tensor:
        """Return a linear layer's matrix: f32 [out_features, in_features]."""
        return self._tensor(self._weight_name(key))

    def bias(self, key: str) -> Tensor | None:
        """Return a linear layer's bias, f32 [out_features], if it has one."""
        shape = self._shapes[key]
        return self._tensor(f"{key}.bias")[: shape.out_features] if shape.bias else None

    def _check_linear(self, shape: LinearShape) -> None:
        _check(self._index[self._weight_name(shape.key)], (shape.out_features, shape.in_features))
        if shape.bias:
            _check(self._index[f"{shape.key}.bias"], (shape.out_features,))

    def _weight_name(self, key: str) -> str:
        # A tied head is the embedding, whatever else the file holds.
        return EMBEDDING if key == HEAD and self._tied_head else f"{key}.weight"

    def _tensor(self, name: str) -> Tensor:
        kept = self._kept.get(name)
        if kept is None:
            kept = self._kept[name] = read_tensor(self._index, name).to(self._device).float()
        return kept


class Exl2Weights(DenseWeights):
    """One EXL2 store. Its matrices are dequantized on first use and kept in float32; for measuring, not for serving.

    Layers that the store holds unquantized, and a tied head that it has no quantized form of, are read as such.

    Args:
        index: The store's tensors.
        config: Its configuration.
        absent: Keys of linear layers that the store does not have; they cannot be used.
        below: What the store's weights are added to, if it holds residuals; what it has none of is as below.
        device: See `DenseWeights`.

    Raises:
        CheckpointError: A tensor is missing, has another shape or type than the configuration says, or breaks a rule
            of the format.
    """

    def __init__(
        self,
        index: TensorIndex,
        config: ModelConfig,
        absent: Collection[str] = (),
        below: "Exl2Weights | None" = None,
        device: torch.device = HOST,
    ) -> None:
        self.specs: dict[str, Exl2Spec] = {}
        """Of the layers that the store holds quantized, by key."""
        self._absent = absent
        self._below = below
        super().__init__(index, config, device)

    def weight(self, key: str) -> Tensor:
        """Return a linear layer's matrix: f32 [out_features, in_features], inputs in the model's order."""
        if key in self._absent:
            if self._below is None:
                raise KeyError(key)
            return self._below.weight(key)
        if key not in self.specs:
            return super().weight(key)
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = self._dequantized(self.specs[key])
        return kept

    @property
    def kept_bytes(self) -> int:
        """See `DenseWeights`."""
        return super().kept_bytes + (0 if self._below is None else self._below.kept_bytes)

    def bias(self, key: str) -> Tensor | None:
        """See `DenseWeights`; residuals have none of their own."""
        return super().bias(key) if self._below is None else self._below.bias(key)

    def _check_linear(self, shape: LinearShape) -> None:
        if shape.key in self._absent:
            return
        if not is_quantized(self._index, shape.key):
            super()._check_linear(shape)
            return
        self.specs[shape.key] = read_spec(
            self._index,
            shape.key,
            in_features=shape.in_features,
            out_features=shape.out_features,
            bias=shape.bias,
            base=None if self._below is None else self._below.top(shape.key),
        )

    def top(self, key: str) -> Exl2Spec:
        """What the store has of a quantized layer; where it adds nothing to what lies below, that."""
        return self.specs[key] if self._below is None or key in self.specs else self._below.top(key)

    def _dequantized(self, spec: Exl2Spec) -> Tensor:
        packed_rows = dequantize(_read_matrix(spec, self._device))[:, : spec.out_features]
        weights = packed_rows[self.inverse_permutation(spec.key)].T.float()
        return weights if self._below is None else weights.add_(self._below.weight(spec.key))

    def inverse_permutation(self, key: str) -> Tensor:
        """Packed row of every input of a quantized layer: int64 [in_features]."""
        if self._below is not None:
            return self._below.inverse_permutation(key)
        return read_tensor(self._index, f"{key}.q_invperm").to(self._device).long()


def _read_matrix(spec: Exl2Spec, device: torch.device) -> Exl2Matrix:
    buffer = torch.empty(size_bytes(spec), dtype=torch.uint8)
    view = buffer.numpy().data
    for entry, offset in layout(spec):
        read_into(entry, view[offset : offset + entry.nbytes])
    return matrix_from(spec, buffer.to(device), 0)


def _check(entry: TensorEntry, shape: Sequence[int]) -> None:
    if entry.shape != tuple(shape) or entry.dtype not in ("F16", "BF16", "F32"):
        raise CheckpointError(
            f"{entry.file}: tensor {entry.name} is {entry.dtype} of shape {list(entry.shape)}; "
            f"config.json needs F16, BF16 or F32 of shape {list(shape)}"
        )
