"""What a store of an Any-Precision ensemble holds of one linear layer: its tensors, checked, before a weight is read.

With N outputs, K inputs and b bits, on a level of a bits below it (a = 0 where there is none):

    planes  int32 [b - a, N, K / 32]   one bit of every code: the most significant plane of these first; column
                                       32 w + i of a row is bit i of word w, least significant first
    table   fp16 [N, 2^b]              a weight is table[n, code], the code being the first b planes of all levels
    bias    fp16 [N or more]           of the level that is on none, where the layer has one

There are no scales, no groups, and no permutation of the inputs (Any-Precision LLM, arXiv 2402.10517, in a layout of
our own).
"""

from dataclasses import dataclass, replace
from typing import Final

from flexquant.engine.errors import CheckpointError
from flexquant.engine.exl2.spec import check_columns
from flexquant.engine.tensor_index import TensorEntry, TensorIndex

INPUT_MULTIPLE: Final = 32
"""Inputs of a layer: a word of a plane holds so many bits."""
NARROWEST: Final = 2
WIDEST: Final = 8

_DTYPES: Final = {"planes": "I32", "table": "F16", "bias": "F16"}
_DIMENSIONS: Final = {"planes": 3, "table": 2, "bias": 1}


@dataclass(frozen=True, slots=True)
class AnyPrecisionSpec:
    """A linear layer at one width, or a slice of its outputs: what its level adds to the one below.

    `entries` are its tensors in the order of an arena.
    """

    key: str
    in_features: int
    out_features: int
    bits: int
    """b, of a code."""
    below: int
    """a: bits of the level that this one is on; 0 where it is on none."""
    entries: dict[str, TensorEntry]

    @property
    def padded_out(self) -> int:
        """Output columns that are stored: no more than there are."""
        return self.out_features

    @property
    def payload(self) -> int:
        """Bytes of all its tensors."""
        return sum(entry.nbytes for entry in self.entries.values())

    @property
    def residual(self) -> bool:
        """Whether it is of use only together with the spec of the level below."""
        return self.below > 0

    @property
    def whole(self) -> bool:
        """Whether it has all outputs of its layer."""
        return self.entries["planes"].stride is None

    def sliced(self, columns: tuple[int, int] | None) -> "AnyPrecisionSpec":
        """Some of the layer's outputs as a layer of its own. `payload` is what a slice takes by itself.

        Args:
            columns: Half-open range (a, b) of a layer that is whole; None for the layer as it is.

        Raises:
            ValueError: See `check_columns`.
        """
        if columns is None:
            return self
        check_columns(columns, self.out_features)
        first, last = columns
        planes, table = self.entries["planes"], self.entries["table"]
        entries = self.entries | {
            "planes": _rows_of_planes(planes, first, last),
            "table": table.rows(table.name, first, last),
        }
        if "bias" in entries:  # not every writer pads it
            at_end = last == self.out_features
            entries["bias"] = entries["bias"].columns(first, entries["bias"].shape[0] if at_end else last)
        return replace(self, out_features=last - first, entries=entries)


def is_quantized(index: TensorIndex, key: str) -> bool:
    """Whether a store has planes of the linear layer `key`."""
    return f"{key}.planes" in index


def read_spec(
    index: TensorIndex,
    key: str,
    *,
    in_features: int,
    out_features: int,
    bias: bool,
    base: AnyPrecisionSpec | None = None,
) -> AnyPrecisionSpec:
    """Find and check the tensors of the layer `key`; nothing but their headers is read.

    Args:
        index: The store.
        key: Such as "model.layers.0.self_attn.q_proj".
        in_features: K, as the model's config has it.
        out_features: N, as the model's config has it.
        bias: Whether the layer has a bias.
        base: The same layer at the level that this store is on, which has the bias.

    Raises:
        CheckpointError: A tensor is missing, or breaks a rule of the format; the message names it.
    """
    bias = bias and base is None
    entries = {suffix: index[f"{key}.{suffix}"] for suffix in _DTYPES if suffix != "bias" or bias}
    for suffix, entry in entries.items():
        if entry.dtype != _DTYPES[suffix]:
            raise _error(entry, f"dtype is {entry.dtype}, Any-Precision has {_DTYPES[suffix]}")
        if len(entry.shape) != _DIMENSIONS[suffix]:
            raise _error(entry, f"shape {list(entry.shape)} has the wrong number of dimensions")
    if in_features % INPUT_MULTIPLE:
        raise _error(entries["planes"], f"the layer has {in_features} inputs, which is no multiple of {INPUT_MULTIPLE}")
    below = 0 if base is None else base.bits
    bits = below + entries["planes"].shape[0]
    if not max(below + 1, NARROWEST) <= bits <= WIDEST:
        raise _error(
            entries["planes"],
            f"has {entries['planes'].shape[0]} planes on {below} bits; codes have {NARROWEST} to {WIDEST} bits",
        )
    expected = {"planes": (bits - below, out_features, in_features // INPUT_MULTIPLE), "table": (out_features, 2**bits)}
    if bias:
        padded = (-(-out_features // INPUT_MULTIPLE) * INPUT_MULTIPLE,)
        expected["bias"] = padded if entries["bias"].shape == padded else (out_features,)
    for suffix, shape in expected.items():
        if entries[suffix].shape != shape:
            raise _error(
                entries[suffix],
                f"shape is {list(entries[suffix].shape)}, expected {list(shape)} for {in_features} inputs, "
                f"{out_features} outputs and {bits} bits, {below} of them below",
            )
    return AnyPrecisionSpec(key, in_features, out_features, bits, below, entries)


def _rows_of_planes(planes: TensorEntry, first: int, last: int) -> TensorEntry:
    """Rows [first, last) of every plane."""
    count, rows, words = planes.shape
    flat = replace(planes, shape=(count, rows * words)).columns(first * words, last * words)
    return replace(flat, shape=(count, last - first, words))


def _error(entry: TensorEntry, what: str) -> CheckpointError:
    return CheckpointError(f"{entry.file}: {entry.name}: {what}")
