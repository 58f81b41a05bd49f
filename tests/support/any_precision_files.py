"""Files of Any-Precision: weights of our stores by an independent reader, and checkpoints as SNU-ARC packs them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.torch_tensors import read_tensor
from support.any_precision_layers import any_precision_weights

Codes = NDArray[np.uint8]


def weights_of(stores: Sequence[Path], key: str) -> NDArray[np.float16]:
    """Weights of a linear layer, f16 [rows, columns], of stores that complete each other, the smallest first."""
    indexes = [index for index in map(TensorIndex.open, stores) if f"{key}.planes" in index]
    return any_precision_weights(
        [{name: read_tensor(index, f"{key}.{name}").numpy() for name in ("planes", "table")} for index in indexes]
    )


def packed_planes(codes: Codes, width: int) -> NDArray[np.int32]:
    """Planes as SNU-ARC's packer makes them, one bit at a time: int32 [width, rows, columns / 32].

    Columns come in chunks of 1,024, the last of which may be shorter; in a chunk of T words from column c on, word t
    has the bit of column c + 8 T s + 8 t + r at place 31 - 8 s - r.
    """
    rows, columns = codes.shape
    words = np.zeros((width, rows, columns // 32), np.uint32)
    for start in range(0, columns, 1024):
        size = min(32, (columns - start) // 32)
        for word in range(size):
            for s in range(4):
                for r in range(8):
                    column = codes[:, start + 8 * size * s + 8 * word + r].astype(np.uint32)
                    for plane in range(width):
                        bit = column >> (width - 1 - plane) & 1
                        words[plane, :, start // 32 + word] |= bit << np.uint32(31 - 8 * s - r)
    return words.view(np.int32)


def packed_checkpoint(
    folder: Path, checkpoint: Path, codes: Mapping[str, Codes], tables: Mapping[str, Mapping[int, Tensor]], seed: int
) -> Path:
    """Write a packed checkpoint.

    Args:
        folder: Created.
        checkpoint: The unquantized one.
        codes: By key of every linear layer of the decoder.
        tables: By key, by width.
        seed: The narrowest width; the widest one is that of the codes.
    """
    index = TensorIndex.open(checkpoint)
    parent = max(max(of_key) for of_key in tables.values())
    tensors = {name: read_tensor(index, name) for name in index.names() if name.removesuffix(".weight") not in codes}
    for key, found in codes.items():
        tensors[f"{key}.qweight"] = torch.from_numpy(packed_planes(found, parent))
        tensors |= {f"{key}.lut{width}": table for width, table in tables[key].items()}
    folder.mkdir()
    torch.save(tensors, folder / "pytorch_model.bin")
    config = json.loads((checkpoint / "config.json").read_bytes())
    config["anyprec"] = {
        "seed_precision": seed,
        "parent_precision": parent,
        "group_count": 1,
        "arch_config": {"model_name": "model", "layers_name": "layers", "module_names": []},
    }
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((checkpoint / name).read_bytes())
    return folder
