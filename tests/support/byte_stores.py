"""Stores made of bytes, and swappers that move between them: nothing has to be computed with."""

import random
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import pytest

from flexquant.engine.memory import arena as arena_module
from flexquant.engine.memory.registry import MemoryRegistry
from flexquant.engine.pace import Pace
from flexquant.engine.residency import Block, Residency, VariantSize, module_bytes
from flexquant.engine.swap import Swapper
from support.sequences import Plan


def contents(module: str, variant: int, size: VariantSize) -> bytes:
    """What the store holds of a variant: bytes that no other variant has."""
    return random.Random(f"{module} {variant}").randbytes(size.payload)


def read(block: Block, buffer: memoryview) -> None:
    assert len(buffer) == block.length
    for place in block.placed:
        buffer[place.offset : place.offset + place.size.payload] = contents(place.module, place.variant, place.size)


@contextmanager
def swapper_on(
    plan: Plan, position: int = 0, reader: Callable[[Block, memoryview], None] = read, pace: Pace | None = None
) -> Iterator[tuple[Swapper, Residency, MemoryRegistry]]:
    residency = Residency(plan.sequence, plan.sizes)
    registry = MemoryRegistry(fixed=0, embedding=0, scratch={"spare": residency.spare_bytes})
    swapper = Swapper(residency, reader, position=position, registry=registry, pace=pace)
    try:
        yield swapper, residency, registry
    finally:
        swapper.close()


def check_contents(swapper: Swapper, residency: Residency, registry: MemoryRegistry) -> None:
    """Arenas hold what the position says, are as long as it says, and the books agree."""
    books = registry.snapshot()
    blocks = residency.blocks(swapper.position)
    for number, block in enumerate(blocks):
        found, arena = swapper.resident(number)
        assert found == block
        assert (arena is None) == (not block.placed)
        if arena is None:
            continue
        assert arena.mapped_bytes == block.mapped
        with arena.memory() as memory:
            for place in block.placed:
                end = place.offset + place.size.payload
                assert memory[place.offset : end] == contents(place.module, place.variant, place.size)
    assert books.modules == {name: entry for block in blocks for name, entry in module_bytes(block).items()}
    assert books.mapped == residency.mapped(swapper.position)


@contextmanager
def counted_mappings() -> Iterator[list[int]]:
    """Every byte that arenas map and unmap, as signed lengths."""
    lengths: list[int] = []
    map_, unmap = arena_module._map, arena_module._unmap

    def counting_map(length: int) -> int:
        address = map_(length)
        lengths.append(length)
        return address

    def counting_unmap(address: int, length: int) -> None:
        unmap(address, length)
        lengths.append(-length)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arena_module, "_map", counting_map)
        patch.setattr(arena_module, "_unmap", counting_unmap)
        yield lengths


def carry_out(swapper: Swapper, future: "Future[int]") -> int:
    """Be the engine thread until the move has ended."""
    while not future.done():
        swapper.safe_point()
    return future.result(timeout=0)
