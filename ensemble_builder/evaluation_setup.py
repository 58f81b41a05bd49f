"""What measuring needs, as data that can be sent to another process; every process opens the stores for itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, Self

import torch

from flexquant.engine.decoder import Decoder
from flexquant.engine.manifest import Module
from flexquant.engine.model_config import ModelConfig
from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.torch_scratch import HOST
from flexquant.engine.weights import DenseWeights
from flexquant.ensemble_builder.bounded_weights import BoundedWeights
from flexquant.ensemble_builder.device import Kept
from flexquant.ensemble_builder.eqm import ColumnWeights, EqmEvaluation, hybrid
from flexquant.ensemble_builder.evaluation import Reference, Windows, final_hidden, measure
from flexquant.ensemble_builder.stores import LEVELS_FOLDER, absent_from, open_store

ReferenceKind = Literal["unquantized", "position 0"]

LEAST_BYTES: Final = 64 << 20
"""Memory that is not worth sharing."""


@dataclass(frozen=True, slots=True)
class EvaluationSetup:
    """What is measured, on what, and in how much memory.

    Args:
        folder: The ensemble's; the stores lie in it.
        levels: Names of the levels, from best to smallest.
        modules: In the order of the assignments' entries.
        windows: The text.
        checkpoint: The unquantized model, for KL; position 0 takes its place if None.
        kept: Most memory for what is kept between candidates.
        device: Where it is measured.
    """

    folder: Path
    levels: tuple[str, ...]
    modules: Sequence[Module]
    windows: Windows
    checkpoint: Path | None
    kept: Kept = field(default_factory=Kept)
    device: torch.device = HOST

    @property
    def reference(self) -> ReferenceKind:
        """What KL is measured against."""
        return "position 0" if self.checkpoint is None else "unquantized"

    def shared(self, processes: int) -> Self:
        """Return the setup for each of several processes, which together take the memory of one."""
        states, weights = self.kept.states // processes, self.kept.weights // processes
        return replace(self, kept=Kept(max(states, LEAST_BYTES), max(weights, LEAST_BYTES)))

    def open(self) -> EqmEvaluation:
        """Open the stores and run the reference over the text.

        Raises:
            CheckpointError: A store or the checkpoint cannot be read.
        """
        config, weights = self._stores()
        return EqmEvaluation(
            config,
            self.modules,
            weights,
            self.windows,
            self._reference(config, weights),
            cache_bytes=self.kept.states,
        )

    def reference_perplexity(self) -> float:
        """Run the reference over the text and return its perplexity."""
        reference = self._reference(*self._stores())
        return measure(reference.decoder, reference.hidden, self.windows, None).perplexity

    def _stores(self) -> tuple[ModelConfig, dict[str, BoundedWeights]]:
        stores = [
            open_store(self.folder / LEVELS_FOLDER / level, level, 0.0, absent_from(level, self.modules))
            for level in self.levels
        ]
        return stores[0].config, {store.level: store.weights(self.kept.weights, self.device) for store in stores}

    def _reference(self, config: ModelConfig, weights: Mapping[str, ColumnWeights]) -> Reference:
        if self.checkpoint is None:
            return Reference.of(hybrid(config, self.modules, weights, (0,) * len(self.modules)), self.windows)
        # A second decoder, because the first keeps the weights it has read and this one needs the head alone.
        hidden = final_hidden(unquantized(self.checkpoint, config, self.device), self.windows)
        return Reference(unquantized(self.checkpoint, config, self.device), hidden)


def unquantized(checkpoint: Path, config: ModelConfig, device: torch.device = HOST) -> Decoder:
    """Return an unquantized model; its weights are read when they are first used, to where they are used."""
    index = TensorIndex.open(checkpoint)
    return Decoder(config, BoundedWeights(lambda: DenseWeights(index, config, device)))
