"""An unquantized Hugging Face checkpoint that is built into an ensemble in a second: random weights, byte tokens."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from flexquant.engine.model_config import EMBEDDING, read_model_config
from support.checkpoints import write_config, write_safetensors
from support.tiny_model import RandomWeights

_FIELDS: dict[str, object] = {
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 288,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
FAMILIES: dict[str, dict[str, object]] = {
    "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
    "mistral": {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 96},
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "head_dim": 16,
        "tie_word_embeddings": True,
    },
    "phi3": {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "partial_rotary_factor": 0.75,
        "original_max_position_embeddings": 96,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.5, 2.0], "long_factor": [1.0, 4.0, 9.0]},
    },
}
"""What config.json says beyond the sizes: everything that sets a family apart is in use."""
FUSED = {
    **dict.fromkeys(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], "self_attn.qkv_proj"),
    **dict.fromkeys(["mlp.gate_proj", "mlp.up_proj"], "mlp.gate_up_proj"),
}
TEXT = "Pack my box with five dozen liquor jugs; how vexingly quick daft zebras jump! "


def tiny_checkpoint(folder: Path, *, family: str = "llama", seed: int = 0, **changes: object) -> Path:
    """Write a checkpoint of two layers and a context of 128 tokens or fewer.

    Args:
        folder: Created.
        family: One of FAMILIES; its checkpoints' own form, as transformers writes it.
        seed: Of the weights.
        changes: Fields of config.json that differ, from what the weights were made for, too.
    """
    fields = _FIELDS | FAMILIES[family]
    config = read_model_config(write_config(folder, fields))
    linears = [shape.key for shape in config.linears() if shape.layer is not None or not config.tied_head]
    made = {name: tensor.to(torch.float16).numpy() for name, tensor in RandomWeights(config, seed).tensors.items()}
    tensors = {name: made[name] for name in [EMBEDDING, *config.norms()]}
    tensors |= {f"{key}.weight": made[key] for key in linears}
    write_safetensors(folder / "model.safetensors", fused(tensors) if family == "phi3" else tensors)
    write_config(folder, fields, **changes)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={token: at for at, token in enumerate(["<s>", "</s>", *alphabet])}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(os.fspath(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    return folder


def fused(tensors: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    """A checkpoint's tensors with q, k and v in one, and gate and up, as Phi-3 has them."""
    found: dict[str, NDArray[np.generic]] = {}
    for name, tensor in tensors.items():
        for part, whole in FUSED.items():
            if name.endswith(f"{part}.weight"):
                name = name.replace(part, whole)
                tensor = np.concatenate([found[name], tensor]) if name in found else tensor
        found[name] = tensor
    return found


def write_texts(folder: Path) -> tuple[Path, Path]:
    """Write a calibration and a search text of a few windows each."""
    calibration, search = folder / "calibration.txt", folder / "search.txt"
    calibration.write_text(TEXT * 8)
    search.write_text(TEXT[::-1] * 4)
    return calibration, search
