"""The elastic model: at every position it is EQM(k), whatever way led there and whatever ran meanwhile."""

import hashlib
import os
import random
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.engine.compute import choose_compute
from flexquant.engine.decoder import Segment
from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.errors import CheckpointError, ContextLengthError, EnsembleError, MemoryShortError, SwapError
from flexquant.engine.exl2.dequantize import Exl2Matrix, dequantize
from flexquant.engine.generation import Generation
from flexquant.engine.kv_cache import PAGE_TOKENS
from flexquant.engine.manifest import assignment
from flexquant.engine.memory.process import anonymous_bytes
from flexquant.engine.memory_needs import MemoryNeeds
from flexquant.engine.tensor_index import TensorIndex
from support.ensembles import Shape, random_ensemble

MIB = 1024 * 1024
PROMPT = list(range(40, 60))
STORE = "levels/3.0/quantized.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_ensemble(tmp_path_factory.mktemp("elastic") / "two-levels")


@pytest.fixture(scope="module")
def ensemble(folder: Path) -> Ensemble:
    return Ensemble.open(folder)


@pytest.fixture
def model(ensemble: Ensemble) -> Iterator[ElasticModel]:
    model = ElasticModel.load(ensemble, kv_pages=8)
    yield model
    model.close()


@pytest.fixture
def own_folder(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "own"))


def carry_out(model: ElasticModel, future: "Future[int]") -> int:
    """Be the engine thread until the move has ended."""
    while not future.done():
        model.safe_point()
    return future.result(timeout=0)


def move(model: ElasticModel, position: int) -> None:
    assert carry_out(model, model.move_to(position)) == position


def offline(ensemble: Ensemble, module: str, variant: int) -> torch.Tensor:
    """Weights of a variant, read from the store that the manifest names, without arenas."""
    described = next(found for found in ensemble.manifest.modules if found.name == module)
    level = described.variants[variant].level
    store = next(found.store for found in ensemble.manifest.levels if found.name == level)
    index = TensorIndex.open(ensemble.folder / store)
    spec = ensemble.specs[module][variant]
    tensors = {name.rsplit(".", 1)[1]: index.read(name) for name in described.variants[variant].tensors}
    matrix = Exl2Matrix(
        tensors["q_weight"],
        tensors["q_scale"],
        tensors["q_scale_max"],
        tensors["q_invperm"],
        tensors.get("bias"),
        spec.runs,
        spec.out_features,
    )
    return dequantize(matrix)


def digest(weights: torch.Tensor) -> str:
    return hashlib.sha256(weights.contiguous().numpy().tobytes()).hexdigest()


def digests_by_position(ensemble: Ensemble) -> list[dict[str, tuple[int, str]]]:
    """EQM(k) for every k, assembled from the stores: variant and hash of every module."""
    known = {
        (module.name, variant): digest(offline(ensemble, module.name, variant))
        for module in ensemble.manifest.modules
        for variant in range(len(module.variants))
    }
    name = ensemble.manifest.default_sequence
    positions = range(len(ensemble.sequence().transitions) + 1)
    return [
        {module: (variant, known[module, variant]) for module, variant in chosen.items()}
        for chosen in (assignment(ensemble.manifest, name, position) for position in positions)
    ]


def digests(model: ElasticModel) -> dict[str, tuple[int, str]]:
    found = {}
    for module in model.ensemble.manifest.modules:
        variant, weights = model.weights_of(module.name)
        found[module.name] = (variant, digest(weights))
    return found


def generate(model: ElasticModel, tokens: int = 12, prompt: Sequence[int] = PROMPT) -> list[int]:
    with Generation(model, prompt, max_tokens=tokens, ignore_eos=True) as generation:
        while generation.finished is None:
            generation.step()
        return list(generation.generated)


def logits(model: ElasticModel) -> torch.Tensor:
    sequence = model.new_sequence(len(PROMPT))
    try:
        return model.forward([Segment(sequence, torch.tensor(PROMPT))])
    finally:
        model.release(sequence)


def fresh_logits(ensemble: Ensemble, position: int) -> torch.Tensor:
    fresh = ElasticModel.load(ensemble, position=position, kv_pages=8)
    try:
        return logits(fresh)
    finally:
        fresh.close()


# --- weights


def test_weights_equal_the_offline_assembly_at_every_position(model: ElasticModel, ensemble: Ensemble) -> None:
    expected = digests_by_position(ensemble)
    seen: dict[int, int] = {}

    def compare(position: int) -> None:
        assert digests(model) == expected[position]
        seen[position] = seen.get(position, 0) + 1

    compare(0)
    model.on_published = compare
    move(model, model.max_position)
    move(model, 0)
    assert seen == {0: 2, model.max_position: 1} | dict.fromkeys(range(1, model.max_position), 2)


