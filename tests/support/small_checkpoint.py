"""An unquantized checkpoint that the real daemon builds into an ensemble in seconds."""

import shutil
from pathlib import Path

import numpy as np

from support.checkpoints import write_config, write_safetensors

DOCS_LLAMA = Path(__file__).parents[1] / "assets" / "docs-llama"
HIDDEN, VOCAB = 64, 4096


def small_checkpoint(folder: Path) -> Path:
    """Write a checkpoint of one layer of random weights, with the tokenizer of the demo model."""
    rng = np.random.default_rng(0)
    shapes = {
        "model.embed_tokens.weight": (VOCAB, HIDDEN),
        "model.layers.0.input_layernorm.weight": (HIDDEN,),
        "model.layers.0.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
        "model.layers.0.self_attn.k_proj.weight": (HIDDEN, HIDDEN),
        "model.layers.0.self_attn.v_proj.weight": (HIDDEN, HIDDEN),
        "model.layers.0.self_attn.o_proj.weight": (HIDDEN, HIDDEN),
        "model.layers.0.post_attention_layernorm.weight": (HIDDEN,),
        "model.layers.0.mlp.gate_proj.weight": (HIDDEN, HIDDEN),
        "model.layers.0.mlp.up_proj.weight": (HIDDEN, HIDDEN),
        "model.layers.0.mlp.down_proj.weight": (HIDDEN, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    write_config(
        folder,
        model_type="llama",
        hidden_size=HIDDEN,
        intermediate_size=HIDDEN,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        vocab_size=VOCAB,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    tensors = {
        name: np.ones(shape, np.float16) if len(shape) == 1 else (rng.normal(size=shape) / 8).astype(np.float16)
        for name, shape in shapes.items()
    }
    write_safetensors(folder / "model.safetensors", tensors)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DOCS_LLAMA / name, folder / name)
    return folder
