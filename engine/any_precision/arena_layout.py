"""The layout of an Any-Precision layer, as one level has it, in an arena that the native kernels work on.

    planes  uint64 [planes][blocks][4][chunks][4]  of 64 inputs by 4 columns, see native/cpp/planes.h
    table   fp16 [16 blocks][2^bits]
    scales  float32 [16 blocks]                    the largest magnitude in a column's table, divided by 32512
    bias    fp16 [out_features]                    of the level that is on none, where the layer has one

A column is an output; a block is 16 of them, a chunk 64 inputs. Columns and inputs are padded with zeros: planes
take the bytes that they have on disk where a layer has multiples of 16 and 64. Every part starts at a multiple of 64.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from flexquant.engine.any_precision.spec import AnyPrecisionSpec
from flexquant.engine.native.structs import Matrix, Run

_LANES: Final = 16
_CHUNK_INPUTS: Final = 64
_WORD_BYTES: Final = 8
_ALIGNMENT: Final = 64


@dataclass(frozen=True)
class PlanesLayout:
    """Sizes and offsets in bytes of one layer; pure."""

    spec: AnyPrecisionSpec

    @property
    def blocks(self) -> int:
        """Blocks of 16 columns, padding included."""
        return -(-self.spec.out_features // _LANES)

    @property
    def columns(self) -> int:
        """Columns, padding included."""
        return self.blocks * _LANES

    @property
    def chunks(self) -> int:
        """Words of a column in a plane."""
        return -(-self.spec.in_features // _CHUNK_INPUTS)

    @property
    def planes(self) -> int:
        """How many this level has."""
        return self.spec.bits - self.spec.below

    @property
    def plane_bytes(self) -> int:
        """From one plane to the next."""
        return self.columns * self.chunks * _WORD_BYTES

    @property
    def words(self) -> int:
        """32-bit words of one column."""
        return self.planes * self.chunks * 2

    @property
    def units(self) -> int:
        """Units of 32 inputs, in which activations are rounded."""
        return self.spec.in_features // 32

    @property
    def table(self) -> int:
        """Where the table begins."""
        return self.planes * self.plane_bytes

    @property
    def table_bytes(self) -> int:
        """Of the table, padding included."""
        return self.columns * 2 * self.entries

    @property
    def entries(self) -> int:
        """Weights that a column can have."""
        return 1 << self.spec.bits

    @property
    def scales(self) -> int:
        """Where the scales begin."""
        return self.table + _aligned(self.table_bytes)

    @property
    def bias(self) -> int:
        """Where the bias begins, or would."""
        return self.scales + _aligned(4 * self.columns)

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole layer."""
        bias = self.spec.entries.get("bias")
        return self.bias + (0 if bias is None else _aligned(bias.nbytes))

    @property
    def rounding(self) -> object:
        """Two layers with equal keys can share the rounded form of their inputs: all of this method."""
        return PlanesLayout

    def runs(self) -> ctypes.Array[Run]:
        """There are no groups of inputs."""
        return (Run * 0)()

    def matrix(self, runs: ctypes.Array[Run]) -> Matrix:
        """The layer at address 0: `place` makes it usable."""
        return Matrix(
            runs=None,
            n_runs=len(runs),
            in_features=self.spec.in_features,
            out_features=self.spec.out_features,
            blocks=self.blocks,
            words=self.words,
            groups=0,
            units=self.units,
            bits=self.spec.bits,
        )

    def place(self, matrix: Matrix, address: int) -> None:
        """Point `matrix` to a layer that lies at `address`."""
        matrix.codes = address
        matrix.scales = address + self.scales
        matrix.tables = address + self.table
        matrix.perm = None
        matrix.bias = address + self.bias if "bias" in self.spec.entries else None


def repack(
    library: ctypes.CDLL, layout: PlanesLayout, fetch: Callable[[str, int, int], int], address: int, staging: int
) -> None:
    """Write a layer to `address`, piece by piece; see `exl2.blocked_layout.repack`."""
    spec, rows = layout.spec, layout.spec.out_features
    row_bytes = spec.in_features // 8
    at_once = staging // row_bytes
    for plane in range(layout.planes):
        target = address + plane * layout.plane_bytes
        for first in range(0, rows, at_once):
            count = min(at_once, rows - first)
            zeros = layout.columns - rows if first + count == rows else 0
            start = (plane * rows + first) * row_bytes
            source = fetch("planes", start, start + count * row_bytes)
            library.fq_place_plane(source, spec.in_features, first, count, zeros, target)
    table = spec.entries["table"].nbytes
    for start in range(0, table, staging):
        end = min(start + staging, table)
        ctypes.memmove(address + layout.table + start, fetch("table", start, end), end - start)
    ctypes.memset(address + layout.table + table, 0, layout.table_bytes - table)
    library.fq_table_scales(address + layout.table, layout.columns, layout.entries, address + layout.scales)
    bias = spec.entries.get("bias")
    if bias is not None:
        ctypes.memmove(address + layout.bias, fetch("bias", 0, bias.nbytes), bias.nbytes)


def staging_bytes(spec: AnyPrecisionSpec) -> int:
    """The least staging memory that a layer needs: one row of a plane, or its bias."""
    bias = spec.entries.get("bias")
    return max(spec.in_features // 8, 0 if bias is None else bias.nbytes)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT
