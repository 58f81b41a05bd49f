"""Packing a quantized linear layer into the tensors of the EXL2 format.

EXL2 is the format of exllamav2 (github.com/turboderp-org/exllamav2, `exllamav2/module.py` and
`exllamav2/conversion/adaptivegptq.py` there). Rows are input features in packed order, columns are output features.
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from flexquant.engine.errors import InputError
from flexquant.engine.exl2.spec import COLUMN_MULTIPLE
from flexquant.ensemble_builder.row_groups import Group

LARGEST_ROW: Final = 0xFFFF
"""First rows of groups are stored in 16 bits."""


@dataclass(frozen=True, slots=True)
class QuantizedLinear:
    """A quantized linear layer.

    Args:
        groups: Its rows' groups, in order.
        codes: uint8 [in_features, out_features], in packed row order.
        scale_codes: uint8 [groups, out_features], 0..15.
        scale_max: f16 [groups].
        permutation: int64 [in_features]; packed row r is input feature permutation[r].
        bias: f16 [out_features], or None.
    """

    groups: list[Group]
    codes: Tensor
    scale_codes: Tensor
    scale_max: Tensor
    permutation: Tensor
    bias: Tensor | None = None


def pack(linear: QuantizedLinear) -> dict[str, Tensor]:
    """Return the tensors that EXL2 stores for a linear layer, by the suffix of their names.

    Columns are padded to a multiple of 32; the codes there mean 0.

    Raises:
        InputError: The layer has more input features than the format can index.
    """
    padding = -linear.codes.shape[1] % COLUMN_MULTIPLE
    words, table = [], []
    first_row = 0
    for group in linear.groups:
        if first_row > LARGEST_ROW:
            raise InputError(f"{len(linear.codes)} input features are more than the EXL2 format can index")
        codes = linear.codes[group.start : group.start + group.rows]
        codes = torch.nn.functional.pad(codes, (0, padding), value=1 << (group.bits - 1))
        table += [group.bits, first_row]
        words.append(pack_codes(codes, group.bits))
        first_row += len(words[-1])
    scale_codes = torch.nn.functional.pad(linear.scale_codes, (0, padding))
    nibbles = scale_codes.reshape(len(linear.groups), -1, 8).transpose(1, 2)
    tensors = {
        "q_weight": torch.cat(words),
        "q_scale": pack_codes(nibbles.reshape(len(linear.groups) * 8, -1), 4),
        "q_scale_max": linear.scale_max,
        "q_groups": _wrapped(torch.tensor(table), torch.int16),
        "q_invperm": torch.argsort(linear.permutation).to(torch.int32),
    }
    if linear.bias is not None:
        tensors["bias"] = torch.nn.functional.pad(linear.bias, (0, padding))
    return tensors


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Pack each column into one bitstream, least significant bit first, 32 bits to a word.

    Args:
        codes: uint8 [rows, columns]; rows * bits is a multiple of 32.
        bits: Width of a code.

    Returns:
        int32 [rows * bits / 32, columns].
    """
    words_per_period = bits // math.gcd(bits, 32)
    period = words_per_period * 32 // bits  # codes until a code starts at bit 0 of a word again
    columns = codes.shape[1]
    periods = codes.reshape(-1, period, columns).to(torch.int64)
    words = torch.zeros(len(periods), words_per_period, columns, dtype=torch.int64)
    for at in range(period):
        word, shift = divmod(at * bits, 32)
        words[:, word] |= periods[:, at] << shift
        if shift + bits > 32:
            words[:, word + 1] |= periods[:, at] >> (32 - shift)
    return _wrapped(words.reshape(-1, columns) & 0xFFFF_FFFF, torch.int32)


def _wrapped(unsigned: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the signed integers that have the same bits."""
    limits = torch.iinfo(dtype)
    return torch.where(unsigned > limits.max, unsigned - (1 << limits.bits), unsigned).to(dtype)
