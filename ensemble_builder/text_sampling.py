"""Text that a model makes up: calibration and search without any data (Liu et al., arXiv 2305.17888, LLM-QAT).

Sequences start with BOS, follow the model's own probabilities (temperature 1), and run side by side in lockstep. A
sequence that ends starts the next document.
"""

from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from flexquant.engine.decoder import Decoder
from flexquant.engine.errors import InputError
from flexquant.engine.model_config import ModelConfig, read_model_config
from flexquant.engine.tokenizer import Tokenizer
from flexquant.engine.torch_scratch import HOST
from flexquant.ensemble_builder.device import has_room
from flexquant.ensemble_builder.progress import Progress, Stage
from flexquant.ensemble_builder.single_thread import worthwhile_threads
from flexquant.ensemble_builder.stores import model_weights, parameter_count

LENGTH: Final = 1024
"""Tokens of a sequence, unless the model's context is shorter."""
MOST_SEQUENCES: Final = 64
CACHE_BYTES: Final = 1 << 30
"""Most memory for keys and values."""
SEPARATOR: Final = "\n\n"
"""Between documents."""


def sample_text(
    model: Path, tokens: int, seed: int, progress: Progress, name: str = "text", *, device: str = "cpu"
) -> str:
    """Let a model write.

    Args:
        model: Folder of a model, with its tokenizer; see `model_weights`.
        tokens: The text has at least so many, counted by the tokenizer.
        seed: The same seed gives the same text on the same device.
        progress: Is told about the tokens.
        name: What the text is, for who watches.
        device: Where the model runs, by torch's name; a model that a card has no room for in float32 runs on the host.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        InputError: The model has no token that a text starts with.
    """
    config = read_model_config(model)
    start = config.bos_id if config.bos_id is not None else next(iter(config.eos_ids), None)
    if start is None:
        raise InputError(f"{model}: the model has neither BOS nor EOS to start a text with", hint="Give a text file.")
    tokenizer = Tokenizer.open(model)
    where = _roomy(torch.device(device), config, progress)
    decoder = Decoder(config, model_weights(model, where))
    length = min(LENGTH, config.context)
    most = max(1, min(MOST_SEQUENCES, CACHE_BYTES // (length * _token_bytes(config))))
    generator = torch.Generator().manual_seed(seed)
    documents: list[str] = []
    text, counted = "", 0
    threads = worthwhile_threads(config.hidden_size * config.intermediate_size)
    with threads, progress.stage(f"sampling {name}, tokens", tokens) as stage:
        while counted < tokens:
            sequences = min(most, -(-(tokens - counted) // length))
            for row in sample_tokens(decoder, start, sequences, length, generator, stage, where).tolist():
                documents += [tokenizer.decode(document) for document in split_documents(row, start)]
            text = SEPARATOR.join(document for document in documents if document)
            counted = len(tokenizer.encode(text, bos=False))
    return text


@torch.inference_mode()
def sample_tokens(
    decoder: Decoder,
    start: int,
    sequences: int,
    length: int,
    generator: torch.Generator,
    stage: Stage,
    device: torch.device = HOST,
) -> Tensor:
    """Sample sequences: int64 [sequences, length], each beginning with `start`, as does each further document."""
    config = decoder.config
    attend = LockstepAttention(config, sequences, length, device)
    tokens = torch.full((sequences, length), start)
    ends = torch.tensor([token for token in config.eos_ids if token != start], dtype=torch.int64)
    for at in range(length - 1):
        hidden = decoder.weights.embed(tokens[:, at])
        attend.position = at
        for layer in range(config.layers):
            hidden = decoder.layer(layer, hidden, torch.full((sequences,), at), attend)
        probabilities = decoder.logits(hidden).softmax(dim=-1).cpu()
        sampled = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
        tokens[:, at + 1] = torch.where(torch.isin(tokens[:, at], ends), start, sampled)
        stage.advance(sequences)
    return tokens


def split_documents(tokens: list[int], start: int) -> list[list[int]]:
    """Split a sequence at every `start`, which is left out."""
    documents: list[list[int]] = []
    for token in tokens:
        if token == start:
            documents.append([])
        else:
            documents[-1].append(token)
    return documents


class LockstepAttention:
    """Attention of sequences that are all at the same position: a row per sequence and pass.

    Args:
        config: The model's.
        sequences: Number of sequences.
        length: Most tokens of each.
        device: Where keys and values are kept.
    """

    def __init__(self, config: ModelConfig, sequences: int, length: int, device: torch.device = HOST) -> None:
        self._shared = config.heads // config.kv_heads
        shape = (config.layers, 2, sequences, config.kv_heads, length, config.head_dim)
        self._past = torch.empty(shape, device=device)
        self.position = 0

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `Attend`."""
        past = self._past[layer]
        past[0, :, :, self.position], past[1, :, :, self.position] = k, v
        keys, values = past[:, :, :, : self.position + 1]
        heads = q.view(len(q), -1, self._shared, q.shape[-1])  # [sequences, kv_heads, heads sharing a key, head_dim]
        return F.scaled_dot_product_attention(heads, keys, values).flatten(1)


def _roomy(device: torch.device, config: ModelConfig, progress: Progress) -> torch.device:
    """The device, or the host where the device cannot keep the whole model."""
    needed = 4 * parameter_count(config) + CACHE_BYTES
    if has_room(device, needed):
        return device
    progress.note(f"the GPU has no room for {needed / 1e9:.1f} GB, so the model writes its text on the CPU")
    return HOST


def _token_bytes(config: ModelConfig) -> int:
    """Bytes of one token's keys and values in float32."""
    return config.layers * 2 * config.kv_heads * config.head_dim * 4
