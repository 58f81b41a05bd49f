"""What the packer writes, two unpackers that know nothing of it read back: the engine's, and one that counts bits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flexquant.engine.errors import InputError
from flexquant.engine.exl2.dequantize import Exl2Matrix, dequantize, unpack_codes
from flexquant.engine.exl2.groups import runs
from flexquant.ensemble_builder.exl2_pack import QuantizedLinear, pack, pack_codes
from flexquant.ensemble_builder.row_groups import WIDTHS, Group, groups_of


@st.composite
def linears(draw: st.DrawFn) -> QuantizedLinear:
    """Draw quantized layers of one to three widths, any group size and any number of columns."""
    widths = sorted(draw(st.sets(st.sampled_from(WIDTHS), min_size=1, max_size=3)), reverse=True)
    sections = [(bits, 32 * draw(st.integers(1, 5))) for bits in widths]
    groups = groups_of(sections, draw(st.sampled_from([32, 64, 128])))
    rows, columns = sum(count for _, count in sections), draw(st.integers(1, 70))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    highest = torch.cat([torch.full((group.rows, 1), 1 << group.bits) for group in groups])
    codes = (torch.rand(rows, columns, generator=generator, dtype=torch.float64) * highest).to(torch.uint8)
    return QuantizedLinear(
        groups=groups,
        codes=codes,
        scale_codes=torch.randint(0, 16, (len(groups), columns), generator=generator, dtype=torch.uint8),
        scale_max=torch.rand(len(groups), generator=generator).half(),
        permutation=torch.randperm(rows, generator=generator),
        bias=torch.randn(columns, generator=generator).half() if draw(st.booleans()) else None,
    )


def engine_matrix(linear: QuantizedLinear) -> Exl2Matrix:
    """Return the packed layer as the engine sees it."""
    tensors = pack(linear)
    table = (tensors["q_groups"].to(torch.int32) & 0xFFFF).tolist()
    return Exl2Matrix(
        q_weight=tensors["q_weight"],
        q_scale=tensors["q_scale"],
        q_scale_max=tensors["q_scale_max"],
        q_invperm=tensors["q_invperm"],
        bias=tensors.get("bias"),
        runs=runs(table, len(linear.codes), len(tensors["q_weight"])),
        out_features=linear.codes.shape[1],
    )


def unpack_bit_by_bit(tensors: dict[str, Tensor]) -> list[list[int]]:
    """Return the codes of every column, each column read as one long number per group."""
    words = tensors["q_weight"].numpy().view(np.uint32)
    table = tensors["q_groups"].numpy().view(np.uint16).tolist()
    starts = [*table[1::2], len(words)]
    columns: list[list[int]] = [[] for _ in range(words.shape[1])]
    for group, bits in enumerate(table[::2]):
        for codes, column in zip(columns, words[starts[group] : starts[group + 1]].T, strict=True):
            number = int.from_bytes(column.astype("<u4").tobytes(), "little")
            codes += [number >> (bits * row) & ((1 << bits) - 1) for row in range(32 * len(column) // bits)]
    return columns


@given(linear=linears())
@settings(deadline=None, max_examples=60)
def test_both_unpackers_agree_on_every_code(linear: QuantizedLinear) -> None:
    columns = linear.codes.shape[1]
    assert torch.equal(unpack_codes(engine_matrix(linear))[:, :columns], linear.codes)
    found = torch.tensor(unpack_bit_by_bit(pack(linear))).T
    assert torch.equal(found[:, :columns], linear.codes.long())


@given(linear=linears())
@settings(deadline=None, max_examples=30)
def test_padding_columns_decode_to_zero(linear: QuantizedLinear) -> None:
    weights = dequantize(engine_matrix(linear))
    assert weights.shape[1] % 32 == 0
    assert not weights[:, linear.codes.shape[1] :].any()


@given(linear=linears())
@settings(deadline=None, max_examples=30)
def test_scales_permutation_and_bias_come_back(linear: QuantizedLinear) -> None:
    tensors = pack(linear)
    words = tensors["q_scale"].numpy().view(np.uint32)
    for column in range(linear.codes.shape[1]):
        nibbles = words[:, column // 8] >> np.uint32(4 * (column % 8)) & 15
        assert nibbles.tolist() == linear.scale_codes[:, column].tolist()
    assert torch.equal(torch.argsort(tensors["q_invperm"]), linear.permutation)
    assert ("bias" in tensors) == (linear.bias is not None)
    if linear.bias is not None:
        assert torch.equal(tensors["bias"][: len(linear.bias)], linear.bias)


@pytest.mark.parametrize("bits", WIDTHS)
def test_a_code_starts_right_after_the_one_before_it(bits: int) -> None:
    codes = (torch.arange(32) % (1 << bits)).to(torch.uint8)[:, None]
    number = sum(code << (bits * row) for row, code in enumerate(codes[:, 0].tolist()))
    assert pack_codes(codes, bits).numpy().tobytes() == number.to_bytes(4 * bits, "little")


def test_groups_are_cut_at_every_section() -> None:
    assert groups_of([(4, 96), (3, 64)], 64) == [Group(4, 0, 64), Group(4, 64, 32), Group(3, 96, 64)]


def test_first_rows_beyond_15_bits_wrap_as_unsigned_numbers() -> None:
    rows = 4 * 33_000  # four codes of 8 bits to a word
    groups = [Group(8, 0, 4 * 32_992), Group(8, 4 * 32_992, 32)]
    linear = QuantizedLinear(
        groups=groups,
        codes=torch.zeros(rows, 1, dtype=torch.uint8),
        scale_codes=torch.zeros(2, 1, dtype=torch.uint8),
        scale_max=torch.ones(2).half(),
        permutation=torch.arange(rows),
    )
    assert pack(linear)["q_groups"].numpy().view(np.uint16).tolist() == [8, 0, 8, 32_992]


def test_more_inputs_than_the_group_table_can_index_are_refused() -> None:
    rows = 4 * 65_568
    linear = QuantizedLinear(
        groups=[Group(8, 0, rows - 32), Group(8, rows - 32, 32)],
        codes=torch.zeros(rows, 1, dtype=torch.uint8),
        scale_codes=torch.zeros(2, 1, dtype=torch.uint8),
        scale_max=torch.ones(2).half(),
        permutation=torch.arange(rows),
    )
    with pytest.raises(InputError, match="262272 input features"):
        pack(linear)
