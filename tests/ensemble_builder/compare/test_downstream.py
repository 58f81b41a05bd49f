"""Completion choice against plain runs of the model."""

import pytest
import torch

from flexquant.engine.decoder import Decoder
from flexquant.engine.errors import InputError
from flexquant.engine.manifest import Text
from flexquant.ensemble_builder.compare.downstream import CONTEXT, CONTINUATION, Choices, chosen_right, likelihoods
from flexquant.ensemble_builder.evaluation import Windows, final_hidden
from support.tiny_model import RandomWeights, tiny_config

CONFIG = tiny_config()
WINDOW = 1 + 2 * (CONTEXT + CONTINUATION)


def windows_of(count: int) -> Windows:
    tokens = torch.randint(2, CONFIG.vocab_size, (count, WINDOW), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 0
    return Windows(tokens, Text(name="random", sha256="0" * 64, tokens=tokens.numel()))


def test_every_question_has_its_own_continuation_first_and_three_others() -> None:
    windows = windows_of(3)
    choices = Choices.of(windows, 0, seed=1)
    pieces = windows.tokens[:, 1:].reshape(6, CONTEXT + CONTINUATION)
    assert choices.passages[:, 0].tolist() == [0] * 6
    assert choices.passages[:, 1:].equal(pieces[:, :CONTEXT])
    assert choices.options[:, 0].equal(pieces[:, CONTEXT:])
    for item, options in enumerate(choices.options.tolist()):
        origins = [pieces[:, CONTEXT:].tolist().index(option) for option in options]
        assert origins[0] == item
        assert len(set(origins)) == 4
    again, other = Choices.of(windows, 0, seed=1), Choices.of(windows, 0, seed=2)
    assert again.options.equal(choices.options)
    assert not other.options.equal(choices.options)


def test_likelihoods_are_those_of_whole_runs() -> None:
    """Each continuation alone after its passage, by the plain evaluation."""
    choices = Choices.of(windows_of(2), 0, seed=0)
    decoder = Decoder(CONFIG, RandomWeights(CONFIG))
    found = likelihoods(decoder, choices)
    for option in range(4):
        tokens = torch.cat([choices.passages, choices.options[:, option]], dim=1)
        alone = Windows(tokens, Text(name="", sha256="0" * 64, tokens=tokens.numel()))
        hidden = final_hidden(decoder, alone)
        for item, row in enumerate(hidden):
            logs = decoder.logits(row[CONTEXT:-1]).log_softmax(-1)
            expected = logs.gather(1, tokens[item, CONTEXT + 1 :, None]).mean()
            assert found[item, option].item() == pytest.approx(expected.item(), rel=1e-4)
    assert chosen_right(decoder, choices) == tuple((found.argmax(dim=1) == 0).tolist())


def test_a_text_of_too_few_passages_is_refused() -> None:
    with pytest.raises(InputError, match="2 passages of 64 tokens; completion choice needs 4"):
        Choices.of(windows_of(1), 0, seed=0)
