"""The evaluation protocol: perplexity and mean KL divergence on fixed windows of a text.

Non-overlapping windows of 1,024 tokens (fewer if the model's context is shorter), each with BOS first if the model has
one, the remainder dropped; hidden states and logits in float32. Every token but the first of a window is predicted.
KL is that of the measured model's prediction from the reference's, in nats per predicted token.

Of the reference its final hidden states are kept: they are vocabulary/hidden times smaller than its logits, which are
kept too where they are few.

All is computed where the decoder's weights lie, a card too, in full float32 (torch's matrix products use no TF32 unless
they are told to): figures of two devices agree but for the order in which sums are taken.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import torch
from torch import Tensor

from flexquant.engine.attention import CausalAttention
from flexquant.engine.decoder import Decoder
from flexquant.engine.errors import InputError
from flexquant.engine.manifest import Quality, Text
from flexquant.engine.model_config import ModelConfig
from flexquant.engine.tokenizer import Tokenizer
from flexquant.engine.torch_scratch import HOST
from flexquant.ensemble_builder.window_quality import WindowQuality

WINDOW_TOKENS: Final = 1024
LAYER_ROWS: Final = 2048
"""Rows that go through a layer at once (whole windows, at least one)."""
LOGIT_BYTES: Final = 8 << 20
"""Size of a tile of logits in the host's memory; larger ones are slower, because each is new memory."""
CARD_LOGIT_BYTES: Final = 256 << 20
"""The same on a card, where a tile of few rows would be bound by reading the head."""
KEPT_BYTES: Final = 512 << 20
"""Most memory for the reference's log-probabilities; beyond it they are computed anew for every measured model."""
DIGITS: Final = 6
"""Significant digits of figures that are written down."""


@dataclass(frozen=True, slots=True)
class Windows:
    """A text as the protocol sees it.

    Args:
        tokens: int64 [windows, window].
        text: Where they come from; `tokens` counts those of all windows.
    """

    tokens: Tensor
    text: Text

    @classmethod
    def of_text(
        cls, text: str, name: str, tokenizer: Tokenizer, config: ModelConfig, *, limit: int | None = None
    ) -> Self:
        """Cut a text into windows.

        Args:
            text: The text.
            name: Its name for people and for the manifest.
            tokenizer: The model's.
            config: The model's.
            limit: Most windows to take; all if None.

        Raises:
            InputError: The text does not fill one window.
        """
        window = min(WINDOW_TOKENS, config.context)
        first = [] if config.bos_id is None else [config.bos_id]
        room = window - len(first)
        tokens = tokenizer.encode(text, bos=False)
        count = len(tokens) // room
        if count == 0:
            raise InputError(
                f"{name}: {len(tokens)} tokens do not fill one window of {room}",
                hint="Give a longer text; 8 windows or more make steady figures.",
            )
        count = count if limit is None else min(count, limit)
        rows = [first + tokens[at * room : (at + 1) * room] for at in range(count)]
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        return cls(torch.tensor(rows), Text(name=name, sha256=sha256, tokens=count * window))

    def first(self, count: int) -> Self:
        """Return the first windows alone."""
        tokens = self.tokens[:count]
        return type(self)(tokens, self.text.model_copy(update={"tokens": tokens.numel()}))


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
        InputError: It cannot be read or is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", hint="Give a plain text file.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8: {error}", hint="Give a plain text file in UTF-8.") from error


def embed(decoder: Decoder, windows: Windows) -> Tensor:
    """Return the input of the first layer: f32 [windows, window, hidden]."""
    return torch.stack([decoder.weights.embed(row) for row in windows.tokens])


