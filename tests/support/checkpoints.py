"""Checkpoint files written byte by byte, so that tests can also write damaged ones."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DTYPES = {"float16": "F16", "float32": "F32", "int16": "I16", "int32": "I32", "int64": "I64", "uint8": "U8"}

SMALL_LLAMA: dict[str, object] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
}
"""The fields of config.json that have no default."""


def write_safetensors(path: Path, tensors: Mapping[str, NDArray[np.generic]]) -> None:
    """Write arrays as one safetensors file, in the order of the mapping."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, array in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": DTYPES[array.dtype.name], "shape": list(array.shape), "data_offsets": offsets}
        data += raw
    path.write_bytes(safetensors_bytes(header, data))


def safetensors_bytes(header: object, data: bytes = b"") -> bytes:
    """A file with this header: JSON text as it is, or an object to be written as JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def write_config(folder: Path, base: Mapping[str, object] = SMALL_LLAMA, /, **changes: object) -> Path:
    """Write config.json, with some fields changed or added; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**base, **changes}))
    return folder
