"""The weights of an Any-Precision matrix in plain torch: the reference for every faster path.

A matrix comes as a *chain*: what each level has of it, from the one that is on none to the one whose weights are
asked for. Codes are the planes of all of them, and weights come from the table of the last.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Final

import torch
from torch import Tensor

from flexquant.engine.any_precision.spec import AnyPrecisionSpec
from flexquant.engine.disk_layout import tensor_views
from flexquant.engine.torch_scratch import CARD_TILE_BYTES, HOST, scratch

SCRATCH_BYTES: Final = 8 << 20
"""What `linear` works in, as long as one row of a matrix fits into it. Every thread has its own."""

_SCRATCH_PER_WEIGHT: Final = 10
"""Bytes for a code (int32), one of its bits (int32) or the weight (fp32), and the weight (fp16)."""


@dataclass(frozen=True, slots=True)
class AnyPrecisionMatrix:
    """Views of what one level has of a layer, or of a slice of its outputs: b bits on a, N outputs, K inputs.

    planes int32 [b - a, N, K / 32], table fp16 [N, 2^b], bias fp16 [N or more] or None. See `spec.py`.
    """

    planes: Tensor
    table: Tensor
    bias: Tensor | None

    @property
    def in_features(self) -> int:
        """K."""
        return 32 * self.planes.shape[2]

    @property
    def out_features(self) -> int:
        """N."""
        return self.table.shape[0]


Chain = Sequence[AnyPrecisionMatrix]


def matrix_from(spec: AnyPrecisionSpec, base: Tensor, offset: int) -> AnyPrecisionMatrix:
    """Views of what a level has of a layer, which lies at `offset` of `base` as it is on disk; see `disk_layout`."""
    views = tensor_views(spec, base, offset)
    return AnyPrecisionMatrix(views["planes"], views["table"], views.get("bias"))


def unpack_codes(chain: Chain, rows: slice = slice(None)) -> Tensor:
    """Codes of the chosen outputs: uint8 [rows, K]."""
    first, last, _ = rows.indices(chain[-1].out_features)
    codes = chain[-1].planes.new_empty((last - first, chain[-1].in_features))
    _unpack(chain, first, last, codes, torch.empty_like(codes))
    return codes.to(torch.uint8)


def dequantize(chain: Chain, rows: slice = slice(None)) -> Tensor:
    """Weights of the chosen outputs: fp16 [rows, K], made where the chain lies."""
    top = chain[-1]
    start, stop, _ = rows.indices(top.out_features)
    weights = top.table.new_empty((stop - start, top.in_features))
    for first, last in _tiles(top.in_features, start, stop, top.table.device):
        weights[first - start : last - start] = _look_up(chain, first, last).weights
    return weights


def reconstruct(chain: Chain) -> Tensor:
    """The weights as a running model reports them: fp16 [K, N]."""
    return dequantize(chain).T.contiguous()


def linear(parts: Sequence[Chain], x: Tensor) -> Tensor:
    """x · Wᵀ (+ bias): fp32 [rows, K] → fp32 [rows, N], tile by tile.

    Args:
        parts: The layer, or its slices in the order of their outputs.
        x: Inputs.
    """
    starts = [0, *accumulate(chain[-1].out_features for chain in parts)]
    result = torch.empty((x.shape[0], starts[-1]), dtype=torch.float32)
    for chain, start in zip(parts, starts, strict=False):
        outputs = chain[-1].out_features
        for first, last in _tiles(chain[-1].in_features, 0, outputs, HOST):
            tile = _look_up(chain, first, last)
            torch.mm(x, tile.products.copy_(tile.weights).T, out=result[:, start + first : start + last])
        bias = chain[0].bias
        if bias is not None:
            result[:, start : start + outputs].add_(bias[:outputs])
    return result


def scratch_bytes(in_features: int) -> int:
    """Bytes of working memory that matrices of so many inputs need."""
    return _tile_bytes(in_features, HOST)


class _Tile:
    """Views of the scratch memory for one tile [rows, K]. `bits` is the memory of `products`."""

    def __init__(self, rows: int, in_features: int, device: torch.device) -> None:
        count, shape = rows * in_features, (rows, in_features)
        memory = scratch.take(_tile_bytes(in_features, device), device)
        self.codes = memory[: 4 * count].view(torch.int32).view(shape)
        self.bits = memory[4 * count : 8 * count].view(torch.int32).view(shape)
        self.products = memory[4 * count : 8 * count].view(torch.float32).view(shape)
        self.weights = memory[8 * count : 10 * count].view(torch.float16).view(shape)


def _look_up(chain: Chain, first: int, last: int) -> _Tile:
    """A tile whose `weights` are those of outputs first to last."""
    top = chain[-1]
    device = top.table.device
    tile = _Tile(last - first, top.in_features, device)
    _unpack(chain, first, last, tile.codes, tile.bits)
    entries = top.table.shape[1]
    rows = torch.arange(0, (last - first) * entries, entries, dtype=torch.int32, device=device)
    tile.codes.add_(rows.unsqueeze(1))
    torch.index_select(top.table[first:last].reshape(-1), 0, tile.codes.view(-1), out=tile.weights.view(-1))
    return tile


def _unpack(chain: Chain, first: int, last: int, codes: Tensor, bits: Tensor) -> None:
    """Fill `codes`, int32 [last - first, K]; `bits` is as large and overwritten."""
    shifts = _shifts(codes.device)
    codes.zero_()
    for matrix in chain:
        for plane in matrix.planes[:, first:last]:
            torch.bitwise_right_shift(plane.unsqueeze(2), shifts, out=bits.view(*plane.shape, 32))
            codes.bitwise_left_shift_(1).bitwise_or_(bits.bitwise_and_(1))


@cache
def _shifts(device: torch.device) -> Tensor:
    """How far right each weight's bit of a word of a plane lies: int32 [32]."""
    return torch.arange(32, dtype=torch.int32, device=device)


def _tile_rows(in_features: int, device: torch.device) -> int:
    room = SCRATCH_BYTES if device == HOST else CARD_TILE_BYTES
    return max(1, room // (_SCRATCH_PER_WEIGHT * in_features))


def _tile_bytes(in_features: int, device: torch.device) -> int:
    return _SCRATCH_PER_WEIGHT * in_features * _tile_rows(in_features, device)


def _tiles(in_features: int, start: int, stop: int, device: torch.device) -> list[tuple[int, int]]:
    """The range of outputs, cut into tiles."""
    height = _tile_rows(in_features, device)
    return [(first, min(first + height, stop)) for first in range(start, stop, height)]