@torch.inference_mode()
def run_layer(decoder: Decoder, layer: int, hidden: Tensor) -> Tensor:
    """Run one layer over all windows.

    Args:
        decoder: The model.
        layer: Index of the layer.
        hidden: f32 [windows, window, hidden], left as it is.

    Returns:
        f32 [windows, window, hidden].
    """
    windows, window, width = hidden.shape
    together = max(1, LAYER_ROWS // window)
    attend = CausalAttention(window)
    output = torch.empty_like(hidden)
    for start in range(0, windows, together):
        tile = hidden[start : start + together]
        positions = torch.arange(window).repeat(len(tile))
        rows = decoder.layer(layer, tile.reshape(-1, width), positions, attend)
        output[start : start + together] = rows.view_as(tile)
    return output


def final_hidden(decoder: Decoder, windows: Windows) -> Tensor:
    """Run all layers over all windows. Returns f32 [windows, window, hidden]."""
    with torch.inference_mode():
        hidden = embed(decoder, windows)
    for layer in range(decoder.config.layers):
        hidden = run_layer(decoder, layer, hidden)
    return hidden


@dataclass(frozen=True, slots=True)
class Reference:
    """What KL is measured against.

    Args:
        decoder: The reference model; only its head is still used.
        hidden: Its `final_hidden` on the windows.
    """

    decoder: Decoder
    hidden: Tensor
    _kept: dict[int, Tensor] = field(default_factory=dict, repr=False)
    """Log-probabilities by first row, where all of them take at most `KEPT_BYTES`."""

    def log_probabilities(self, rows: slice) -> Tensor:
        """Return its predictions `rows`: f32 [rows, vocabulary]; rows of one start always have one end."""
        if rows.start in self._kept:
            return self._kept[rows.start]
        found = _log_probabilities(self.decoder, self.hidden, rows)
        if self.hidden.shape[:2].numel() * found.shape[1] * 4 <= KEPT_BYTES:
            self._kept[rows.start] = found
        return found

    @classmethod
    def of(cls, decoder: Decoder, windows: Windows) -> Self:
        """Run the reference over the windows."""
        return cls(decoder, final_hidden(decoder, windows))


def measure(decoder: Decoder, hidden: Tensor, windows: Windows, reference: Reference | None) -> Quality:
    """Return perplexity and mean KL of a model, to `DIGITS` significant digits.

    Args:
        decoder: The model; its final norm and head are used.
        hidden: Its `final_hidden` on the windows.
        windows: The text.
        reference: What KL is measured against; KL is 0 without one.

    Raises:
        InputError: The model's logits are not finite.
    """
    return quality_of(measure_windows(decoder, hidden, windows, reference))


def quality_of(measured: WindowQuality) -> Quality:
    """Return perplexity and mean KL of all windows, to `DIGITS` significant digits."""
    return Quality(perplexity=rounded(measured.perplexity), kl=rounded(measured.mean_kl))


@torch.inference_mode()
def measure_windows(decoder: Decoder, hidden: Tensor, windows: Windows, reference: Reference | None) -> WindowQuality:
    """Return the figures of every window; see `measure`."""
    surprise, divergence, right = torch.zeros(3, windows.tokens[:, 1:].numel(), dtype=torch.float64)
    for rows in _tiles(windows, decoder.config.vocab_size, hidden.device):
        logs = _log_probabilities(decoder, hidden, rows)
        targets = windows.tokens[:, 1:].reshape(-1)[rows].to(hidden.device)
        surprise[rows] = -logs.gather(1, targets[:, None])[:, 0].double()
        right[rows] = (logs.argmax(dim=1) == targets).double()
        if reference is not None:
            against = reference.log_probabilities(rows)
            divergence[rows] = ((against - logs) * against.exp()).sum(dim=1).double()

    def by_window(figures: Tensor) -> tuple[float, ...]:
        return tuple(figures.view(len(windows.tokens), -1).mean(dim=1).tolist())

    found = WindowQuality(by_window(surprise), by_window(divergence), by_window(right))
    if not all(map(math.isfinite, (*found.surprise, *found.kl))):
        raise InputError("the model's logits are not finite", hint="The checkpoint may be damaged.")
    return found


def rounded(figure: float) -> float:
    """Round to `DIGITS` significant digits."""
    return float(f"{figure:.{DIGITS}g}")


def _tiles(windows: Windows, vocabulary: int, device: torch.device) -> Iterator[slice]:
    total = windows.tokens[:, 1:].numel()
    rows = max(1, (LOGIT_BYTES if device == HOST else CARD_LOGIT_BYTES) // (4 * vocabulary))
    return (slice(start, min(start + rows, total)) for start in range(0, total, rows))


def _log_probabilities(decoder: Decoder, hidden: Tensor, rows: slice) -> Tensor:
    """Return the log-probabilities of the predictions `rows`, counted without the last of each window."""
    ahead = hidden.shape[1] - 1
    at = torch.arange(rows.start, rows.stop)
    return decoder.logits(hidden[at // ahead, at % ahead]).log_softmax(dim=-1)
