"""A task beside perplexity: which of four continuations of a passage is the true one.

The text's windows are cut into passages of `CONTEXT` tokens and the `CONTINUATION` tokens that follow. Beside the
true continuation stand three of other passages, drawn with a seed. A model chooses the one whose tokens have the
highest mean log-likelihood after the passage; all have the same length. Chance is right once in four.
"""

import random
from dataclasses import dataclass
from typing import Final, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from flexquant.engine.decoder import Decoder
from flexquant.engine.errors import InputError
from flexquant.ensemble_builder.evaluation import LAYER_ROWS, Windows

CONTEXT: Final = 48
CONTINUATION: Final = 16
OPTIONS: Final = 4
MOST_ITEMS: Final = 256


@dataclass(frozen=True, slots=True)
class Choices:
    """The questions.

    Args:
        passages: int64 [items, passage], with BOS first if the model has one.
        options: int64 [items, OPTIONS, CONTINUATION]; the true one is the first.
    """

    passages: Tensor
    options: Tensor

    @classmethod
    def of(cls, windows: Windows, bos_id: int | None, seed: int) -> Self:
        """Make questions from a text, at most `MOST_ITEMS`, spread over all windows.

        Args:
            windows: The text.
            bos_id: The token that every window begins with; None if there is none.
            seed: Of the drawing.

        Raises:
            InputError: The text has too few passages.
        """
        first = 0 if bos_id is None else 1
        pieces = windows.tokens[:, first:].unfold(1, CONTEXT + CONTINUATION, CONTEXT + CONTINUATION).flatten(0, 1)
        if len(pieces) < OPTIONS:
            raise InputError(
                f"{windows.text.name}: {len(pieces)} passages of {CONTEXT + CONTINUATION} tokens; "
                f"completion choice needs {OPTIONS}",
                hint="Give a longer text.",
            )
        count = min(MOST_ITEMS, len(pieces))
        pieces = pieces[[at * len(pieces) // count for at in range(count)]]
        rng = random.Random(seed)
        drawn = [
            [item, *rng.sample([other for other in range(count) if other != item], OPTIONS - 1)]
            for item in range(count)
        ]
        begin = torch.full((count, first), 0 if bos_id is None else bos_id)
        return cls(torch.cat([begin, pieces[:, :CONTEXT]], dim=1), pieces[:, CONTEXT:][torch.tensor(drawn)])


class OptionsAttention:
    """Rows are passages, each followed by its continuations; a continuation sees the passage and itself.

    Args:
        passage: Rows of a passage.
    """

    def __init__(self, passage: int) -> None:
        owner = torch.cat([torch.zeros(passage), 1 + torch.arange(OPTIONS).repeat_interleave(CONTINUATION)])
        same = (owner[:, None] == owner) | (owner == 0)
        self._seen = same & torch.ones(len(owner), len(owner), dtype=torch.bool).tril()

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # noqa: ARG002  # same for all layers
        """See `Attend`."""
        length = len(self._seen)
        seen = self._seen.to(q.device)
        heads, keys, values = (rows.reshape(-1, length, *rows.shape[1:]).transpose(1, 2) for rows in (q, k, v))
        found = F.scaled_dot_product_attention(heads, keys, values, attn_mask=seen, enable_gqa=True)
        return found.transpose(1, 2).reshape(len(q), -1)


@torch.inference_mode()
def likelihoods(decoder: Decoder, choices: Choices) -> Tensor:
    """Return the mean log-likelihood of every continuation's tokens: f32 [items, OPTIONS]."""
    items, passage = choices.passages.shape
    tokens = torch.cat([choices.passages, choices.options.flatten(1)], dim=1)
    positions = torch.cat([torch.arange(passage), passage + torch.arange(CONTINUATION).repeat(OPTIONS)])
    # The row that predicts each token: the passage's last one, then the continuation's own.
    starts = passage + CONTINUATION * torch.arange(OPTIONS)[:, None] + torch.arange(CONTINUATION) - 1
    starts[:, 0] = passage - 1
    attend = OptionsAttention(passage)
    together = max(1, LAYER_ROWS // tokens.shape[1])
    found = []
    for start in range(0, items, together):
        tile = tokens[start : start + together]
        hidden = decoder.weights.embed(tile.flatten())
        for layer in range(decoder.config.layers):
            hidden = decoder.layer(layer, hidden, positions.repeat(len(tile)), attend)
        rows = hidden.view(*tile.shape, -1)[:, starts].flatten(0, 2)
        logs = decoder.logits(rows).log_softmax(dim=-1)
        targets = choices.options[start : start + together]
        found.append(logs.cpu().gather(1, targets.flatten()[:, None]).view(targets.shape).mean(dim=-1))
    return torch.cat(found)


def chosen_right(decoder: Decoder, choices: Choices) -> tuple[bool, ...]:
    """Return for every question whether the model chose the true continuation."""
    return tuple((likelihoods(decoder, choices).argmax(dim=1) == 0).tolist())
