"""The card answers as the CPU engine does, at every position and whatever moved it."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flexquant.engine.compute import choose_compute
from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.exllamav2.arenas import CardArenas
from flexquant.engine.generation import Generation
from flexquant.engine.residency import Block
from flexquant.engine.segment import Floats, Segment
from support.elastic_models import PROMPT, digests, digests_by_position, generate, logits, move
from support.ensembles import Shape, random_ensemble
from support.fake_card import FakeSetUp

TOLERANCE = 0.004
"""Of keys, values and embeddings in half precision."""

THREE_LEVELS = [
    [("model.layers.0.mlp.gate_proj", 0, 1), ("model.layers.0.mlp.up_proj", 0, 1), ("lm_head", 0, 1)],
    [("model.layers.0.self_attn.q_proj", 0, 2)],
    [("model.layers.1.mlp.down_proj", 0, 1), ("model.layers.1.self_attn.o_proj", 0, 1)],
    [("model.layers.0.mlp.gate_proj", 1, 2), ("lm_head", 1, 2)],
]


def reference(ensemble: Ensemble, position: int) -> Floats:
    """Logits of `PROMPT` by plain torch on the CPU."""
    model = ElasticModel.load(ensemble, position=position, kv_pages=8, compute=choose_compute("torch", 1))
    try:
        return logits(model).numpy()
    finally:
        model.close()


def close(found: Floats, expected: Floats) -> bool:
    return bool(np.linalg.norm(found - expected) <= TOLERANCE * np.linalg.norm(expected))


def test_logits_agree_with_the_cpu_engine(model: ElasticModel, ensemble: Ensemble) -> None:
    last = model.max_position
    for position in (0, 1, 7, last, 8, 0):
        move(model, position)
        assert close(logits(model).numpy(), reference(ensemble, position))
    assert not close(reference(ensemble, last), reference(ensemble, 0))


def test_weights_are_those_of_the_stores_at_every_position(model: ElasticModel, ensemble: Ensemble) -> None:
    expected = digests_by_position(ensemble)
    seen = []

    def compare(position: int) -> None:
        assert digests(model) == expected[position]
        seen.append(position)

    compare(0)
    model.on_published = compare
    move(model, model.max_position)
    move(model, 0)
    assert sorted(seen) == sorted(
        [0, model.max_position, *[0, *range(1, model.max_position)], *range(1, model.max_position)]
    )


def test_three_levels_and_blocks_that_move_together(load: Callable[..., ElasticModel], folder: Path) -> None:
    """One store's columns of gate and up beside another's rows of down: each layer keeps its own order."""
    shape = Shape(layers=2, intermediate=192)
    ensemble = Ensemble.open(random_ensemble(folder, shape, bits=(8, 5, 2), transitions=THREE_LEVELS))
    model = load(ensemble, position=2)
    for position in (2, 4, 1, 3, 0):
        move(model, position)
        assert close(logits(model).numpy(), reference(ensemble, position))


def test_passes_of_any_cut_give_the_same(model: ElasticModel) -> None:
    tokens = np.arange(300) % 240 + 8
    whole = model.new_sequence(320)
    cut = model.new_sequence(320)
    expected = model.forward([Segment(whole, tokens)])
    for first, end in ((0, 1), (1, 60), (60, 61), (61, 300)):
        found = model.forward([Segment(cut, tokens[first:end])])
    assert close(found, expected)
    for sequence in (whole, cut):
        model.release(sequence)


def test_all_rows_of_a_prompt_can_be_read(model: ElasticModel) -> None:
    tokens = np.arange(300) % 240 + 8
    sequence, by_token = model.new_sequence(320), model.new_sequence(320)
    rows: dict[int, Floats] = {}
    for first, end in ((0, 1), (1, 300)):
        last = model.forward([Segment(sequence, tokens[first:end], lambda at, part: rows.update(enumerate(part, at)))])
    assert sorted(rows) == list(range(300))
    assert close(rows[299], last[0])
    for place in range(40):
        expected = model.forward([Segment(by_token, tokens[place : place + 1])])
        assert close(rows[place], expected[0])
    for done in (sequence, by_token):
        model.release(done)


def test_single_tokens_of_several_sequences_share_a_pass(model: ElasticModel) -> None:
    prompts = [np.arange(10 + n, 30 + 5 * n) for n in range(3)]
    sequences = [model.new_sequence(100) for _ in prompts]
    for sequence, prompt in zip(sequences, prompts, strict=True):
        model.forward([Segment(sequence, prompt)])
    following = [np.array([50 + n]) for n in range(3)]
    mixed = [Segment(s, t) for s, t in zip(sequences, following, strict=True)]
    late = model.new_sequence(100)
    together = model.forward([mixed[0], Segment(late, prompts[1]), *mixed[1:]])
    for number, row in enumerate((0, 2, 3)):
        alone = model.new_sequence(100)
        expected = model.forward([Segment(alone, np.concatenate([prompts[number], following[number]]))])
        assert close(together[row], expected[0])
        model.release(alone)
    for sequence in (*sequences, late):
        model.release(sequence)


def test_a_sequence_lives_through_moves(model: ElasticModel) -> None:
    before = generate(model, tokens=60)
    with Generation(model, PROMPT, max_tokens=60, ignore_eos=True) as generation:
        visited = set()
        while generation.finished is None:
            if len(generation.generated) == 5:
                model.move_to(model.max_position, budget_s=0)
            if len(generation.generated) == 40:
                model.move_to(0, budget_s=0)
            generation.step()
            visited.add(model.position)
            time.sleep(0.005)  # a busy machine gives the loader its turn too
        assert len(generation.generated) == 60
    assert len(visited) > 5
    move(model, 0)
    assert generate(model, tokens=60) == before


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    targets=st.lists(st.tuples(st.integers(0, 22), st.sampled_from([None, 0.0])), min_size=1, max_size=6),
    keep_copies=st.booleans(),
)
def test_any_orders_between_tokens(
    ensemble: Ensemble, targets: list[tuple[int, float | None]], *, keep_copies: bool
) -> None:
    """No order of moves breaks a rule of the card, leaves memory there, or ends at other weights than it should."""
    fakes = FakeSetUp(keep_copies=keep_copies)
    compute = fakes.compute()
    model = ElasticModel.load(ensemble, position=11, kv_pages=4, compute=compute, placement=compute.placement(ensemble))
    with Generation(model, PROMPT, max_tokens=len(targets) + 1, ignore_eos=True) as generation:
        for position, budget in targets:
            model.move_to(position, budget_s=budget)
            generation.step()
    last = targets[-1][0]
    move(model, last)
    assert digests(model) == digests_by_position(ensemble)[last]
    patience = time.monotonic() + 10  # the loader may be busy with a step that was superseded
    while fakes.card.used != sum(block.length for block in _blocks(model)):
        assert time.monotonic() < patience
    model.close()
    assert fakes.card.used == 0


def _blocks(model: ElasticModel) -> list[Block]:
    arenas = model._swapper._arenas
    assert isinstance(arenas, CardArenas)
    return [arenas.resident(bundle)[0] for bundle in range(arenas.bundles)]


def test_a_prefill_pass_lets_moves_in_between_layers(model: ElasticModel) -> None:
    sequence = model.new_sequence(30)
    positions: list[int] = []

    def between_layers() -> None:
        if not positions:
            model.move_to(3)
        positions.append(model.position)

    model.forward([Segment(sequence, np.array(PROMPT))], between_layers)
    assert positions == [0] + [3] * (model.config.layers - 1)
    model.release(sequence)


def test_a_pass_that_is_left_can_be_made_again(model: ElasticModel) -> None:
    class GivenUpError(Exception):
        pass

    sequence = model.new_sequence(30)
    layers = 0

    def give_up() -> None:
        nonlocal layers
        layers += 1
        if layers == 2:
            raise GivenUpError

    with pytest.raises(GivenUpError):
        model.forward([Segment(sequence, np.array(PROMPT))], give_up)
    assert sequence.length == 0
    again = model.forward([Segment(sequence, np.array(PROMPT))])
    assert torch.equal(torch.from_numpy(again), logits(model))
    model.release(sequence)