TRANSITIONS_OF_THREE = [
    [
        ("model.layers.0.mlp.gate_proj", 0, 1),
        ("model.layers.0.mlp.up_proj", 0, 1),
        ("model.layers.1.mlp.up_proj", 0, 1),
    ],
    [("model.layers.0.self_attn.q_proj", 0, 2)],
    [("lm_head", 0, 1), ("model.layers.1.mlp.gate_proj", 0, 1)],
    [("model.layers.0.mlp.gate_proj", 1, 2), ("model.layers.1.mlp.up_proj", 1, 2)],
    [("model.layers.0.mlp.up_proj", 1, 2), ("lm_head", 1, 2), ("model.layers.0.self_attn.k_proj", 0, 1)],
]


@pytest.fixture(scope="module")
def three_levels(tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    """Three levels, transitions of several modules that overlap only in part, jumps, modules that never move."""
    folder = tmp_path_factory.mktemp("elastic") / "three-levels"
    shape = Shape(layers=2, intermediate=192)
    return Ensemble.open(random_ensemble(folder, shape, bits=(8, 5, 2), transitions=TRANSITIONS_OF_THREE))


def test_three_levels_and_transitions_of_several_modules(three_levels: Ensemble) -> None:
    expected = digests_by_position(three_levels)
    model = ElasticModel.load(three_levels, position=2, kv_pages=4)
    assert digests(model) == expected[2]
    for target in (5, 0, 3, 1, 4, 5, 0):
        move(model, target)
        assert digests(model) == expected[target]
    model.close()


def test_footprints_are_those_of_the_manifest(model: ElasticModel, ensemble: Ensemble) -> None:
    assert model.footprints == ensemble.sequence().footprint_bytes
    assert model.max_position == len(model.footprints) - 1
    for position in (0, model.max_position):
        move(model, position)
        assert model.resident_bytes().payload + ensemble.manifest.fixed_bytes == model.footprints[position]


# --- forward


def test_answers_depend_on_the_position_only(model: ElasticModel, ensemble: Ensemble) -> None:
    last = model.max_position
    by_position = {position: fresh_logits(ensemble, position) for position in (0, 5, last)}
    assert not torch.equal(by_position[0], by_position[5])
    for position in (last, 5, 0, 5, last, 0):
        move(model, position)
        assert torch.equal(logits(model), by_position[position])


def test_a_pass_of_single_rows_runs_at_one_position(model: ElasticModel) -> None:
    ready = threading.Event()
    model.on_ready = ready.set
    sequence = model.new_sequence(30)
    model.forward([Segment(sequence, torch.tensor(PROMPT))])
    positions: list[int] = []

    def between_layers() -> None:
        if not positions:
            model.move_to(3)
            assert ready.wait(30)
        positions.append(model.position)

    model.forward([Segment(sequence, torch.tensor([7]))], between_layers)
    assert positions == [0] * model.config.layers
    model.forward([Segment(sequence, torch.tensor([8]))])
    assert model.position == 3
    model.release(sequence)


def test_a_prefill_pass_lets_moves_in_between_layers(model: ElasticModel) -> None:
    sequence = model.new_sequence(30)
    positions: list[int] = []

    def between_layers() -> None:
        if not positions:
            model.move_to(3)
        positions.append(model.position)

    model.forward([Segment(sequence, torch.tensor(PROMPT))], between_layers)
    assert positions == [0] + [3] * (model.config.layers - 1)
    assert sequence.length == len(PROMPT)
    model.release(sequence)


def test_a_sequence_lives_through_moves(model: ElasticModel) -> None:
    """0 -> N -> 0 while tokens stream: none is lost, and afterwards the model is as if it had never moved."""
    before = generate(model, tokens=100)
    with Generation(model, PROMPT, max_tokens=100, ignore_eos=True) as generation:
        visited = set()
        while generation.finished is None:
            if len(generation.generated) == 5:
                model.move_to(model.max_position, budget_s=0)
            if len(generation.generated) == 60:
                model.move_to(0, budget_s=0)
            generation.step()
            visited.add(model.position)
        assert len(generation.generated) == 100
    assert len(visited) > 10
    move(model, 0)
    assert generate(model, tokens=100) == before


@pytest.mark.parametrize("seed", range(3))
def test_generation_while_another_thread_moves_the_model(ensemble: Ensemble, seed: int) -> None:
    model = ElasticModel.load(ensemble, position=seed, kv_pages=8)
    needs = MemoryNeeds.of(ensemble, choose_compute())
    expected = digests_by_position(ensemble)
    stop = threading.Event()
    steps = [seed]

    def published(position: int) -> None:
        assert abs(position - steps[-1]) == 1
        assert 0 <= position <= model.max_position
        assert model.resident_bytes().mapped == needs.mapped[position]
        steps.append(position)

    def order() -> None:
        rng = random.Random(seed)
        while not stop.wait(rng.random() * 0.01):
            model.move_to(rng.randint(0, model.max_position), budget_s=rng.choice([None, 0, 0, 0.002]))

    model.on_published = published
    mover = threading.Thread(target=order)
    mover.start()
    try:
        generations = 0
        while generations < 6 or len(steps) <= 20:
            assert len(generate(model, tokens=20)) == 20
            generations += 1
    finally:
        stop.set()
        mover.join()
    for position in (seed + 4, model.max_position - seed):
        move(model, position)
        assert digests(model) == expected[position]
        assert torch.equal(logits(model), fresh_logits(ensemble, position))
    model.close()


@settings(deadline=None, max_examples=10)
@given(targets=st.lists(st.tuples(st.integers(0, 22), st.sampled_from([None, 0.0])), min_size=1, max_size=8))
def test_any_orders_between_tokens(ensemble: Ensemble, targets: list[tuple[int, float | None]]) -> None:
    model = ElasticModel.load(ensemble, position=11, kv_pages=4)
    with Generation(model, PROMPT, max_tokens=len(targets) + 1, ignore_eos=True) as generation:
        for position, budget in targets:
            model.move_to(position, budget_s=budget)
            generation.step()
    last = targets[-1][0]
    move(model, last)
    got, wanted = logits(model), fresh_logits(ensemble, last)
    model.close()
    assert torch.equal(got, wanted)


# --- memory


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
    model.forward([Segment(sequence, torch.zeros(PAGE_TOKENS + 1, dtype=torch.int64))])
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
    entries = ensemble.specs[moved.module][moved.to_variant].entries.values()
    assert len(dropped) == len(entries)
    for entry, (start, length, advice) in zip(entries, dropped, strict=True):
        assert start <= entry.offset
        assert start + length >= entry.offset + entry.nbytes
        assert advice == os.POSIX_FADV_DONTNEED


# --- limits and failures


def test_sequences_longer_than_the_context_are_refused(ensemble: Ensemble) -> None:
    model = ElasticModel.load(ensemble, context=64, kv_pages=4)
    with pytest.raises(ContextLengthError, match="65 tokens exceed the context of 64") as raised:
        model.new_sequence(65)
    assert (raised.value.tokens, raised.value.limit) == (65, 64)
    model.close()


@pytest.mark.parametrize("position", [-1, 23])
def test_start_positions_outside_the_sequence_are_refused(ensemble: Ensemble, position: int) -> None:
    with pytest.raises(ValueError, match=r"outside 0\.\.22"):
        ElasticModel.load(ensemble, position=position, kv_pages=4)


def test_unknown_sequences_are_refused(ensemble: Ensemble) -> None:
    with pytest.raises(EnsembleError, match="no 'fast'"):
        ElasticModel.load(ensemble, sequence="fast", kv_pages=4)


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _remove(path: Path) -> None:
    path.unlink()


def _replace_by_another_model(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1000:] = random.Random(1).randbytes(1000)
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [_truncate, _remove, _replace_by_another_model])
def test_a_store_damaged_while_serving(own_folder: Path, damage: Callable[[Path], None]) -> None:
    """The position stays, the model answers, and the next move works once the file is whole again."""
    path = own_folder / STORE
    whole = path.read_bytes()
    model = ElasticModel.load(Ensemble.open(own_folder), kv_pages=8)
    move(model, 2)
    before = logits(model)
    damage(path)
    future = model.move_to(10)
    with pytest.raises(SwapError, match=rf"stays at position 2; .*{STORE}"):
        carry_out(model, future)
    assert (model.position, model.moving) == (2, False)
    assert STORE in str(model.last_error)
    assert torch.equal(logits(model), before)
    path.write_bytes(whole)
    move(model, 10)
    assert model.last_error is None
    model.close()


def test_a_store_replaced_by_an_identical_copy_is_read(own_folder: Path) -> None:
    model = ElasticModel.load(Ensemble.open(own_folder), kv_pages=8)
    whole = (own_folder / STORE).read_bytes()
    (own_folder / STORE).unlink()
    (own_folder / STORE).write_bytes(whole)
    move(model, model.max_position)
    model.close()


def test_a_store_damaged_after_opening(own_folder: Path) -> None:
    ensemble = Ensemble.open(own_folder)
    _truncate(own_folder / "levels/8.0/quantized.safetensors")
    with pytest.raises(CheckpointError, match=r"8\.0/quantized\.safetensors"):
        ElasticModel.load(ensemble, kv_pages=8)
