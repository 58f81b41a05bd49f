"""The weights of an EXL2 matrix, bit by bit as exllamav2 reconstructs them, in plain torch.

This is the reference for every faster path. Source of the formula: exllamav2 0.3.2, `q_matrix.cu` (reconstruct).
"""

from dataclasses import dataclass
from functools import cache
from typing import Final

import torch
from torch import Tensor

from flexquant.engine.exl2.groups import CODES_PER_PERIOD, Run

SCRATCH_BYTES: Final = 16 << 20
"""What `linear` takes beside its input and output, as long as 32 columns of the matrix fit into it."""

_SCRATCH_PER_WEIGHT: Final = 20
"""Codes and a copy of them (int32), the product (fp16), and weights for the matrix product (fp32), with slack."""
_TILE_MULTIPLE: Final = 32


@dataclass(frozen=True, slots=True)
class Exl2Matrix:
    """Views of one layer's tensors: K inputs, Np padded and N real outputs, G groups.

    q_weight int32 [words, Np], q_scale int32 [G, Np / 8], q_scale_max fp16 [G], q_invperm int32 [K],
    bias fp16 [N or more] or None.
    """

    q_weight: Tensor
    q_scale: Tensor
    q_scale_max: Tensor
    q_invperm: Tensor
    bias: Tensor | None
    runs: tuple[Run, ...]
    out_features: int

    @property
    def in_features(self) -> int:
        """K."""
        return self.q_invperm.shape[0]


def unpack_codes(matrix: Exl2Matrix, columns: slice = slice(None)) -> Tensor:
    """Weight codes of the chosen columns: uint8 [K, columns], rows in packed order."""
    words = matrix.q_weight[:, columns]
    return torch.cat([_codes(words, run).to(torch.uint8) for run in matrix.runs])


def dequantize(matrix: Exl2Matrix, prescale: float = 1.0, columns: slice = slice(None)) -> Tensor:
    """Weights of the chosen columns: fp16 [K, columns], rows in packed order (row r is input argsort(q_invperm)[r]).

    Args:
        matrix: The layer.
        prescale: Factor that some architectures put on a layer; 1 for all others.
        columns: Output columns, with a start that is a multiple of 8.
    """
    start, stop, _ = columns.indices(matrix.q_weight.shape[1])
    if start % 8:
        raise ValueError(f"columns start at {start}, which is not a multiple of 8")
    words = matrix.q_weight[:, start:stop]
    scales = _scales(matrix, prescale, start, stop)  # [G, columns]
    weights = torch.empty((matrix.in_features, stop - start), dtype=torch.float16)
    for run in matrix.runs:
        shape = (run.groups, run.rows_per_group, stop - start)
        signed = _codes(words, run).sub_(1 << (run.bits - 1)).view(shape)
        of_run = scales[run.first_group : run.first_group + run.groups].unsqueeze(1)
        # Products of a code and an fp16 scale are exact in fp32, so they are rounded once, as half arithmetic does.
        rows = weights[run.first_row : run.first_row + run.rows].view(shape)
        torch.mul(signed.to(torch.float16), of_run, out=rows)
    return weights


def linear(matrix: Exl2Matrix, x: Tensor, prescale: float = 1.0) -> Tensor:
    """x · W (+ bias): fp32 [rows, K] → fp32 [rows, N], tile by tile, so that scratch stays within `SCRATCH_BYTES`."""
    gathered = torch.empty_like(x).index_copy_(1, matrix.q_invperm.long(), x)  # = x[:, q_perm]
    columns = matrix.q_weight.shape[1]
    result = torch.empty((x.shape[0], columns), dtype=torch.float32)
    tile = tile_columns(matrix.in_features)
    for start in range(0, columns, tile):
        part = slice(start, min(start + tile, columns))
        torch.mm(gathered, dequantize(matrix, prescale, part).float(), out=result[:, part])
    result = result[:, : matrix.out_features]
    return result if matrix.bias is None else result + matrix.bias[: matrix.out_features].float()


def tile_columns(in_features: int) -> int:
    """Columns that `linear` reconstructs at once: a multiple of 32."""
    fitting = SCRATCH_BYTES // (_SCRATCH_PER_WEIGHT * in_features)
    return max(_TILE_MULTIPLE, fitting // _TILE_MULTIPLE * _TILE_MULTIPLE)


def scratch_bytes(in_features: int) -> int:
    """Most bytes that `linear` takes beside its input and output."""
    return max(SCRATCH_BYTES, _SCRATCH_PER_WEIGHT * in_features * _TILE_MULTIPLE)


def _scales(matrix: Exl2Matrix, prescale: float, start: int, stop: int) -> Tensor:
    """fp16 [G, stop - start]; the maximum is divided by 256 in fp16, where small ones lose bits."""
    first, last = start // 8, -(-stop // 8)
    packed = matrix.q_scale[:, first:last]
    nibbles = (packed.unsqueeze(2) >> torch.arange(0, 32, 4, dtype=torch.int32)) & 15  # [G, words, 8]
    roots = nibbles.flatten(1)[:, : stop - start] + 1
    largest = (matrix.q_scale_max.float() * (prescale / 256)).to(torch.float16)
    return (roots * roots).to(torch.float16) * largest.unsqueeze(1)


def _codes(words: Tensor, run: Run) -> Tensor:
    """Codes of one run: int32 [rows, columns], a tensor of its own.

    Within a group each column is one LSB-first bitstream; the stream is at a word boundary after every period.
    """
    bits, period = run.bits, CODES_PER_PERIOD[run.bits]
    step = period * bits // 32  # words per period
    periods = words[run.first_word : run.first_word + run.words].view(
        -1, step, words.shape[1]
    )  # [periods, step, columns]
    first, shift, mask, straddling = _period(bits)
    codes = periods if step == 1 else periods.index_select(1, first)
    codes = (codes >> shift).bitwise_and_(mask)  # [periods, period, columns]
    for code, word, left in straddling:
        codes[:, code] |= (periods[:, word] << left) & ((1 << bits) - 1)
    return codes.flatten(0, 1)


@cache
def _period(bits: int) -> tuple[Tensor, Tensor, Tensor, tuple[tuple[int, int, int], ...]]:
    """How codes lie in one period: their first words, shifts, masks, and (code, next word, left shift) of straddlers.

    Shifts are arithmetic, so the mask of a straddling code also removes copies of the sign bit.
    """
    positions = [code * bits for code in range(CODES_PER_PERIOD[bits])]
    first = torch.tensor([position // 32 for position in positions])
    shift = torch.tensor([[position % 32] for position in positions], dtype=torch.int32)
    mask = torch.tensor([[(1 << min(bits, 32 - position % 32)) - 1] for position in positions], dtype=torch.int32)
    straddling = tuple(
        (code, position // 32 + 1, 32 - position % 32)
        for code, position in enumerate(positions)
        if position % 32 + bits > 32
    )
    return first, shift, mask, straddling
