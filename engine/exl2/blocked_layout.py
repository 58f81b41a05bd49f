"""The layout of a layer in an arena that the native kernels work on.

    codes   uint32, for each run         planes of 4, 2 and 1 bits, see native/cpp/unpack.h
            [blocks][words of the run][16]
    scales  [blocks][groups][8 bytes]    16 four-bit indices, see native/cpp/scales.h
    tables  fp16 [groups][16]            the scales that a group can have
    perm    int32 [in_features]          packed row r is input perm[r]; not of residuals
    bias    fp16 [out_features]          where the layer has one

A block is 16 columns; a run is consecutive groups of one width and length, at most 64 units of 32 rows. Codes and
scales take as many bytes as on disk; the tables take 32 bytes a group where the disk has 6 (`q_scale_max` and
`q_groups`). Every part starts at a multiple of 64 bytes.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from flexquant.engine.exl2.spec import Exl2Spec
from flexquant.engine.native.structs import Matrix, Run

LANES: Final = 16
UNIT_ROWS: Final = 32
_ALIGNMENT: Final = 64
_UNITS_AT_ONCE: Final = 64
_LINE_BYTES: Final = 4 * LANES
_INDEX_BYTES: Final = 8
_TABLE_BYTES: Final = 2 * LANES


@dataclass(frozen=True)
class BlockedLayout:
    """Sizes and offsets in bytes of one layer; pure."""

    spec: Exl2Spec

    @property
    def blocks(self) -> int:
        """Blocks of 16 columns, padding included."""
        return self.spec.padded_out // LANES

    @property
    def words(self) -> int:
        """32-bit words of one column."""
        return self.spec.entries["q_weight"].shape[0]

    @property
    def groups(self) -> int:
        """Groups of rows that share scales."""
        return self.spec.entries["q_scale_max"].shape[0]

    @cached_property
    def units(self) -> int:
        """Units of up to 32 rows, in which activations are rounded."""
        return sum(run.groups * _units_of(run.rows_per_group) for run in self.spec.runs)

    @property
    def scales(self) -> int:
        """Where the scales begin."""
        return _aligned(self.blocks * self.words * _LINE_BYTES)

    @property
    def tables(self) -> int:
        """Where the tables begin."""
        return self.scales + _aligned(self.blocks * self.groups * _INDEX_BYTES)

    @property
    def perm(self) -> int:
        """Where the permutation begins."""
        return self.tables + _aligned(self.groups * _TABLE_BYTES)

    @property
    def bias(self) -> int:
        """Where the bias begins, or would."""
        return self.perm + (0 if self.spec.residual else _aligned(self.spec.in_features * 4))

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole layer."""
        bias = self.spec.entries.get("bias")
        return self.bias + (0 if bias is None else _aligned(bias.nbytes))

    @cached_property
    def rounding(self) -> object:
        """Two layers with equal keys can share the rounded form of their inputs."""
        rows = tuple((run.rows_per_group, run.groups) for run in self.spec.runs)
        whole = all(rows_per_group % UNIT_ROWS == 0 for rows_per_group, _ in rows)
        return self.spec.order, None if whole else rows

    def runs(self) -> ctypes.Array[Run]:
        """The row groups as the kernels read them: cut where the activations of a part just fit the innermost cache."""
        unit, found = 0, []
        for run in self.spec.runs:
            units, words = _units_of(run.rows_per_group), run.rows_per_group * run.bits // 32
            at_once = max(1, _UNITS_AT_ONCE // units)
            for first in range(0, run.groups, at_once):
                groups = min(at_once, run.groups - first)
                group, word = run.first_group + first, run.first_word + first * words
                found.append(Run(run.bits, run.rows_per_group, groups, group, unit, word))
                unit += groups * units
        return (Run * len(found))(*found)

    def matrix(self, runs: ctypes.Array[Run]) -> Matrix:
        """The layer at address 0: `place` makes it usable. `runs` must outlive the result."""
        return Matrix(
            runs=ctypes.addressof(runs),
            n_runs=len(runs),
            in_features=self.spec.in_features,
            out_features=self.spec.out_features,
            blocks=self.blocks,
            words=self.words,
            groups=self.groups,
            units=self.units,
        )

    def place(self, matrix: Matrix, address: int) -> None:
        """Point `matrix` to a layer that lies at `address`."""
        matrix.codes = address
        matrix.scales = address + self.scales
        matrix.tables = address + self.tables
        matrix.perm = None if self.spec.residual else address + self.perm
        matrix.bias = address + self.bias if "bias" in self.spec.entries else None


Fetch = Callable[[str, int, int], int]
"""Bring bytes [start, end) of a tensor, by its suffix, into memory; returns their address, good until the next call."""


def repack(library: ctypes.CDLL, layout: BlockedLayout, fetch: Fetch, address: int, staging: int) -> None:
    """Write a layer to `address`, piece by piece.

    Args:
        library: The native library.
        layout: Of the layer.
        fetch: Brings pieces of its tensors.
        address: Where `layout.size_bytes` bytes may be written, a multiple of 64.
        staging: Bytes that `fetch` can bring at once; at least `staging_bytes` of the layer.
    """
    spec, columns = layout.spec, layout.spec.padded_out
    for run in layout.runs():
        rows = run.rows_per_group
        run_words = run.groups * (rows * run.bits // 32)
        # Distance of one block's codes from the next one's.
        block_bytes = run_words * _LINE_BYTES
        target = address + run.first_word * layout.blocks * _LINE_BYTES
        if rows % UNIT_ROWS == 0:  # groups of whole units: as many units at once as fit
            pieces = [(run.bits, run.groups * rows // UNIT_ROWS)]
        else:
            pieces = [(run.bits, rows // UNIT_ROWS), (rows % UNIT_ROWS * run.bits // 32, 1)] * run.groups
        word = run.first_word
        for words, units in pieces:
            at_once = max(1, staging // (4 * columns * words))
            for first in range(0, units, at_once):
                count = min(at_once, units - first)
                start = word * 4 * columns
                source = fetch("q_weight", start, start + count * words * 4 * columns)
                library.fq_repack_codes(run.bits, source, columns, words, count, target, block_bytes)
                word += count * words
                target += count * words * _LINE_BYTES
    row_bytes = columns // 2
    at_once = max(1, staging // row_bytes)
    for first in range(0, layout.groups, at_once):
        count = min(at_once, layout.groups - first)
        source = fetch("q_scale", first * row_bytes, (first + count) * row_bytes)
        library.fq_repack_scales(source, first, count, layout.groups, columns, address + layout.scales)
    largest = fetch("q_scale_max", 0, 2 * layout.groups)
    library.fq_scale_tables(largest, layout.groups, 1.0, address + layout.tables)
    if not spec.residual:
        inverse = fetch("q_invperm", 0, 4 * spec.in_features)
        if library.fq_invert_permutation(inverse, spec.in_features, address + layout.perm) != 0:
            raise ValueError("q_invperm is no permutation")
    bias = spec.entries.get("bias")
    if bias is not None:
        ctypes.memmove(address + layout.bias, fetch("bias", 0, bias.nbytes), bias.nbytes)


def staging_bytes(spec: Exl2Spec) -> int:
    """The least staging memory that a layer needs: one unit of its rows, or its smaller tensors as a whole."""
    widest = max(run.bits for run in spec.runs) * 4 * spec.padded_out
    small = max(entry.nbytes for suffix, entry in spec.entries.items() if suffix not in ("q_weight", "q_scale"))
    return max(widest, small, spec.padded_out // 2)


def _units_of(rows: int) -> int:
    return -(-rows // UNIT_ROWS)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT
