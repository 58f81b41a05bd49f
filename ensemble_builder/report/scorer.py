"""Measures assignments of an ensemble on a text that the build has not seen."""

from pathlib import Path
from typing import Literal

import torch

from flexquant.engine.decoder import Decoder
from flexquant.engine.ensemble import Ensemble
from flexquant.ensemble_builder.device import Kept
from flexquant.ensemble_builder.eqm import EqmEvaluation, hybrid
from flexquant.ensemble_builder.evaluation import Reference, Windows, final_hidden, measure
from flexquant.ensemble_builder.evaluation_setup import unquantized
from flexquant.ensemble_builder.same_model import check_same_model
from flexquant.ensemble_builder.sequence import Assignment
from flexquant.ensemble_builder.stores import stores_of
from flexquant.ensemble_builder.window_quality import WindowQuality


class Scorer:
    """Measures assignments on the report's text, each once.

    Args:
        ensemble: The ensemble.
        windows: The text.
        checkpoint: The unquantized model, for KL; position 0 takes its place if None.
        device: Where it is measured, by torch's name.
    """

    def __init__(self, ensemble: Ensemble, windows: Windows, checkpoint: Path | None, device: str = "cpu") -> None:
        config, manifest = ensemble.config, ensemble.manifest
        self._config, self._modules = config, manifest.modules
        where = torch.device(device)
        kept = Kept.on(where, len(manifest.levels))
        self._stores = {
            store.level: store.weights(kept.weights, where) for store in stores_of(ensemble.folder, manifest)
        }
        self.reference: Literal["unquantized", "position 0"]
        if checkpoint is None:
            self.reference = "position 0"
            reference = Reference.of(self.decoder((0,) * len(manifest.modules)), windows)
        else:
            self.reference = "unquantized"
            check_same_model([ensemble.common.folder, checkpoint])
            # A second decoder, because the first keeps the weights it has read and this one needs the head alone.
            hidden = final_hidden(unquantized(checkpoint, config, where), windows)
            reference = Reference(unquantized(checkpoint, config, where), hidden)
        self.reference_perplexity = measure(reference.decoder, reference.hidden, windows, None).perplexity
        self.evaluation = EqmEvaluation(
            config, manifest.modules, self._stores, windows, reference, cache_bytes=kept.states
        )
        self.known: dict[Assignment, WindowQuality] = {}

    def __call__(self, state: Assignment) -> WindowQuality:
        """Measure an assignment, unless it has been."""
        if state not in self.known:
            self.known[state] = self.evaluation.by_window(state)
        return self.known[state]

    def decoder(self, state: Assignment) -> Decoder:
        """Return the model of an assignment."""
        return hybrid(self._config, self._modules, self._stores, state)
