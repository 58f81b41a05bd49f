"""Arenas: what is mapped, what is given back, and that no view survives."""

import errno
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.engine.memory import arena as arena_module
from flexquant.engine.memory.arena import HUGE_PAGE_BYTES, PAGE_BYTES, Arena, page_rounded
from flexquant.engine.memory.process import anonymous_bytes
from flexquant.engine.torch_tensors import arena_tensor

MIB = 1024 * 1024


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena(5 * MIB + 100)
    yield arena
    arena.release()


def address_of(arena: Arena) -> int:
    return arena_tensor(arena).data_ptr()


def is_viewed(arena: Arena) -> bool:
    """The property through a function, because the type checker believes that a property keeps its value."""
    return arena.viewed


def test_length_is_the_payload_in_whole_pages(arena: Arena) -> None:
    assert arena.mapped_bytes == page_rounded(5 * MIB + 100)
    assert arena_tensor(arena).shape == (arena.mapped_bytes,)
    assert len(arena.memory()) == arena.mapped_bytes


def test_large_arenas_start_at_a_huge_page() -> None:
    arenas = [Arena(2 * MIB + count * PAGE_BYTES) for count in range(5)]
    assert [address_of(arena) % HUGE_PAGE_BYTES for arena in arenas] == [0] * 5
    for arena in arenas:
        arena.release()


def test_contents_are_zero_and_shared_by_all_views(arena: Arena) -> None:
    assert int(arena_tensor(arena).count_nonzero()) == 0
    arena.memory()[123] = 7
    assert int(arena_tensor(arena)[123]) == 7
    arena_tensor(arena)[-1] = 9
    assert arena.memory()[-1] == 9


def test_trim_keeps_the_head(arena: Arena) -> None:
    arena_tensor(arena).copy_(torch.arange(arena.mapped_bytes) % 251)
    where = address_of(arena)
    arena.trim(3 * MIB + 1)
    assert arena.mapped_bytes == page_rounded(3 * MIB + 1)
    assert address_of(arena) == where
    assert torch.equal(arena_tensor(arena), (torch.arange(arena.mapped_bytes) % 251).to(torch.uint8))


@pytest.mark.parametrize("nbytes", [0, -1, 6 * MIB])
def test_trim_refuses_lengths_it_cannot_have(arena: Arena, nbytes: int) -> None:
    with pytest.raises(ValueError, match="cannot trim"):
        arena.trim(nbytes)
    assert arena.mapped_bytes == page_rounded(5 * MIB + 100)


@pytest.mark.parametrize("nbytes", [0, -5])
def test_empty_arenas_are_refused(nbytes: int) -> None:
    with pytest.raises(ValueError, match="at least one byte"):
        Arena(nbytes)


def test_more_than_the_system_has_is_a_memory_error() -> None:
    with pytest.raises(MemoryError, match="cannot map"):
        Arena(1 << 60)


@pytest.mark.parametrize("make", [Arena.array, arena_tensor])
def test_views_stop_trim_and_release(arena: Arena, make: Callable[[Arena], Any]) -> None:
    view = make(arena)[:10]
    assert is_viewed(arena)
    with pytest.raises(RuntimeError, match="view"):
        arena.release()
    with pytest.raises(RuntimeError, match="view"):
        arena.trim(PAGE_BYTES)
    assert int(view.sum()) == 0
    del view
    assert not is_viewed(arena)
    with arena.memory():
        assert is_viewed(arena)
    assert not is_viewed(arena)
    arena.trim(PAGE_BYTES)
    assert not is_viewed(arena)


def test_use_after_release_raises() -> None:
    arena = Arena(PAGE_BYTES)
    arena.release()
    arena.release()
    assert arena.mapped_bytes == 0
    for use in (arena.array, arena.memory, arena.prefault):
        with pytest.raises(RuntimeError, match="released"):
            use()


def test_a_dropped_arena_gives_its_memory_back() -> None:
    arena = Arena(32 * MIB)
    arena.prefault()
    held = anonymous_bytes()
    del arena
    assert abs(held - anonymous_bytes() - 32 * MIB) < MIB


def test_a_view_outlives_a_dropped_arena() -> None:
    view = arena_tensor(Arena(PAGE_BYTES))
    assert int(view.sum()) == 0


def test_memory_goes_back_to_the_system_at_once() -> None:
    slack = MIB
    before = anonymous_bytes()
    arenas = [Arena(8 * MIB + PAGE_BYTES) for _ in range(8)]
    assert anonymous_bytes() - before < slack  # nothing is resident before it is touched
    for arena in arenas:
        arena_tensor(arena).fill_(1)
    assert abs(anonymous_bytes() - before - 8 * (8 * MIB + PAGE_BYTES)) < slack
    for arena in arenas:
        arena.trim(3 * MIB)
    assert abs(anonymous_bytes() - before - 8 * 3 * MIB) < slack
    for arena in arenas:
        arena.release()
    assert abs(anonymous_bytes() - before) < slack


