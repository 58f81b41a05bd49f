"""Checkpoints that were packed by the authors of Any-Precision LLM (github.com/SNU-ARC/any-precision-llm).

A folder with `config.json`, which has a section `anyprec`, tokenizer files and one `pytorch_model.bin`. For each linear
layer of the decoder that holds `KEY.qweight`, int32 [P, out_features, in_features / 32], its planes from the most
significant bit on, and `KEY.lut3` to `KEY.lutP` or so, f16 [out_features, 2^bits], ascending. Everything else is as in
the original checkpoint; the head is not quantized.

In a row of a plane the bits are where a warp of a GPU wants them: columns come in chunks of 1,024, the last of which
may be shorter; of a chunk of T words word t has, from its most significant bit on, eight columns from 8 t on of each
quarter of the chunk.
"""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flexquant.engine.config_fields import read_object
from flexquant.engine.errors import CheckpointError
from flexquant.engine.model_config import LinearShape, ModelConfig, read_model_config

WEIGHTS_NAME: Final = "pytorch_model.bin"
SECTION: Final = "anyprec"
NARROWEST: Final = 2
WIDEST: Final = 8

_CHUNK_WORDS: Final = 32
_MIRRORED: Final = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1), bitorder="little")
"""Bytes with their bits in reverse order."""


def is_packed(folder: Path) -> bool:
    """Whether a folder holds such a checkpoint."""
    path = folder / "config.json"
    return path.is_file() and (folder / WEIGHTS_NAME).is_file() and SECTION in read_object(path)


@dataclass(frozen=True, slots=True)
class PackedCheckpoint:
    """A packed checkpoint. Its tensors are mapped, and read where they are used.

    Args:
        folder: Holds it.
        config: The model's.
        seed: Bits of its narrowest tables.
        parent: Bits of its codes.
        tensors: By name.
    """

    folder: Path
    config: ModelConfig
    seed: int
    parent: int
    tensors: Mapping[str, Tensor]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a checkpoint; nothing of it is run.

        Raises:
            CheckpointError: A file cannot be read, or the checkpoint is of a kind that cannot be imported.
            UnsupportedModelError: The architecture is not supported.
        """
        path = folder / "config.json"
        section = read_object(path)[SECTION]
        if not isinstance(section, dict):
            raise CheckpointError(f"{path}: {SECTION} is no object")
        seed, parent = (_whole(path, section, f"{name}_precision") for name in ("seed", "parent"))
        if not 1 <= seed <= parent or not NARROWEST <= parent <= WIDEST:
            raise CheckpointError(
                f"{path}: {SECTION}: {seed} to {parent} bits; {NARROWEST} to {WIDEST} can be imported"
            )
        if _whole(path, section, "group_count", 1) != 1:
            raise CheckpointError(f"{path}: {SECTION}: group_count is not 1; several tables per row are not supported")
        return cls(folder, read_model_config(folder), seed, parent, _load(folder / WEIGHTS_NAME))

    @property
    def levels(self) -> tuple[float, ...]:
        """All widths that it has tables of, falling."""
        return tuple(float(bits) for bits in range(self.parent, max(self.seed, NARROWEST) - 1, -1))

    def tensor(self, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """Return a tensor.

        Raises:
            CheckpointError: It is missing, of another type or shape, or has numbers that are not finite.
        """
        found = self.tensors.get(name)
        where = f"{self.folder / WEIGHTS_NAME}: tensor {name}"
        if found is None:
            raise CheckpointError(f"{where} is missing")
        if found.dtype != dtype or found.shape != shape:
            raise CheckpointError(
                f"{where} is {found.dtype} of shape {list(found.shape)}; expected {dtype} of shape {list(shape)}"
            )
        if dtype.is_floating_point and not torch.isfinite(found).all():
            raise CheckpointError(f"{where} has values that are not finite")
        return found

    def planes(self, shape: LinearShape) -> NDArray[np.int32]:
        """Return a layer's planes in natural order: int32 [P, out_features, in_features / 32]; see `planes_of`."""
        size = (self.parent, shape.out_features, shape.in_features // 32)
        return natural_order(self.tensor(f"{shape.key}.qweight", torch.int32, size).numpy())

    def table(self, shape: LinearShape, bits: int) -> Tensor:
        """Return a layer's table of a width: f16 [out_features, 2^bits]."""
        return self.tensor(f"{shape.key}.lut{bits}", torch.float16, (shape.out_features, 1 << bits))


def natural_order(packed: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return planes with column 32 w + i of a row in bit i of word w, the least significant first.

    Args:
        packed: int32 [planes, rows, words], as packed.
    """
    planes, rows, words = packed.shape
    # The most significant byte of each word first: bytes [planes, rows, words, 4].
    octets = np.ascontiguousarray(packed).astype("<i4", copy=False).view(np.uint8).reshape(*packed.shape, 4)[..., ::-1]
    whole = words // _CHUNK_WORDS * _CHUNK_WORDS
    chunks = octets[:, :, :whole].reshape(planes, rows, -1, _CHUNK_WORDS, 4).swapaxes(3, 4)
    rest = octets[:, :, whole:].swapaxes(2, 3)
    in_order = np.concatenate((chunks.reshape(planes, rows, -1), rest.reshape(planes, rows, -1)), axis=2)
    return _MIRRORED[in_order].view("<i4").astype(np.int32, copy=False)


def _load(path: Path) -> dict[str, Tensor]:
    try:
        # Tensors alone: anything else that a pickle could do is refused by torch.
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        first = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: cannot be read as a file of tensors alone: {first}") from error
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise CheckpointError(f"{path}: holds something else than tensors by name")
    return found


def _whole(path: Path, section: Mapping[str, object], name: str, default: int | None = None) -> int:
    found = section.get(name, default)
    if type(found) is not int:
        raise CheckpointError(f"{path}: {SECTION}.{name} is {found!r}; expected a whole number")
    return found
