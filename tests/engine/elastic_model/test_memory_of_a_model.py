"""The memory that a model holds: what its books say, what it reads, and what it gives back."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from flexquant.engine.compute import choose_compute
from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.errors import MemoryShortError
from flexquant.engine.memory.process import anonymous_bytes
from flexquant.engine.memory_needs import MemoryNeeds
from flexquant.engine.model_config import EMBEDDING
from flexquant.engine.prefix_cache import PAGE_TOKENS
from support.elastic_models import move
from support.ensembles import Shape, random_ensemble
from support.torch_calls import appended

MIB = 1024 * 1024


def test_the_books_agree_with_what_was_announced(ensemble: Ensemble) -> None:
    needs = MemoryNeeds.of(ensemble, choose_compute())
    model = ElasticModel.load(ensemble, position=4, kv_pages=4)
    for position in (4, 0, model.max_position):
        move(model, position)
        found = model.resident_bytes()
        assert found.mapped == needs.mapped[position]
        assert found.scratch == needs.scratch
        assert found.total == needs.total(position, tokens=0)
    assert model.scratch_bytes == sum(needs.scratch.values()) > 0
    sequence = model.new_sequence(PAGE_TOKENS + 1)
    model.forward([appended(sequence, torch.zeros(PAGE_TOKENS + 1, dtype=torch.int64))])
    assert model.resident_bytes().kv == 2 * needs.kv_page
    assert model.resident_bytes().total == needs.total(model.position, PAGE_TOKENS + 1)
    model.release(sequence)
    assert model.resident_bytes().kv == 0
    model.close()


def test_only_the_start_position_is_read(ensemble: Ensemble) -> None:
    calls: list[tuple[int, int]] = []
    last = len(ensemble.sequence().transitions)
    model = ElasticModel.load(
        ensemble, position=last, kv_pages=4, progress=lambda done, total: calls.append((done, total))
    )
    assert model.position == model.target == last
    assert not model.moving
    assert calls[-1] == (model.footprints[last] - ensemble.manifest.fixed_bytes,) * 2
    model.close()


def test_no_memory_for_the_start_position(ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped: list[int] = []

    def few(length: int) -> int:
        mapped.append(length)
        if len(mapped) > 5:
            raise MemoryError("cannot map")
        return real(length)

    from flexquant.engine.memory import arena

    real = arena._map
    monkeypatch.setattr(arena, "_map", few)
    with pytest.raises(MemoryShortError, match="no memory for position 2") as raised:
        ElasticModel.load(ensemble, position=2, kv_pages=4)
    assert raised.value.needed == MemoryNeeds.of(ensemble, choose_compute()).total(2, 0)


def test_closing_gives_the_weights_back(tmp_path: Path) -> None:
    shape = Shape(hidden=512, intermediate=2048, layers=2, heads=8, kv_heads=8)
    ensemble = Ensemble.open(random_ensemble(tmp_path / "larger", shape))
    before = anonymous_bytes()
    model = ElasticModel.load(ensemble, kv_pages=4)
    held = anonymous_bytes() - before
    assert held > model.footprints[0]
    model.close()
    assert anonymous_bytes() - before < 2 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="posix_fadvise is Linux's")
def test_the_page_cache_is_dropped_when_asked(
    model: ElasticModel, ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[tuple[int, int, int]] = []
    monkeypatch.setattr(
        os, "posix_fadvise", lambda _file, start, length, advice: dropped.append((start, length, advice))
    )
    move(model, 1)
    assert dropped == []
    model.drop_page_cache = True
    move(model, 2)
    moved = ensemble.sequence().transitions[1].moves[0]
    for entry in ensemble.specs[moved.module][moved.to_variant].entries.values():
        assert any(start <= entry.offset and entry.end <= start + length for start, length, _ in dropped)
    assert {advice for *_, advice in dropped} == {os.POSIX_FADV_DONTNEED}


@pytest.mark.skipif(sys.platform != "linux", reason="posix_fadvise is Linux's")
def test_all_weights_can_leave_the_page_cache_but_not_the_embedding_table(
    model: ElasticModel, ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[tuple[int, int, int]] = []

    def note(descriptor: int, start: int, length: int, _advice: int) -> None:
        dropped.append((os.fstat(descriptor).st_ino, start, start + length))

    monkeypatch.setattr(os, "posix_fadvise", note)
    model.drop_file_cache()
    entries = [entry for specs in ensemble.specs.values() for spec in specs for entry in spec.entries.values()]
    for entry in entries:
        inode = entry.file.stat().st_ino
        assert any(
            file == inode and start <= entry.offset and entry.offset + entry.nbytes <= end
            for file, start, end in dropped
        )
    assert len(dropped) < len(entries), "neighbours go together"
    table = ensemble.common[EMBEDDING]
    for file, start, end in dropped:
        if file == table.file.stat().st_ino:
            inside = min(end, table.offset + table.nbytes) - max(start, table.offset)
            assert inside < 2 * 4096, "a page that it shares with a neighbour at most"


def test_a_store_that_is_gone_does_not_keep_the_others_in_the_page_cache(
    model: ElasticModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def gone(*_: object) -> int:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "open", gone)
    model.drop_file_cache()
    if sys.platform == "linux":
        assert "stays in the page cache: No such file" in caplog.text


def test_what_a_sequence_may_take_is_known_before_and_while_it_runs(model: ElasticModel) -> None:
    tokens = 3 * PAGE_TOKENS
    page = model.bytes_to_map(1)
    assert model.bytes_to_map(tokens, np.arange(tokens)) == 3 * page
    first = model.new_sequence(tokens, np.arange(tokens))
    assert model.promised_bytes == 3 * page
    model.forward([appended(first, torch.arange(tokens))])
    assert (model.promised_bytes, model.resident_bytes().kv) == (0, 3 * page)
    model.keep(first, np.arange(tokens), tokens)
    assert model.reusable_bytes == 0
    model.release(first)
    kept = model.reusable_bytes
    announced = model.bytes_to_map(tokens, np.arange(tokens))
    second = model.new_sequence(tokens, np.arange(tokens))
    assert model.promised_bytes == announced == 3 * page - second.cached_tokens // PAGE_TOKENS * page
    assert model.reusable_bytes == kept - second.cached_tokens // PAGE_TOKENS * page
    model.release(second)


def test_an_order_to_drop_what_is_reusable_wakes_an_idle_engine_thread(model: ElasticModel) -> None:
    sequence = model.new_sequence(PAGE_TOKENS)
    model.forward([appended(sequence, torch.arange(PAGE_TOKENS))])
    model.keep(sequence, np.arange(PAGE_TOKENS), PAGE_TOKENS)
    model.release(sequence)
    woken: list[int] = []
    model.on_ready = lambda: woken.append(model.reusable_bytes)
    model.drop_reusable()
    assert len(woken) == 1
    model.safe_point()
    assert model.reusable_bytes == model.resident_bytes().kv == 0