def _events(name: str) -> int:
    for line in Path("/proc/vmstat").read_text().splitlines():
        key, value = line.split()
        if key == name:
            return int(value)
    return 0


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are Linux's")
def test_a_trim_splits_the_huge_page_it_cuts() -> None:
    """Otherwise the kernel keeps the cut part of the page until memory is short, whatever RssAnon says."""
    given_out = _events("thp_fault_alloc")
    arenas = [Arena(2 * MIB) for _ in range(8)]
    for arena in arenas:
        arena.prefault()
    if _events("thp_fault_alloc") - given_out < 8:
        for arena in arenas:
            arena.release()
        pytest.skip("the kernel gives no huge pages here")
    splits = _events("thp_split_page")
    for arena in arenas:
        arena.trim(MIB)
    assert _events("thp_split_page") - splits >= 8
    for arena in arenas:
        arena.release()


@settings(deadline=None, max_examples=60)
@given(
    length=st.integers(1, 3 * HUGE_PAGE_BYTES),
    cuts=st.lists(st.floats(0.01, 1.0), max_size=4),
    value=st.integers(0, 255),
)
def test_any_series_of_trims_keeps_contents_and_bookkeeping(length: int, cuts: list[float], value: int) -> None:
    arena = Arena(length)
    arena_tensor(arena).fill_(value)
    for cut in cuts:
        keep = max(1, int(arena.mapped_bytes * cut))
        arena.trim(keep)
        assert arena.mapped_bytes == page_rounded(keep)
        assert int((arena_tensor(arena) != value).sum()) == 0
    arena.release()
    assert arena.mapped_bytes == 0


@settings(deadline=None, max_examples=60)
@given(
    kept=st.integers(1, 3 * HUGE_PAGE_BYTES),
    more=st.integers(0, HUGE_PAGE_BYTES),
    behind=st.integers(0, HUGE_PAGE_BYTES),
    offset=st.sampled_from([0, PAGE_BYTES, HUGE_PAGE_BYTES]),
    moves=st.booleans(),
)
def test_what_is_taken_arrives_whole_and_costs_no_memory(
    kept: int, more: int, behind: int, offset: int, *, moves: bool
) -> None:
    target, source = Arena(kept + more), Arena(offset + kept + behind)
    for arena in (target, source):
        arena.prefault()
    arena_tensor(target).fill_(255)
    arena_tensor(source).copy_(torch.arange(source.mapped_bytes) % 251)
    where, before = (target.address, source.address), anonymous_bytes()
    with pytest.MonkeyPatch.context() as patch:
        if not moves:  # as a kernel does that cannot move pages
            patch.setattr(arena_module, "_move_huge_page", lambda _source, _target: False)
        target.take(source, offset, kept)
    assert anonymous_bytes() <= before + MIB // 2  # what Python may take for itself meanwhile
    assert torch.equal(arena_tensor(target)[:kept], (torch.arange(offset, offset + kept) % 251).to(torch.uint8))
    assert bool((arena_tensor(target)[kept:] == 255).all())
    assert (target.address, source.address) == where
    # The kept part is no part of the other arena any more, and both can be written and given back.
    arena_tensor(source).fill_(1)
    assert int(arena_tensor(target)[0]) == offset % 251
    target.trim(kept)
    for arena in (target, source):
        arena.release()


@pytest.mark.parametrize("fails_at", range(1, 7))
def test_a_kernel_that_stops_moving_pages_half_way_loses_nothing(
    fails_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, source = Arena(2 * HUGE_PAGE_BYTES), Arena(2 * HUGE_PAGE_BYTES)
    arena_tensor(source).copy_(torch.arange(source.mapped_bytes) % 251)
    calls = 0
    move = arena_module._move_huge_page

    def fails_once(origin: int, destination: int) -> bool:
        nonlocal calls
        calls += 1
        return calls != fails_at and move(origin, destination)

    monkeypatch.setattr(arena_module, "_move_huge_page", fails_once)
    target.take(source, 0, target.mapped_bytes)
    assert torch.equal(arena_tensor(target), (torch.arange(target.mapped_bytes) % 251).to(torch.uint8))
    arena_tensor(source).fill_(3)
    for arena in (target, source):
        arena.release()


@pytest.mark.parametrize(("offset", "nbytes"), [(0, 3 * PAGE_BYTES), (PAGE_BYTES, 2 * PAGE_BYTES), (0, -1)])
def test_more_than_there_is_cannot_be_taken(offset: int, nbytes: int) -> None:
    target, source = Arena(4 * PAGE_BYTES), Arena(2 * PAGE_BYTES)
    with pytest.raises(ValueError, match="cannot take"):
        target.take(source, offset, nbytes)
    target.release()
    source.release()


def test_prefaulted_memory_is_there() -> None:
    before, arena = anonymous_bytes(), Arena(8 * MIB)
    arena.prefault()
    assert anonymous_bytes() - before >= 8 * MIB
    arena.release()


def test_a_prefault_without_memory_is_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    arena = Arena(MIB)
    monkeypatch.setattr(arena_module, "_populate", lambda _address, _length: errno.ENOMEM)
    with pytest.raises(MemoryError, match="cannot have"):
        arena.prefault()
    arena.release()


def test_an_older_kernel_is_made_to_have_the_pages_by_touching_them(monkeypatch: pytest.MonkeyPatch) -> None:
    before, arena = anonymous_bytes(), Arena(8 * MIB)
    monkeypatch.setattr(arena_module, "_populate", lambda _address, _length: errno.EINVAL)
    arena.prefault()
    assert anonymous_bytes() - before >= 8 * MIB
    arena.release()
