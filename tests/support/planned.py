"""Compares an ensemble that was planned with one that was built."""

from flexquant.engine.compute import choose_compute
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.manifest import Module
from flexquant.engine.memory_needs import MemoryNeeds
from flexquant.ensemble_builder.report.sizes import Granularity


def assert_same_sizes(planned: Ensemble, built: Ensemble) -> None:
    """All that depends on sizes is the same; the order of the transitions is not looked at."""
    ours, theirs = planned.manifest, built.manifest
    assert [_sizes(module) for module in ours.modules] == [_sizes(module) for module in theirs.modules]
    assert (ours.levels, ours.parameters, ours.architecture) == (theirs.levels, theirs.parameters, theirs.architecture)
    assert (ours.fixed_bytes, ours.embedding_bytes) == (theirs.fixed_bytes, theirs.embedding_bytes)
    first, second = planned.sequence().footprint_bytes, built.sequence().footprint_bytes
    assert (first[0], first[-1]) == (second[0], second[-1])
    assert Granularity.of(first) == Granularity.of(second)
    compute = choose_compute()
    needs, found = MemoryNeeds.of(planned, compute), MemoryNeeds.of(built, compute)
    assert (needs.mapped[0], needs.mapped[-1]) == (found.mapped[0], found.mapped[-1])
    assert (needs.scratch, needs.fixed, needs.kv_page) == (found.scratch, found.fixed, found.kv_page)


def _sizes(module: Module) -> tuple[object, ...]:
    return module.name, module.linear, module.columns, module.in_features, module.out_features, module.variants
