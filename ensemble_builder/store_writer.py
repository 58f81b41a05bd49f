"""Writing a level; in EXL2 it is a checkpoint that exllamav2 loads by itself.

Layout of a store: `common.safetensors` (embedding and norms, the same in all stores and hard-linked between them),
`quantized.safetensors`, `config.json` with a `quantization_config`, and the files of the tokenizer.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from flexquant.engine.errors import CheckpointError
from flexquant.engine.manifest import Text
from flexquant.engine.model_config import EMBEDDING, RESIDUAL_METHOD, ModelConfig
from flexquant.engine.tensor_index import TensorEntry, TensorIndex
from flexquant.engine.torch_tensors import read_tensor
from flexquant.ensemble_builder.atomic_file import cannot_write, replacing, sync_folder, write_atomically
from flexquant.ensemble_builder.bit_allocation import head_bits
from flexquant.ensemble_builder.safetensors_file import write_safetensors

COMMON_NAME: Final = "common.safetensors"
QUANTIZED_NAME: Final = "quantized.safetensors"
FORMAT_VERSION: Final = "0.3.2"
"""The exllamav2 release whose format is written."""
COPIED_FILES: Final = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""Copied as they are where the checkpoint has them."""


def common_tensors(index: TensorIndex, config: ModelConfig) -> dict[str, Tensor]:
    """Return the embedding and the norms in float16, as exllamav2's converter writes them.

    Raises:
        CheckpointError: A tensor is missing or has values that are not finite in float16.
    """
    return {
        name: float16(read_tensor(index, name), f"{index[name].file}: {name}") for name in (EMBEDDING, *config.norms())
    }


def float16(tensor: Tensor, name: str) -> Tensor:
    """Return a tensor in float16.

    Raises:
        CheckpointError: It has values that are not finite in float16; the message starts with `name`.
    """
    half = tensor.half()
    if not torch.isfinite(half).all():
        raise CheckpointError(
            f"{name} has values that are not finite in float16", hint="The checkpoint may be damaged."
        )
    return half


def write_store(
    folder: Path,
    checkpoint: Path,
    *,
    common: Mapping[str, Tensor] | Path,
    quantized: Mapping[str, TensorEntry],
    quantization: Mapping[str, object],
) -> None:
    """Write one level.

    Args:
        folder: The store.
        checkpoint: The unquantized checkpoint, for its JSON and tokenizer files.
        common: See `common_tensors`; or another store's file of them, to be shared.
        quantized: The quantized layers' tensors, by name.
        quantization: What config.json says of them.

    Raises:
        CheckpointError: A source file cannot be read.
        FlexQuantError: A file cannot be written.
    """
    if isinstance(common, Path):
        share(common, folder / COMMON_NAME)
    else:
        write_safetensors(folder / COMMON_NAME, common)
    for name in COPIED_FILES:
        if (checkpoint / name).exists():
            write_atomically(folder / name, _read(checkpoint / name))
    config = json.loads(_read(checkpoint / "config.json"))
    config["quantization_config"] = quantization
    write_atomically(folder / "config.json", json.dumps(config, indent=2).encode() + b"\n")
    write_safetensors(folder / QUANTIZED_NAME, quantized)


def exl2_quantization(level: float, calibration: Text, on: str | None = None) -> dict[str, object]:
    """Return the `quantization_config` of an EXL2 store.

    Args:
        level: Average width of the decoder's weights.
        calibration: What the level was calibrated on.
        on: Name of the level, in the folder beside, that its tensors are to be added to; None if they stand alone.
    """
    return {
        "quant_method": "exl2" if on is None else RESIDUAL_METHOD,
        "version": FORMAT_VERSION,
        "bits": level,
        "head_bits": head_bits(level),
        "calibration": {"dataset": calibration.name, "tokens": calibration.tokens},
        **({} if on is None else {"on": on}),
    }


def share(file: Path, name: Path) -> None:
    """Give a file a second name: a hard link, or a copy where links are not possible.

    Raises:
        FlexQuantError: The file cannot be written.
    """
    if name.exists() and name.samefile(file):
        return
    temporary = name.with_name(f"{name.name}.part")
    try:
        name.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(name, error) from error
    try:
        temporary.hardlink_to(file)
        temporary.replace(name)
        sync_folder(name.parent)
    except OSError:
        # Some file systems have no links; whatever else is wrong, the copy meets it again and reports it.
        with file.open("rb") as source, replacing(name) as copy:
            shutil.copyfileobj(source, copy)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
