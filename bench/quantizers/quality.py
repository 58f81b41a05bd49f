"""Quality of a model with other decoder linears, window by window, by the builder's evaluation protocol."""

from collections.abc import Mapping
from pathlib import Path

from flexquant.engine.decoder import Decoder
from flexquant.engine.model_config import HEAD, read_model_config
from flexquant.engine.weights import Weights
from flexquant.ensemble_builder.eqm import HybridWeights
from flexquant.ensemble_builder.evaluation import Reference, Windows, final_hidden, measure_windows
from flexquant.ensemble_builder.evaluation_setup import unquantized
from flexquant.ensemble_builder.window_quality import WindowQuality


class Bench:
    """Measures models on the windows of a text.

    Args:
        checkpoint: The unquantized model.
        windows: The text.
    """

    def __init__(self, checkpoint: Path, windows: Windows) -> None:
        self._config = read_model_config(checkpoint)
        self._windows = windows
        dense = unquantized(checkpoint, self._config)
        self._dense = dense.weights
        self._reference = Reference.of(dense, windows)

    def unquantized(self) -> WindowQuality:
        """The unquantized model's figures."""
        return self._quality(self._reference.decoder)

    def with_linears(self, weights: Weights) -> WindowQuality:
        """Figures of the model whose decoder linears are those of `weights`; all else is the unquantized model's."""
        level_of = {shape.key: "other" for shape in self._config.linears()} | {HEAD: "unquantized"}
        stores: Mapping[str, Weights] = {"unquantized": self._dense, "other": weights}
        return self._quality(Decoder(self._config, HybridWeights(stores, level_of)))

    def _quality(self, decoder: Decoder) -> WindowQuality:
        return measure_windows(decoder, final_hidden(decoder, self._windows), self._windows, self._reference)
