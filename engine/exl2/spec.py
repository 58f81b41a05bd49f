"""One EXL2 linear layer of a checkpoint: its tensors, checked, before any weight is read.

Format: exllamav2 0.3.2 (`module.py`, `ext.py`, `conversion/`): per layer `q_weight`, `q_scale`, `q_scale_max`,
`q_groups`, `q_invperm` and, where the layer has one, `bias`. Other tensors that some files carry (`q_perm`,
`q_group_map`) are derived ones and are not read.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from flexquant.engine.errors import CheckpointError
from flexquant.engine.exl2.groups import Run, runs
from flexquant.engine.tensor_index import TensorEntry, TensorIndex

COLUMN_MULTIPLE: Final = 32
"""Output features are padded to a multiple of this."""

_DTYPES: Final = {
    "q_weight": "I32",
    "q_scale": "I32",
    "q_scale_max": "F16",
    "q_groups": "I16",
    "q_invperm": "I32",
    "bias": "F16",
}


@dataclass(frozen=True, slots=True)
class Exl2Spec:
    """A linear layer, or a slice of its columns, as an EXL2 store holds it.

    `entries` are its tensors in the order of an arena; `runs` its row groups. Of residuals, which are added to another
    spec's weights, there is neither a permutation nor a bias: they are the other's.
    """

    key: str
    in_features: int
    out_features: int
    padded_out: int
    runs: tuple[Run, ...]
    entries: dict[str, TensorEntry]
    order: bytes
    """Digest of the permutation: layers with the same one can share their reordered inputs."""

    @property
    def payload(self) -> int:
        """Bytes of all its tensors."""
        return sum(entry.nbytes for entry in self.entries.values())

    @property
    def residual(self) -> bool:
        """Whether its weights are to be added to those of another spec."""
        return "q_invperm" not in self.entries

    @property
    def whole(self) -> bool:
        """Whether it has all columns of its layer."""
        return self.entries["q_weight"].stride is None

    def sliced(self, columns: tuple[int, int] | None) -> "Exl2Spec":
        """Some of the layer's output columns as a layer of its own.

        Columns of codes, scales and bias are cut out, the padding behind the last one included; what says how a column
        is laid out (`q_scale_max`, `q_groups`, `q_invperm`) is whole in every slice. So `payload` is what a slice takes
        by itself.

        Args:
            columns: Half-open range (a, b) of a layer that is whole; None for the layer as it is.

        Raises:
            ValueError: See `check_columns`.
        """
        if columns is None:
            return self
        check_columns(columns, self.out_features)
        first, last = columns
        at_end = last == self.out_features
        padded_last = self.padded_out if at_end else last
        entries = self.entries | {
            "q_weight": self.entries["q_weight"].columns(first, padded_last),
            "q_scale": self.entries["q_scale"].columns(first // 8, padded_last // 8),
        }
        if "bias" in entries:  # not every writer pads it
            entries["bias"] = entries["bias"].columns(first, entries["bias"].shape[0] if at_end else last)
        return replace(self, out_features=last - first, padded_out=padded_last - first, entries=entries)


def check_columns(columns: tuple[int, int], out_features: int) -> None:
    """Raise ValueError unless a layer of so many outputs can be cut at both ends of the half-open range."""
    first, last = columns
    if not 0 <= first < last <= out_features:
        raise ValueError(f"{list(columns)} is no range of the layer's {out_features} columns")
    if first % COLUMN_MULTIPLE or (last % COLUMN_MULTIPLE and last != out_features):
        raise ValueError(
            f"{list(columns)} must be cut at multiples of {COLUMN_MULTIPLE}, but for the layer's end at {out_features}"
        )


def is_quantized(index: TensorIndex, key: str) -> bool:
    """Whether the linear layer `key` is stored as EXL2: decided per tensor, as exllamav2 does."""
    return f"{key}.q_weight" in index


def read_spec(
    index: TensorIndex, key: str, *, in_features: int, out_features: int, bias: bool, base: Exl2Spec | None = None
) -> Exl2Spec:
    """Find and check the tensors of the layer `key`.

    Reads its group table and its permutation (a few KB); the weights stay on disk.

    Args:
        index: The store.
        key: Such as "model.layers.0.self_attn.q_proj".
        in_features: K, as the model's config has it.
        out_features: N before padding, as the model's config has it.
        bias: Whether the layer has a bias.
        base: For residuals: what they are added to. Permutation and bias are those of `base`, and so are the rows of
            the groups, because both are multiplied with the same rounded inputs.

    Raises:
        CheckpointError: A tensor is missing, or breaks a rule of the format; the message names it.
    """
    bias = bias and base is None
    suffixes = [suffix for suffix in _DTYPES if suffix != "bias" or bias]
    if base is not None:
        suffixes.remove("q_invperm")
    entries = {suffix: index[f"{key}.{suffix}"] for suffix in suffixes}
    for suffix, entry in entries.items():
        if entry.dtype != _DTYPES[suffix]:
            raise _error(entry, f"dtype is {entry.dtype}, EXL2 has {_DTYPES[suffix]}")
        if len(entry.shape) != (2 if suffix in ("q_weight", "q_scale") else 1):
            raise _error(entry, f"shape {list(entry.shape)} has the wrong number of dimensions")
    padded = -(-out_features // COLUMN_MULTIPLE) * COLUMN_MULTIPLE
    words, columns = entries["q_weight"].shape
    groups = entries["q_scale_max"].shape[0]
    expected = {
        "q_weight": (words, padded),
        "q_scale": (groups, padded // 8),
        "q_groups": (2 * groups,),
    }
    if base is None:
        expected["q_invperm"] = (in_features,)
    if bias:
        # exllamav2 pads the bias like the columns; other writers do not.
        expected["bias"] = (padded,) if entries["bias"].shape == (padded,) else (out_features,)
    for suffix, shape in expected.items():
        if entries[suffix].shape != shape:
            raise _error(
                entries[suffix],
                f"shape is {list(entries[suffix].shape)}, expected {list(shape)} for {in_features} inputs, "
                f"{out_features} outputs and {groups} groups",
            )
    table = index.content(f"{key}.q_groups").view(np.uint16).tolist()
    try:
        found = runs(table, in_features, words)
    except ValueError as error:
        raise _error(entries["q_groups"], str(error)) from error
    if base is not None:
        if _group_rows(found) != _group_rows(base.runs):
            raise _error(entries["q_groups"], "its groups have other rows than those of the layer that it is added to")
        return Exl2Spec(key, in_features, out_features, columns, found, entries, base.order)
    inverse = index.content(f"{key}.q_invperm").view(np.int32)
    if not np.array_equal(np.sort(inverse), np.arange(in_features, dtype=np.int32)):
        raise _error(entries["q_invperm"], "is not a permutation of the layer's inputs")
    order = hashlib.blake2b(inverse.tobytes(), digest_size=16).digest()
    return Exl2Spec(key, in_features, out_features, columns, found, entries, order)


def _group_rows(found: tuple[Run, ...]) -> list[int]:
    return [run.rows_per_group for run in found for _ in range(run.groups)]


def _error(entry: TensorEntry, what: str) -> CheckpointError:
    return CheckpointError(f"{entry.file}: {entry.name}: {what}")
