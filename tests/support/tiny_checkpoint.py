"""An unquantized Hugging Face checkpoint that is built into an ensemble in a second: random weights, byte tokens."""

import json
import os
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from support.checkpoints import write_safetensors
from support.tiny_model import RandomWeights, tiny_config

TEXT = "Pack my box with five dozen liquor jugs; how vexingly quick daft zebras jump! "


def tiny_checkpoint(folder: Path, *, seed: int = 0, **changes: object) -> Path:
    """Write a checkpoint of two layers and a context of 128 tokens.

    Args:
        folder: Created.
        seed: Of the weights.
        changes: Fields of config.json that differ.
    """
    folder.mkdir(parents=True)
    config = tiny_config(vocab_size=288, intermediate_size=64, layers=2, context=128)
    linears = {shape.key for shape in config.linears()}
    weights = RandomWeights(config, seed)
    write_safetensors(
        folder / "model.safetensors",
        {
            f"{name}.weight" if name in linears else name: tensor.to(torch.float16).numpy()
            for name, tensor in weights.tensors.items()
        },
    )
    settings = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": config.architecture,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope.theta,
        "tie_word_embeddings": config.tied_head,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    (folder / "config.json").write_text(json.dumps(settings | changes))
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


def write_texts(folder: Path) -> tuple[Path, Path]:
    """Write a calibration and a search text of a few windows each."""
    calibration, search = folder / "calibration.txt", folder / "search.txt"
    calibration.write_text(TEXT * 8)
    search.write_text(TEXT[::-1] * 4)
    return calibration, search
