"""Projections that a checkpoint holds in one matrix, as the separate ones that everything else knows.

Phi-3 keeps the rows of q, k and v below each other in `self_attn.qkv_proj.weight`, and those of gate and up in
`mlp.gate_up_proj.weight`. EXL2 stores have them apart, ours as exllamav2's.
"""

from collections.abc import Iterable
from itertools import groupby
from typing import Final

from flexquant.engine.errors import CheckpointError
from flexquant.engine.model_config import LinearShape
from flexquant.engine.tensor_index import TensorEntry, TensorIndex

_FUSED: Final = {
    "self_attn.q_proj": "self_attn.qkv_proj",
    "self_attn.k_proj": "self_attn.qkv_proj",
    "self_attn.v_proj": "self_attn.qkv_proj",
    "mlp.gate_proj": "mlp.gate_up_proj",
    "mlp.up_proj": "mlp.gate_up_proj",
}


def with_separate_projections(index: TensorIndex, linears: Iterable[LinearShape]) -> TensorIndex:
    """Return the checkpoint's tensors, fused ones replaced by their parts; where none is fused, as they are.

    Args:
        index: The checkpoint's tensors.
        linears: All linear layers of the model, in the order of the forward pass.

    Raises:
        CheckpointError: A fused tensor has another shape than its parts make together.
    """
    parts: dict[str, list[TensorEntry]] = {}
    for name, shapes in groupby(linears, key=lambda shape: _fused_name(shape.key)):
        if name is not None and name in index:
            parts[name] = list(_split(index[name], list(shapes)))
    return index.replacing(parts) if parts else index


def _fused_name(key: str) -> str | None:
    for separate, fused in _FUSED.items():
        if key.endswith(separate):
            return f"{key.removesuffix(separate)}{fused}.weight"
    return None


def _split(entry: TensorEntry, shapes: list[LinearShape]) -> Iterable[TensorEntry]:
    expected = (sum(shape.out_features for shape in shapes), shapes[0].in_features)
    if entry.shape != expected:
        together = ", ".join(shape.key.rsplit(".", 1)[-1] for shape in shapes)
        raise CheckpointError(
            f"{entry.file}: tensor {entry.name} is of shape {list(entry.shape)}; config.json makes {together} together "
            f"{list(expected)}"
        )
    first = 0
    for shape in shapes:
        yield entry.rows(f"{shape.key}.weight", first, first + shape.out_features)
        first += shape.out_features
