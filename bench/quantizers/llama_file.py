"""A checkpoint as llama.cpp's converter writes it: a GGUF file, unquantized, for llama.cpp's quantizer.

Needs the package `gguf`. The file has no vocabulary and no rope scaling: the quantizer looks at neither.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.quantizers.package import package
from flexquant.engine.errors import UnsupportedModelError
from flexquant.engine.model_config import EMBEDDING, FINAL_NORM, HEAD, ModelConfig, input_norm, post_norm
from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.torch_tensors import read_tensor

_ARCHITECTURES: Final = ("llama", "qwen2")
"""Whose names here and there are the same."""
_TURNED: Final = ("llama",)
"""Architectures in which llama.cpp rotates neighbouring features of a head, not the two halves of it."""
_PROJECTIONS: Final = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(key: str) -> str:
    """llama.cpp's name of a decoder linear's matrix."""
    _, _, layer, projection = key.split(".", 3)
    return f"blk.{layer}.{_PROJECTIONS[projection]}.weight"


def turned_heads(config: ModelConfig, key: str) -> int | None:
    """Heads whose rows llama.cpp has in another order, of the linear `key`; None where the order is ours."""
    if config.architecture not in _TURNED:
        return None
    return {"q_proj": config.heads, "k_proj": config.kv_heads}.get(key.rsplit(".", 1)[-1])


def to_neighbours(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """Bring features that are rotated together, half a head apart, next to each other: [outputs, ...] -> the same."""
    halves = rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def to_halves(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """The inverse of `to_neighbours`."""
    pairs = rows.reshape(heads, len(rows) // heads // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def write_llama_file(path: Path, index: TensorIndex, config: ModelConfig) -> None:
    """Write the file, one tensor in memory at a time. Nothing is rounded: float16 stays, other types become float32.

    Args:
        path: Of the file.
        index: The checkpoint's tensors.
        config: Its configuration.

    Raises:
        CheckpointError: A tensor is missing or cannot be read.
        UnsupportedModelError: The file would need another name for the architecture, or tensors that it does not get.
        FlexQuantError: The package `gguf` is missing.
    """
    if config.architecture not in _ARCHITECTURES:
        raise UnsupportedModelError(
            f"{index.folder}: models of the architecture {config.architecture} cannot be compared with llama.cpp's",
            hint=f"These can: {', '.join(_ARCHITECTURES)}.",
        )
    writer = package("gguf").GGUFWriter(path, config.architecture)
    _add_settings(writer, config)
    names = list(_tensors(config))
    for name, source, _ in names:
        entry = index[source]
        kind = _stored_type(entry.dtype, len(entry.shape))
        writer.add_tensor_info(name, entry.shape, kind, int(np.prod(entry.shape)) * kind.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, source, heads in names:
        entry = index[source]
        values = read_tensor(index, source).float().numpy().astype(_stored_type(entry.dtype, len(entry.shape)))
        writer.write_tensor_data(np.ascontiguousarray(values if heads is None else to_neighbours(values, heads)))
    writer.close()


def _tensors(config: ModelConfig) -> Iterator[tuple[str, str, int | None]]:
    """(name, name in the checkpoint, heads whose rows change places) of every tensor. Biases are never quantized."""
    yield "token_embd.weight", EMBEDDING, None
    for layer in range(config.layers):
        yield f"blk.{layer}.attn_norm.weight", input_norm(layer), None
        yield f"blk.{layer}.ffn_norm.weight", post_norm(layer), None
    for shape in config.linears():
        if shape.layer is not None:
            yield gguf_name(shape.key), f"{shape.key}.weight", turned_heads(config, shape.key)
    yield "output_norm.weight", FINAL_NORM, None
    if not config.tied_head:
        yield "output.weight", f"{HEAD}.weight", None


def _stored_type(dtype: str, dimensions: int) -> np.dtype[Any]:
    """Norms are always float32 in such files."""
    return np.dtype(np.float16 if dtype == "F16" and dimensions > 1 else np.float32)


def _add_settings(writer: Any, config: ModelConfig) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope.theta)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_tokenizer_model("none")
