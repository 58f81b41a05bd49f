"""Failures leave the model where it was; copies spare reading; the fake notices what a real card would not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.errors import MemoryShortError, SwapError, UnsupportedModelError
from flexquant.engine.exllamav2.card import Span
from flexquant.engine.exllamav2.form import Form
from flexquant.engine.exllamav2.handles import Handles, Placed
from flexquant.engine.segment import Segment
from support.elastic_models import PROMPT, carry_out, digests, exl2_specs, generate, move
from support.ensembles import random_ensemble
from support.fake_card import FakeCard, FakeKernels, FakeMemory, FakeSetUp, RuleBrokenError

Load = Callable[..., ElasticModel]


def test_no_room_for_the_start_position(ensemble: Ensemble) -> None:
    fakes = FakeSetUp(FakeCard(total=100_000))
    compute = fakes.compute()
    with pytest.raises(MemoryShortError) as caught:
        ElasticModel.load(ensemble, kv_pages=4, compute=compute, placement=compute.placement(ensemble))
    assert caught.value.available == 100_000
    assert fakes.card.used == 0


@pytest.mark.parametrize(
    ("made", "what"),
    [
        ({"cuts": {"lm_head": [64]}}, r"slices \(--max-step\)"),
        ({"nested": True}, r"\(--nested\)"),
        ({"method": "any-precision"}, "any-precision"),
    ],
)
def test_what_the_kernels_cannot_do_is_refused(folder: Path, made: dict[str, Any], what: str) -> None:
    ensemble = Ensemble.open(random_ensemble(folder, **made))
    fakes = FakeSetUp()
    compute = fakes.compute()
    with pytest.raises(UnsupportedModelError, match=what) as caught:
        ElasticModel.load(ensemble, kv_pages=4, compute=compute, placement=compute.placement(ensemble))
    assert caught.value.hint == "Serve with --device cpu."
    assert fakes.card.used == 0


def test_no_room_for_a_step_leaves_the_model_where_it_is(model: ElasticModel, fakes: FakeSetUp) -> None:
    before = generate(model)
    move(model, 5)
    fakes.card.total = fakes.card.used + 1000
    with pytest.raises(SwapError, match="stays at position 5"):
        carry_out(model, model.move_to(0))
    assert model.position == 5
    fakes.card.total = 1 << 30
    move(model, 0)
    assert generate(model) == before


def test_a_damaged_store_leaves_the_model_where_it_is(load: Load, folder: Path) -> None:
    ensemble = Ensemble.open(random_ensemble(folder))
    model = load(ensemble)
    before = digests(model)
    store = folder / "levels" / "3.0" / "quantized.safetensors"
    content = store.read_bytes()
    store.write_bytes(content[: len(content) // 2])
    with pytest.raises(SwapError):
        carry_out(model, model.move_to(model.max_position))
    assert digests(model) == before


def test_kept_copies_spare_reading_and_are_whole(ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = FakeSetUp(keep_copies=True)
    compute = fakes.compute()
    reads: list[str] = []
    fill = Form.fill

    def counted(form: Form, buffer: memoryview) -> None:
        reads.append(form.spec.key)
        fill(form, buffer)

    monkeypatch.setattr(Form, "fill", counted)
    model = ElasticModel.load(ensemble, kv_pages=4, compute=compute, placement=compute.placement(ensemble))
    at_start = digests(model)
    move(model, model.max_position)
    seen = len(reads)
    for position in (0, model.max_position, 0):
        move(model, position)
    assert len(reads) == seen == 2 * len(ensemble.manifest.modules)
    assert digests(model) == at_start
    model.close()


def test_books_count_what_is_on_the_card(model: ElasticModel, fakes: FakeSetUp, ensemble: Ensemble) -> None:
    for position in (0, model.max_position):
        move(model, position)
        snapshot = model.resident_bytes()
        assert snapshot.loading == snapshot.kv == 0
        assert snapshot.payload + ensemble.manifest.fixed_bytes == model.footprints[position]
        assert 0 <= snapshot.mapped - fakes.card.used < 4096 * len(ensemble.manifest.modules)
    sequence = model.new_sequence(100)
    assert model.resident_bytes().kv == fakes.card.used - sum(
        model._swapper.resident(bundle)[0].length for bundle in range(len(ensemble.manifest.modules))
    )
    model.release(sequence)


def test_only_the_blocks_of_a_step_are_made_anew(model: ElasticModel, fakes: FakeSetUp) -> None:
    (kernels,) = fakes.kernels
    made = kernels.made_blocks
    assert made == 2 * model.config.layers
    move(model, 1)  # one projection: one block
    assert kernels.made_blocks == made + 1


def _placed(ensemble: Ensemble, card: FakeCard) -> dict[str, Placed]:
    found = {}
    for key, specs in exl2_specs(ensemble).items():
        form = Form(specs[0])
        found[key] = Placed(form, card_bytes(card, form), 0)
    return found


def test_an_exchange_that_fails_changes_nothing(ensemble: Ensemble) -> None:
    card = FakeCard()
    norms = {name: ensemble.common.floats(name) for name in ensemble.config.norms()}
    kernels = FakeKernels(card, ensemble.config, norms, max_rows=8)
    handles = Handles(kernels, ensemble.config)
    first = _placed(ensemble, card)
    handles.exchange(first)
    block = handles.attention(0)
    second = {"model.layers.0.self_attn.q_proj": _placed(ensemble, card)["model.layers.0.self_attn.q_proj"]}
    kernels.fail_next_matrix = True
    with pytest.raises(RuntimeError, match="out of memory"):
        handles.exchange(second)
    assert handles.attention(0) == block
    handles.exchange(second)
    assert handles.attention(0) != block
    handles.release()
    kernels.close()


def test_the_fake_notices(ensemble: Ensemble, model: ElasticModel, fakes: FakeSetUp) -> None:
    """What would corrupt a real card silently: memory freed under a matrix or a pass, handles used after their end."""
    (kernels,) = fakes.kernels
    memory: Any = model._swapper.resident(0)[1]
    with pytest.raises(RuleBrokenError, match="under a matrix"):
        memory.release()
    handles = model._decoder._handles  # type: ignore[attr-defined]
    with pytest.raises(RuleBrokenError, match="under a block"):
        kernels.free_matrix(handles.matrix("model.layers.0.self_attn.q_proj"))
    form = Form(exl2_specs(ensemble)["model.layers.0.mlp.up_proj"][0])
    spoilt = card_bytes(fakes.card, form)
    matrix = kernels.make_matrix(form, spoilt, 0)
    once = kernels.reconstruct(matrix)
    kernels.free_matrix(matrix)
    with pytest.raises(RuleBrokenError):
        kernels.reconstruct(matrix)
    again = kernels.make_matrix(form, spoilt, 0)  # its codes were rewritten: it is garbage now
    assert not np.array_equal(kernels.reconstruct(again), once)
    kernels.free_matrix(again)
    spoilt.release()
    with pytest.raises(RuleBrokenError, match="after its release"):
        kernels.make_matrix(form, spoilt, 0)
    sequence = model.new_sequence(40)

    model.forward([Segment(sequence, np.array(PROMPT))])
    region = model._cache.region(sequence).memory  # type: ignore[attr-defined]
    kernels.attend(handles.attention(0), 0, kernels.enter(np.zeros((1, 64), np.float32), [Span(region, 64, 20, 1)]))
    with pytest.raises(RuleBrokenError, match="may run"):
        region.release()
    kernels.synchronize()
    model.release(sequence)


def card_bytes(card: FakeCard, form: Form) -> FakeMemory:
    """A layer, uploaded."""
    memory = card.allocate(form.size_bytes)
    staging = card.staging(form.size_bytes)
    form.fill(staging)
    card.upload(staging, memory)
    return memory
