"""What happens between the matrices of a layer, against a few lines of torch in float64."""

import ctypes
import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flexquant.engine.decoder import rotate
from flexquant.engine.kv_cache import KVCache, KVSequence, KVType, PageMemory, pages_for
from flexquant.engine.model_config import ModelConfig
from flexquant.engine.native import structs
from flexquant.engine.native.decoder import shape_of
from flexquant.engine.native.library import load
from flexquant.engine.prefix_cache import PAGE_TOKENS
from flexquant.engine.rope import RopeTable
from flexquant.engine.rope_settings import Rope
from support.native_layers import each_kernels, needs_native, normal, using
from support.page_slot import Slot
from support.tiny_model import tiny_config

pytestmark = needs_native

LAYERS = 2
SIZES = st.integers(1, 130)


def guarded(*shape: int) -> tuple[Tensor, Tensor]:
    """A result of this shape, full of garbage, and the numbers behind it, which must stay 1234."""
    memory = torch.full((math.prod(shape) + 32,), 1234.0)
    result = memory[: math.prod(shape)].view(shape)
    result.fill_(float("nan"))
    return result, memory[math.prod(shape) :]


@each_kernels
@settings(deadline=None, max_examples=20)
@given(rows=st.integers(1, 4), n=SIZES, size=st.sampled_from([1e-6, 1.0, 1e6]), eps=st.sampled_from([1e-6, 1e-5]))
def test_rms_norm_is_the_definition(kernels: str, rows: int, n: int, size: float, eps: float) -> None:
    x, weight = normal(rows, n, n) * size, 1 + 0.1 * normal(1, n, 2)[0]
    found, behind = guarded(rows, n)
    with using(kernels):
        load().fq_rms_norm(x.data_ptr(), weight.data_ptr(), rows, n, eps, found.data_ptr())
    expected = F.rms_norm(x.double(), (n,), weight.double(), eps)
    assert torch.allclose(found.double(), expected, rtol=2e-6, atol=0)
    assert behind.eq(1234.0).all()


@each_kernels
@settings(deadline=None, max_examples=20)
@given(rows=st.integers(1, 4), n=SIZES, size=st.sampled_from([1e-3, 1.0, 10.0, 100.0]))
def test_swiglu_is_the_definition(kernels: str, rows: int, n: int, size: float) -> None:
    gate, up = normal(rows, n, n) * size, normal(rows, n, n + 1)
    found, behind = guarded(rows, n)
    with using(kernels):
        load().fq_swiglu(gate.data_ptr(), up.data_ptr(), rows, n, found.data_ptr())
    expected = F.silu(gate.double()) * up.double()
    # Far below zero silu is next to nothing: x * exp(x) at -87 is 1e-36.
    assert torch.allclose(found.double(), expected, rtol=2e-6, atol=1e-34)
    assert behind.eq(1234.0).all()


@each_kernels
@settings(deadline=None, max_examples=20)
@given(
    head_dim=st.integers(1, 64).map(lambda half: 2 * half),
    left=st.sampled_from([0, 0, 2, 16, 34]),
    heads=st.integers(1, 5),
    positions=st.lists(st.integers(0, 4000), min_size=1, max_size=4),
)
def test_rotation_is_that_of_the_reference(
    kernels: str, head_dim: int, left: int, heads: int, positions: list[int]
) -> None:
    """Of a whole head, or of all but the last `left` features."""
    rotary_dim = max(2, head_dim - left)
    rotation = RopeTable(Rope(theta=10000.0), rotary_dim).rotation(np.array(positions))
    x = normal(len(positions) * heads, head_dim).view(len(positions), heads, head_dim)
    found, behind = guarded(*x.shape)
    found.copy_(x)
    cos, sin = rotation
    with using(kernels):
        load().fq_rotate(
            found.data_ptr(), cos.ctypes.data, sin.ctypes.data, len(positions), heads, head_dim, rotary_dim
        )
    expected = rotate(x.double(), rotation)
    assert torch.allclose(found.double(), expected, rtol=0, atol=1e-6)
    assert behind.eq(1234.0).all()


class Pages:
    """A cache with one sequence whose pages lie in random order in one buffer of garbage: 0xFF..., which is NaN."""

    def __init__(self, config: ModelConfig, dtype: KVType, tokens: int) -> None:
        self.config, self._slots = config, [0]
        self.cache = KVCache(config, pages=16, dtype=dtype, allocate=self._allocate)
        self.buffer = torch.full((16, self.cache.page_bytes), 0xFF, dtype=torch.uint8)
        self._slots = random.Random(tokens).sample(range(16), 16)
        self.sequence: KVSequence = self.cache.sequence()
        self.cache.reserve(self.sequence, tokens)
        self.cache.grow(self.sequence, tokens)

    def _allocate(self, nbytes: int) -> PageMemory:
        assert nbytes == self.buffer.shape[1]
        return Slot(self.buffer[self._slots.pop()])

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Append rows [rows, heads, head_dim] to the sequence, and attend."""
        rows, start = len(q), self.sequence.length
        pages = self.sequence.pages[: pages_for(start + rows)]
        table = (ctypes.c_uint64 * len(pages))(*[page.memory.address for page in pages])
        segment = structs.Segment(first_row=0, rows=rows, start=start, pages=ctypes.addressof(table))
        shape = shape_of(self.config, half=self.cache.dtype is np.float16)
        out, behind = guarded(rows, self.config.heads * self.config.head_dim)
        scaled = q / math.sqrt(self.config.head_dim)
        load().fq_attention(
            ctypes.byref(shape),
            ctypes.byref(segment),
            layer,
            scaled.data_ptr(),
            k.data_ptr(),
            v.data_ptr(),
            out.data_ptr(),
        )
        self.sequence.length += rows
        assert behind.eq(1234.0).all()
        return out


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The definition, in float64: row r sees keys up to r."""
    shared = q.shape[1] // k.shape[1]
    keys, values = (x.double().repeat_interleave(shared, dim=1) for x in (k, v))
    scores = torch.einsum("rhd,thd->hrt", q.double(), keys) / math.sqrt(q.shape[2])
    hidden = torch.ones(len(q), len(k), dtype=torch.bool).triu(1)
    weights = scores.masked_fill(hidden, -math.inf).softmax(-1)
    return torch.einsum("hrt,thd->rhd", weights, values).flatten(1)


