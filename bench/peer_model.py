"""llama.cpp's model of the bench: a GGUF file of our shape with random Q4_0 or Q8_0 blocks.

Needs the package `gguf`. A model of random blocks costs as much time as a real one: no kernel looks at the values.
"""

import importlib
import math
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.scale import BenchShape

TYPES: Final = {4: "Q4_0", 8: "Q8_0"}
"""llama.cpp's type of a width: blocks of 32 weights with one 16-bit scale."""

_BLOCK: Final = 32
_CODE_BYTES: Final = {4: 16, 8: 32}
_SCALE_BYTES: Final = 2
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
"""Kinds of tokens in a GGUF vocabulary."""


def write_gguf(path: Path, shape: BenchShape, bits: int) -> None:
    """Write the file unless it is there already. It appears under its name when it is complete.

    Args:
        path: Of the file.
        shape: Of the model.
        bits: Of all layers and the head: 4 or 8. The embedding table is F16 and only looked up; norms are F32.
    """
    if path.exists():
        return
    gguf: Any = importlib.import_module("gguf")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    writer = gguf.GGUFWriter(unfinished, "llama")
    _add_settings(writer, shape)
    _add_vocabulary(writer, shape.vocab)
    rng = np.random.default_rng(0)
    kind = gguf.GGMLQuantizationType[TYPES[bits]]
    writer.add_tensor("token_embd.weight", rng.standard_normal((shape.vocab, shape.hidden)).astype(np.float16))
    for layer in range(shape.layers):
        for name, (inputs, outputs) in _linears(shape).items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", _blocks(rng, inputs, outputs, bits), raw_dtype=kind)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", _norm(rng, shape.hidden))
    writer.add_tensor("output_norm.weight", _norm(rng, shape.hidden))
    writer.add_tensor("output.weight", _blocks(rng, shape.hidden, shape.vocab, bits), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    unfinished.rename(path)


def _linears(shape: BenchShape) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of a layer's matrices."""
    key_value = shape.hidden // shape.heads * shape.kv_heads
    return {
        "attn_q": (shape.hidden, shape.hidden),
        "attn_k": (shape.hidden, key_value),
        "attn_v": (shape.hidden, key_value),
        "attn_output": (shape.hidden, shape.hidden),
        "ffn_gate": (shape.hidden, shape.intermediate),
        "ffn_up": (shape.hidden, shape.intermediate),
        "ffn_down": (shape.intermediate, shape.hidden),
    }


def _add_settings(writer: Any, shape: BenchShape) -> None:
    writer.add_name("random weights")
    writer.add_vocab_size(shape.vocab)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_rope_dimension_count(shape.hidden // shape.heads)
    writer.add_rope_freq_base(10_000.0)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)


def _add_vocabulary(writer: Any, vocab: int) -> None:
    """A SentencePiece vocabulary: three special tokens, 256 bytes, then pieces of printable text."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [_UNKNOWN, _CONTROL, _CONTROL] + [_BYTE] * 256
    pieces = vocab - len(tokens)
    tokens += [f"\N{LOWER ONE EIGHTH BLOCK}w{number}" for number in range(pieces)]
    kinds += [_NORMAL] * pieces
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(number) for number in range(vocab)])
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _norm(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    return (1 + 0.1 * rng.standard_normal(size)).astype(np.float32)


def _blocks(rng: np.random.Generator, inputs: int, outputs: int, bits: int) -> NDArray[np.uint8]:
    """Uniformly random codes with one scale, so that a product keeps the variance of its inputs: [outputs, bytes]."""
    size = _SCALE_BYTES + _CODE_BYTES[bits]
    blocks = np.frombuffer(bytearray(rng.bytes(outputs * inputs // _BLOCK * size)), np.uint8).reshape(outputs, -1, size)
    spread = 2**bits / math.sqrt(12)  # of uniform codes
    scale = np.array([1 / (spread * math.sqrt(inputs))], np.float16)
    blocks[..., :_SCALE_BYTES] = scale.view(np.uint8)
    return blocks.reshape(outputs, -1)
