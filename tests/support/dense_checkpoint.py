"""Unquantized checkpoints of any small shape, with random weights, for whatever quantizes them."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from support.checkpoints import write_safetensors

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def dense_checkpoint(
    folder: Path,
    *,
    architecture: str = "llama",
    hidden: int = 64,
    intermediate: int = 96,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    vocab: int = 100,
    context: int = 256,
    tied: bool = False,
    dtype: str = "float16",
    seed: int = 0,
) -> Path:
    """Write a checkpoint; Qwen2 has random biases on q, k and v.

    Its tokenizer files are no tokenizer: they are there to be copied.
    """
    random = np.random.default_rng(seed)
    head_dim = hidden // heads
    tensors: dict[str, NDArray[np.generic]] = {}

    def normal(name: str, *shape: int, scale: float) -> None:
        tensors[name] = (scale * random.standard_normal(shape)).astype(dtype)

    def norm(name: str) -> None:
        tensors[name] = (1 + 0.1 * random.standard_normal(hidden)).astype(dtype)

    normal("model.embed_tokens.weight", vocab, hidden, scale=1.0)
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        outputs = {"q": hidden, "k": kv_heads * head_dim, "v": kv_heads * head_dim, "o": hidden}
        for name, rows in outputs.items():
            normal(f"{prefix}.self_attn.{name}_proj.weight", rows, hidden, scale=hidden**-0.5)
            if architecture == "qwen2" and name != "o":
                normal(f"{prefix}.self_attn.{name}_proj.bias", rows, scale=0.1)
        normal(f"{prefix}.mlp.gate_proj.weight", intermediate, hidden, scale=hidden**-0.5)
        normal(f"{prefix}.mlp.up_proj.weight", intermediate, hidden, scale=hidden**-0.5)
        normal(f"{prefix}.mlp.down_proj.weight", hidden, intermediate, scale=intermediate**-0.5)
        norm(f"{prefix}.input_layernorm.weight")
        norm(f"{prefix}.post_attention_layernorm.weight")
    norm("model.norm.weight")
    if not tied:
        normal("lm_head.weight", vocab, hidden, scale=4 * hidden**-0.5)
    folder.mkdir(parents=True)
    write_safetensors(folder / "model.safetensors", tensors)
    config = {
        "architectures": ["LlamaForCausalLM" if architecture == "llama" else "Qwen2ForCausalLM"],
        "model_type": architecture,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    for name in TOKENIZER_FILES:
        (folder / name).write_text(json.dumps({"name": name}))
    return folder
