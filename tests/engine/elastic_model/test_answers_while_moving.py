"""What the model answers depends on its position only, whatever moved it meanwhile."""

import random
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.engine.compute import choose_compute
from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.generation import Generation
from flexquant.engine.memory_needs import MemoryNeeds
from flexquant.engine.segment import Segment
from support.elastic_models import PROMPT, digests, digests_by_position, fresh_logits, generate, logits, move
from support.torch_calls import appended


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
    model.forward([appended(sequence, torch.tensor(PROMPT))])
    positions: list[int] = []

    def between_layers() -> None:
        if not positions:
            model.move_to(3)
            assert ready.wait(30)
        positions.append(model.position)

    model.forward([appended(sequence, torch.tensor([7]))], between_layers)
    assert positions == [0] * model.config.layers
    model.forward([appended(sequence, torch.tensor([8]))])
    assert model.position == 3
    model.release(sequence)


def test_a_prefill_pass_lets_moves_in_between_layers(model: ElasticModel) -> None:
    sequence = model.new_sequence(30)
    positions: list[int] = []

    def between_layers() -> None:
        if not positions:
            model.move_to(3)
        positions.append(model.position)

    model.forward([appended(sequence, torch.tensor(PROMPT))], between_layers)
    assert positions == [0] + [3] * (model.config.layers - 1)
    assert sequence.length == len(PROMPT)
    model.release(sequence)


def test_a_sequence_lives_through_moves(model: ElasticModel) -> None:
    """0 -> N -> 0 while tokens stream: none is lost, and afterwards the model is as if it had never moved."""
    before = generate(model, tokens=100)
    ready = threading.Event()
    model.on_ready = ready.set
    with Generation(model, PROMPT, max_tokens=100, ignore_eos=True) as generation:
        visited = set()
        while generation.finished is None:
            if len(generation.generated) == 5:
                model.move_to(model.max_position, budget_s=0)
            if len(generation.generated) == 60:
                model.move_to(0, budget_s=0)
            if model.moving:  # so that each token finds a step that is ready, however slow the loader is
                assert ready.wait(30)
                ready.clear()
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


def test_pages_of_a_prompt_under_which_the_model_moved_mislead_no_later_one(model: ElasticModel) -> None:
    """What pages hold depends on all before them: newer ones replace them all, or none that follows is used."""
    prompt = np.arange(200, dtype=np.int64) % model.config.vocab_size

    def answer() -> torch.Tensor:
        sequence = model.new_sequence(len(prompt), prompt, exact=True)
        found = model.forward([Segment(sequence, prompt[sequence.length :])])
        model.keep(sequence, prompt, len(prompt))
        model.release(sequence)
        return torch.from_numpy(found)

    expected = answer()
    model.drop_reusable()
    move(model, 5)
    sequence = model.new_sequence(len(prompt), prompt, exact=True)
    model.forward([Segment(sequence, prompt[:128])])
    move(model, 0)
    model.forward([Segment(sequence, prompt[128:])])
    model.keep(sequence, prompt, len(prompt))
    model.release(sequence)
    assert torch.equal(answer(), expected)
    assert torch.equal(answer(), expected)
