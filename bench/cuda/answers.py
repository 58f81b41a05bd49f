"""Is it right? Logits against the CPU engine, weights bit by bit, and tokens while the model moves."""

from typing import Any, Final

import numpy as np

from bench.cuda.models import PlainExllama, Tokens, greedy, on_card, on_cpu, prompt_logits, settle
from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.generation import Generation
from flexquant.engine.segment import Floats

TOLERANCE: Final = 0.005
"""Largest relative error of logits, ||ours - reference|| / ||reference||: what half precision leaves after 8 layers."""

_PROMPTS: Final = ((5, 3), (40, 2), (280, 2))
"""Tokens of a prompt, and tokens put in one by one behind it: one below 32 rows, one above, one in two chunks."""


def logits_at_every_position(ensemble: Ensemble) -> dict[str, Any]:
    """The same prompts at every position, on the card and on the CPU."""
    worst = {"relative": 0.0, "absolute": 0.0}
    same = rows = 0
    with on_card(ensemble, tokens=512) as (card, _), on_cpu(ensemble, tokens=512) as cpu:
        for position in range(card.max_position + 1):
            settle(card, position)
            settle(cpu, position)
            for prompt, single in _PROMPTS:
                tokens = sample(position, prompt + single, ensemble)
                ours, reference = prompt_logits(card, tokens, single), prompt_logits(cpu, tokens, single)
                worst["relative"] = max(worst["relative"], relative_error(ours, reference))
                worst["absolute"] = max(worst["absolute"], float(np.abs(ours - reference).max()))
                same += int((ours.argmax(-1) == reference.argmax(-1)).sum())
                rows += len(ours)
        positions = card.max_position + 1
    return {
        "positions": positions,
        "rows": rows,
        "worst": worst,
        "same_most_likely_token": same,
        "ok": worst["relative"] <= TOLERANCE,
    }


def plain_exllama_reads_our_stores(ensemble: Ensemble) -> dict[str, Any]:
    """exllamav2's own loader and model on our stores, at both ends; with its causal attention and the other."""
    found: dict[str, Any] = {}
    for position in (0, len(ensemble.sequence().transitions)):
        with on_cpu(ensemble, tokens=512, position=position) as cpu:
            for causal in (True, False):
                plain = PlainExllama(ensemble, position=position, tokens=512, causal=causal)
                errors = []
                for prompt, single in _PROMPTS:
                    tokens = sample(position, prompt + single, ensemble)
                    plain.restart()
                    rows = [plain.forward(tokens[:prompt])]
                    rows += [plain.forward(tokens[at : at + 1]) for at in range(prompt, len(tokens))]
                    errors.append(relative_error(np.stack(rows), prompt_logits(cpu, tokens, single)))
                plain.close()
                found[f"position {position}, {'causal' if causal else 'default'} attention"] = max(errors)
    found["ok"] = all(error <= TOLERANCE for name, error in found.items() if "causal" in name)
    return found


def weights_at_every_position(ensemble: Ensemble) -> dict[str, Any]:
    """All modules as the card reconstructs them, bit by bit against the CPU engine's, up and down the sequence."""
    compared = 0
    wrong: list[str] = []
    with on_card(ensemble, tokens=64) as (card, _), on_cpu(ensemble, tokens=64) as cpu:
        last = card.max_position
        for position in [*range(last + 1), *range(last - 1, -1, -1)]:
            settle(card, position)
            settle(cpu, position)
            for module in ensemble.manifest.modules:
                ours, reference = card.weights_of(module.name), cpu.weights_of(module.name)
                compared += 1
                if ours[0] != reference[0] or not np.array_equal(ours[1], reference[1]):
                    wrong.append(f"{module.name} at {position}")
    return {"compared": compared, "wrong": wrong[:10], "ok": not wrong}


def tokens_while_moving(ensemble: Ensemble, *, count: int = 12) -> dict[str, Any]:
    """Go down and up by single steps while a sequence is generated; at every stop ask what a fresh load answers.

    exllamav2 adds partial sums in any order, so two runs of the same weights differ in the last bits: where a token
    differs, the fresh load must have both as good as equally likely.
    """
    fresh: dict[int, list[int]] = {}
    equal = near = 0
    wrong: list[str] = []
    prompt = sample(1, 24, ensemble)
    for position in range(len(ensemble.sequence().transitions) + 1):
        with on_card(ensemble, tokens=256, position=position) as (model, _):
            fresh[position] = greedy(model, prompt, count)
    with on_card(ensemble, tokens=2048) as (model, _):
        last = model.max_position
        stops = [*range(last + 1), *range(last - 1, -1, -1)]
        with Generation(model, prompt.tolist(), max_tokens=4 * len(stops), ignore_eos=True) as running:
            for position in stops:
                model.move_to(position)
                while model.moving:
                    running.step()
                running.step()
                found = greedy(model, prompt, count)
                if found == fresh[position]:
                    equal += 1
                elif (gap := _gap(model, prompt, found, fresh[position])) < _NEAR:
                    near += 1
                else:
                    wrong.append(f"position {position}: {gap:.3f}")
            generated = len(running.generated)
    return {
        "stops": len(stops),
        "tokens_each": count,
        "equal": equal,
        "equal_but_for_ties": near,
        "wrong": wrong,
        "generated_meanwhile": generated,
        "ok": not wrong,
    }


_NEAR: Final = 0.1
"""Difference of two logits below which half precision may rank them either way."""


def _gap(model: ElasticModel, prompt: Tokens, found: list[int], expected: list[int]) -> float:
    """By how much the logits of two answers differ where the answers part."""
    at = next(place for place, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
    tokens = np.concatenate([prompt, np.array(found[:at], np.int64)])
    row = prompt_logits(model, tokens, at)[-1]
    return float(abs(row[found[at]] - row[expected[at]]))


def batches(ensemble: Ensemble, *, streams: int = 8) -> dict[str, Any]:
    """Single tokens of several sequences in one pass, against each by itself."""
    from flexquant.engine.segment import Segment

    prompts = [sample(number, 20 + 3 * number, ensemble) for number in range(streams)]
    following = sample(99, streams, ensemble)
    with on_card(ensemble, tokens=256 * streams) as (model, _):
        sequences = [model.new_sequence(100) for _ in range(streams)]
        for sequence, prompt in zip(sequences, prompts, strict=True):
            model.forward([Segment(sequence, prompt)])
        segments = [Segment(sequence, following[[n]]) for n, sequence in enumerate(sequences)]
        together = model.forward(segments)
        alone = [
            prompt_logits(model, np.concatenate([prompt, following[[n]]]), 1)[-1] for n, prompt in enumerate(prompts)
        ]
        for sequence in sequences:
            model.release(sequence)
    error = relative_error(together, np.stack(alone))
    return {"streams": streams, "relative": error, "ok": error <= TOLERANCE}


def sample(seed: int, count: int, ensemble: Ensemble) -> Tokens:
    """Token ids, none of them special."""
    return np.random.default_rng(seed).integers(8, ensemble.config.vocab_size, count, np.int64)


def relative_error(found: Floats, reference: Floats) -> float:
    """||found - reference|| / ||reference||."""
    return float(np.linalg.norm(found - reference) / np.linalg.norm(reference))
