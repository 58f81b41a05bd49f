"""A tokenizer like Llama 2's: pieces with "▁" for a space, single bytes for all else, one space put before a text."""

import json
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers


def like_llama_2(tokens: int = 0) -> tokenizers.Tokenizer:
    """Make it; unused pieces fill the vocabulary up to `tokens`."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    for piece in ["▁", "a", "b", "▁a", "▁▁", "ab", ".", "é"]:
        vocabulary[piece] = len(vocabulary)
    while len(vocabulary) < tokens:
        vocabulary[f"unused{len(vocabulary)}"] = len(vocabulary)
    model = models.BPE(
        vocabulary, [("▁", "a"), ("▁", "▁"), ("a", "b")], unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def write_llama_2_like(folder: Path, tokens: int) -> None:
    """Write its files, with a chat template that only says what the user said."""
    like_llama_2(tokens).save(str(folder / "tokenizer.json"))
    settings = {
        "bos_token": {"content": "<s>"},
        "eos_token": {"content": "</s>"},
        "add_bos_token": True,
        "chat_template": "{{ bos_token }}{{ messages[-1].content }}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