def passes(total: int, cuts: Sequence[int]) -> list[slice]:
    ends = sorted({*(cut for cut in cuts if cut < total), total} - {0})
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


HEAD_DIMS = st.sampled_from([8, 16, 24, 32, 64, 80, 96, 128])
SHARED = st.sampled_from([1, 2, 4, 7])
DTYPES: st.SearchStrategy[KVType] = st.sampled_from([np.float16, np.float32])
TORCH_DTYPES = {np.float16: torch.float16, np.float32: torch.float32}


@each_kernels
@settings(deadline=None, max_examples=30)
@given(
    head_dim=HEAD_DIMS,
    shared=SHARED,
    kv_heads=st.sampled_from([1, 2]),
    dtype=DTYPES,
    total=st.integers(1, 4 * PAGE_TOKENS),
    cuts=st.lists(st.integers(0, 4 * PAGE_TOKENS), max_size=3),
    threads=st.sampled_from([1, 2]),
)
def test_attention_is_the_definition(
    kernels: str,
    head_dim: int,
    shared: int,
    kv_heads: int,
    dtype: KVType,
    total: int,
    cuts: list[int],
    threads: int,
) -> None:
    config = tiny_config(layers=LAYERS, heads=shared * kv_heads, kv_heads=kv_heads, head_dim=head_dim)
    q = 2 * normal(total, shared * kv_heads * head_dim, 1).view(total, -1, head_dim)
    k, v = (normal(total, kv_heads * head_dim, seed).view(total, -1, head_dim) for seed in (2, 3))
    pages = Pages(config, dtype, total)
    with using(kernels, threads):
        found = torch.cat([pages.attend(1, q[part], k[part], v[part]) for part in passes(total, cuts)])
    stored_k, stored_v = k.to(TORCH_DTYPES[dtype]), v.to(TORCH_DTYPES[dtype])
    assert torch.allclose(found.double(), plain_attention(q, stored_k, stored_v), rtol=0, atol=2e-5)
    # In the pages are keys and values of the layer, and beside them still nothing.
    for number, page in enumerate(pages.sequence.pages):
        keys, values = map(torch.from_numpy, pages.cache.view(page))  # [layers, kv_heads, PAGE_TOKENS, head_dim]
        first = number * PAGE_TOKENS
        last = min(total, first + PAGE_TOKENS)
        for view, stored in ((keys, stored_k), (values, stored_v)):
            assert torch.equal(view[1, :, : last - first].transpose(0, 1), stored[first:last])
            assert view[1, :, last - first :].isnan().all()
            assert view[0].isnan().all()


@each_kernels
@settings(deadline=None, max_examples=15)
@given(
    head_dim=HEAD_DIMS,
    shared=SHARED,
    dtype=DTYPES,
    total=st.integers(2, 3 * PAGE_TOKENS),
    cuts=st.lists(st.integers(1, 3 * PAGE_TOKENS), max_size=4),
)
def test_attention_is_the_same_bits_however_rows_are_cut(
    kernels: str, head_dim: int, shared: int, dtype: KVType, total: int, cuts: list[int]
) -> None:
    config = tiny_config(layers=LAYERS, heads=shared, kv_heads=1, head_dim=head_dim)
    q = normal(total, shared * head_dim, 1).view(total, -1, head_dim)
    k, v = (normal(total, head_dim, seed).view(total, -1, head_dim) for seed in (2, 3))
    with using(kernels):
        whole = Pages(config, dtype, total).attend(0, q, k, v)
        pages = Pages(config, dtype, total)
        assert torch.equal(torch.cat([pages.attend(0, q[at], k[at], v[at]) for at in passes(total, cuts)]), whole)


@each_kernels
@pytest.mark.parametrize("size", [0.0, 30.0])
def test_scores_far_apart_and_all_equal(kernels: str, size: float) -> None:
    """One key may take all the weight, and later pages may bring a much larger score than all before."""
    total = 3 * PAGE_TOKENS
    config = tiny_config(layers=LAYERS, heads=2, kv_heads=2, head_dim=32)
    q = size * normal(total, 64, 1).view(total, -1, 32)
    k, v = (normal(total, 64, seed).view(total, -1, 32) for seed in (2, 3))
    k *= torch.linspace(0.1, 10, total)[:, None, None]
    pages = Pages(config, np.float32, total)
    with using(kernels):
        found = pages.attend(1, q, k, v)
    # A score of a thousand has an error of 1e-4 in float32, and so has its weight.
    assert torch.allclose(found.double(), plain_attention(q, k, v), rtol=0, atol=2e-3)
