"""Passes stay within the working memory that is declared for them."""

import ctypes
from pathlib import Path

import pytest
import torch

from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.memory.arena import Arena, page_rounded
from flexquant.engine.native.compute import NativeCompute
from flexquant.engine.native.decoder import NativeDecoder, shape_of
from flexquant.engine.native.library import load
from flexquant.engine.native.linears import most_rounded_bytes
from flexquant.engine.prefill import CHUNK_TOKENS
from flexquant.engine.residency import Residency
from flexquant.engine.swap import Swapper
from flexquant.engine.torch_tensors import arena_tensor
from support.ensembles import Shape, random_ensemble
from support.native_layers import KERNELS, needs_native, using
from support.torch_calls import appended

pytestmark = needs_native

PATTERN = 0xA5
SHAPES = {
    "wide inside": Shape(hidden=64, intermediate=512, layers=2),
    "wide outside": Shape(hidden=256, intermediate=32, layers=2, heads=4, kv_heads=4),
    "a head wider than all": Shape(hidden=32, intermediate=64, layers=1, heads=2, kv_heads=1, vocab=900),
}


class Guarded(NativeCompute):
    """Passes work in memory that is longer than declared, full of a pattern."""

    arena: Arena
    declared: int

    def decoder(self, ensemble: Ensemble, residency: Residency, swapper: Swapper) -> NativeDecoder:
        shape = shape_of(ensemble.config)
        rounded = most_rounded_bytes(ensemble, CHUNK_TOKENS)
        self.declared = int(load().fq_scratch_bytes(ctypes.byref(shape), CHUNK_TOKENS, rounded))
        self.arena = Arena(self.declared + (1 << 20))
        arena_tensor(self.arena).fill_(PATTERN)
        return NativeDecoder(ensemble, residency, swapper, max_rows=CHUNK_TOKENS, scratch=self.arena)


@pytest.mark.parametrize("name", SHAPES)
def test_passes_write_nothing_behind_the_declared_scratch_memory(name: str, tmp_path: Path) -> None:
    ensemble = Ensemble.open(random_ensemble(tmp_path / "random", SHAPES[name], bits=(6, 3)))
    with using():
        compute = Guarded(KERNELS[0], 2)
        model = ElasticModel.load(ensemble, kv_pages=96, compute=compute)
        rows = [2 * CHUNK_TOKENS - 100, 1, 1, 90, *([1] * 8)]
        segments = [appended(model.new_sequence(512), torch.arange(count) % 280) for count in rows]
        model.forward(segments)
        model.forward([appended(segment.sequence, torch.tensor([7])) for segment in segments])
        model.close()
    assert arena_tensor(compute.arena)[compute.declared :].eq(PATTERN).all()
    # Nor is much more declared than a full pass takes.
    touched = int(arena_tensor(compute.arena).ne(PATTERN).nonzero().max()) + 1
    assert 0.9 * compute.declared < touched <= compute.declared
    assert page_rounded(compute.declared) <= compute.scratch(ensemble)["pass"]
