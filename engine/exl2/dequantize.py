"""The weights of an EXL2 matrix, bit by bit as exllamav2 reconstructs them, in plain torch.

This is the reference for every faster path. Source of the formula: exllamav2 0.3.2, `q_matrix.cu` (reconstruct).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Final

import torch
from torch import Tensor

from flexquant.engine.disk_layout import tensor_views
from flexquant.engine.exl2.groups import CODES_PER_PERIOD, Run
from flexquant.engine.exl2.spec import Exl2Spec
from flexquant.engine.torch_scratch import CARD_TILE_BYTES, HOST, scratch

SCRATCH_BYTES: Final = 8 << 20
"""What `linear` and `dequantize` work in, as long as 32 columns of a matrix fit into it. Every thread has its own."""

_KEPT_PER_WEIGHT: Final = 10
"""Bytes for a code (int32), its product with the scale (fp32), and that rounded (fp16)."""
_SCRATCH_PER_WEIGHT: Final = 12
"""The same with scales, of which there is one for 32 weights or fewer, and parts of codes that straddle two words."""
_TILE_MULTIPLE: Final = 32


@dataclass(frozen=True, slots=True)
class Exl2Matrix:
    """Views of the tensors of a layer, or of a slice of its columns: K inputs, Np padded and N real outputs, G groups.

    q_weight int32 [words, Np], q_scale int32 [G, Np / 8], q_scale_max fp16 [G], q_invperm int32 [K] (None of
    residuals, which are added to a matrix with the same inputs), bias fp16 [N or more] or None.
    """

    q_weight: Tensor
    q_scale: Tensor
    q_scale_max: Tensor
    q_invperm: Tensor | None
    bias: Tensor | None
    runs: tuple[Run, ...]
    out_features: int

    @property
    def in_features(self) -> int:
        """K."""
        return sum(run.rows for run in self.runs)


def matrix_from(spec: Exl2Spec, base: Tensor, offset: int) -> Exl2Matrix:
    """Views of a layer that lies at `offset` of `base` as it is on disk; see `disk_layout`."""
    views = tensor_views(spec, base, offset)
    return Exl2Matrix(
        q_weight=views["q_weight"],
        q_scale=views["q_scale"],
        q_scale_max=views["q_scale_max"],
        q_invperm=views.get("q_invperm"),
        bias=views.get("bias"),
        runs=spec.runs,
        out_features=spec.out_features,
    )


def unpack_codes(matrix: Exl2Matrix, columns: slice = slice(None)) -> Tensor:
    """Weight codes of the chosen columns: uint8 [K, columns], rows in packed order."""
    words = matrix.q_weight[:, columns]
    codes = words.new_empty((matrix.in_features, words.shape[1]))
    _unpack(matrix, words, codes)
    return codes.to(torch.uint8)


def dequantize(matrix: Exl2Matrix, prescale: float = 1.0, columns: slice = slice(None)) -> Tensor:
    """Weights of the chosen columns: fp16 [K, columns], rows in packed order (row r is input argsort(q_invperm)[r]).

    Args:
        matrix: The layer; the weights are made where it lies.
        prescale: Factor that some architectures put on a layer; 1 for all others.
        columns: Output columns, with a start that is a multiple of 8.
    """
    start, stop, _ = columns.indices(matrix.q_weight.shape[1])
    if start % 8:
        raise ValueError(f"columns start at {start}, which is not a multiple of 8")
    device = matrix.q_weight.device
    weights = torch.empty((matrix.in_features, stop - start), dtype=torch.float16, device=device)
    for first, last in _tiles(matrix.in_features, start, stop, device):
        tile = _Tile(matrix.in_features, last - first, device)
        _reconstruct(matrix, prescale, first, last, tile)
        weights[:, first - start : last - start] = tile.weights
    return weights


def reconstruct(part: Sequence[Exl2Matrix]) -> Tensor:
    """A matrix and the residuals that are added to it: fp16 [K, Np], as `dequantize`, rounded after each addition."""
    matrix, *residuals = part
    weights = dequantize(matrix)
    for residual in residuals:
        weights = (weights.float() + dequantize(residual)).half()
    return weights


def linear(parts: Sequence[Sequence[Exl2Matrix]], x: Tensor, prescale: float = 1.0) -> Tensor:
    """x · W (+ bias): fp32 [rows, K] → fp32 [rows, N].

    Goes through the matrix tile by tile: beside a copy of `x` and the result it takes `scratch_bytes(K)`.

    Args:
        parts: The layer, or its slices in the order of their columns: each a matrix, and the residuals that are added
            to it.
        x: Inputs in the model's order.
        prescale: As for `dequantize`.
    """
    starts = [0, *accumulate(part[0].q_weight.shape[1] for part in parts)]
    result = torch.empty((x.shape[0], starts[-1]), dtype=torch.float32)
    waiting = list(zip(parts, starts, strict=False))
    while waiting:  # inputs are gathered once for all parts that take them in the same order
        order = waiting[0][0][0].q_invperm
        assert order is not None, "the first of a part is no residual"
        gathered = torch.empty_like(x).index_copy_(1, order.long(), x)  # = x[:, q_perm]
        others = []
        for part, start in waiting:
            own = part[0].q_invperm
            if own is not order and (own is None or not torch.equal(own, order)):
                others.append((part, start))
            else:
                _multiply(part, prescale, gathered, result[:, start : start + part[0].q_weight.shape[1]])
        del gathered  # before the next copy is made
        waiting = others
    return result[:, : sum(part[0].out_features for part in parts)]


def _multiply(part: Sequence[Exl2Matrix], prescale: float, gathered: Tensor, result: Tensor) -> None:
    """Fill `result`, fp32 [rows, Np], with inputs in packed order, fp32 [rows, K], times a matrix, plus its bias."""
    matrix, *residuals = part
    for first, last in _tiles(matrix.in_features, 0, result.shape[1], HOST):
        tile = _Tile(matrix.in_features, last - first, HOST)
        target = result[:, first:last]
        _reconstruct(matrix, prescale, first, last, tile)
        torch.mm(gathered, tile.products.copy_(tile.weights), out=target)
        for residual in residuals:
            _reconstruct(residual, prescale, first, last, tile)
            target.addmm_(gathered, tile.products.copy_(tile.weights))
    if matrix.bias is not None:
        result[:, : matrix.out_features].add_(matrix.bias[: matrix.out_features])


def tile_columns(in_features: int, device: torch.device = HOST) -> int:
    """Columns that are reconstructed at once: a multiple of 32."""
    room = SCRATCH_BYTES if device == HOST else CARD_TILE_BYTES
    fitting = room // (_SCRATCH_PER_WEIGHT * in_features)
    return max(_TILE_MULTIPLE, fitting // _TILE_MULTIPLE * _TILE_MULTIPLE)


def scratch_bytes(in_features: int) -> int:
    """Bytes of working memory that matrices of so many inputs need."""
    return max(SCRATCH_BYTES, _SCRATCH_PER_WEIGHT * in_features * _TILE_MULTIPLE)


class _Tile:
    """Views of the scratch memory for one tile [rows, columns]."""

    def __init__(self, rows: int, columns: int, device: torch.device) -> None:
        count, shape = rows * columns, (rows, columns)
        memory = scratch.take(_KEPT_PER_WEIGHT * rows * tile_columns(rows, device), device)
        self.codes = memory[: 4 * count].view(torch.int32).view(shape)
        self.products = memory[4 * count : 8 * count].view(torch.float32).view(shape)
        self.weights = memory[8 * count : 10 * count].view(torch.float16).view(shape)


def _tiles(in_features: int, start: int, stop: int, device: torch.device) -> list[tuple[int, int]]:
    """The range of columns, cut into tiles."""
    width = tile_columns(in_features, device)
    return [(first, min(first + width, stop)) for first in range(start, stop, width)]


def _reconstruct(matrix: Exl2Matrix, prescale: float, first: int, last: int, tile: _Tile) -> None:
    """Fill `tile.weights` with columns first to last."""
    _unpack(matrix, matrix.q_weight[:, first:last], tile.codes)
    scales = _scales(matrix, prescale, first, last)  # [G, columns]
    tile.products.copy_(tile.codes)
    for run in matrix.runs:
        rows = tile.products[run.first_row : run.first_row + run.rows]
        # The product of a code and a half-precision scale is exact in fp32, so it is rounded once, as half arithmetic
        # rounds it.
        of_run = scales[run.first_group : run.first_group + run.groups].unsqueeze(1)
        rows.sub_(1 << (run.bits - 1)).view(run.groups, run.rows_per_group, -1).mul_(of_run)
    tile.weights.copy_(tile.products)


def _scales(matrix: Exl2Matrix, prescale: float, start: int, stop: int) -> Tensor:
    """Half-precision scales as fp32 [G, stop - start]; the maximum is divided by 256 in fp16: small ones lose bits."""
    first, last = start // 8, -(-stop // 8)
    packed = matrix.q_scale[:, first:last]
    nibbles = (
        packed.unsqueeze(2) >> torch.arange(0, 32, 4, dtype=torch.int32, device=packed.device)
    ) & 15  # [G, words, 8]
    roots = nibbles.flatten(1)[:, : stop - start] + 1
    largest = (matrix.q_scale_max.float() * (prescale / 256)).to(torch.float16)
    return ((roots * roots).to(torch.float16) * largest.unsqueeze(1)).float()


def _unpack(matrix: Exl2Matrix, words: Tensor, codes: Tensor) -> None:
    """Fill `codes`, int32 [K, columns], from `words`, int32 [words, columns].

    Within a group each column is one LSB-first bitstream; the stream is at a word boundary after every period.
    """
    for run in matrix.runs:
        step, period = run.bits * CODES_PER_PERIOD[run.bits] // 32, CODES_PER_PERIOD[run.bits]
        columns = words.shape[1]
        source = words[run.first_word : run.first_word + run.words].view(-1, step, columns)
        target = codes[run.first_row : run.first_row + run.rows].view(-1, period, columns)
        spans, masks, straddling = _period(run.bits, words.device)
        for word, (first, last, shifts) in enumerate(spans):
            torch.bitwise_right_shift(source[:, word : word + 1], shifts, out=target[:, first:last])
        target &= masks
        for code, word, left in straddling:
            target[:, code] |= (source[:, word] << left) & ((1 << run.bits) - 1)


@cache
def _period(
    bits: int, device: torch.device
) -> tuple[list[tuple[int, int, Tensor]], Tensor, list[tuple[int, int, int]]]:
    """How codes lie in one period.

    Returns:
        For each word the range of codes that begin in it and their shifts [codes, 1]; the masks of all codes
        [period, 1]; and for codes that go on in the next word (code, that word, left shift). Shifts are arithmetic, so
        the mask of such a code also removes copies of the sign bit.
    """
    starts = [code * bits for code in range(CODES_PER_PERIOD[bits])]
    spans = []
    for word in range(CODES_PER_PERIOD[bits] * bits // 32):
        inside = [code for code, start in enumerate(starts) if start // 32 == word]
        shifts = torch.tensor([[starts[code] % 32] for code in inside], dtype=torch.int32, device=device)
        spans.append((inside[0], inside[-1] + 1, shifts))
    widest = [[(1 << min(bits, 32 - start % 32)) - 1] for start in starts]
    masks = torch.tensor(widest, dtype=torch.int32, device=device)
    straddling = [
        (code, start // 32 + 1, 32 - start % 32) for code, start in enumerate(starts) if start % 32 + bits > 32
    ]
    return spans, masks, straddling
