"""Elastic quantization models: hybrids of the stores, and how many of them are measured without running each whole."""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import torch
from torch import Tensor

from flexquant.engine.decoder import Decoder
from flexquant.engine.manifest import Module, Quality
from flexquant.engine.model_config import ModelConfig
from flexquant.engine.weights import Weights
from flexquant.ensemble_builder.evaluation import (
    Reference,
    Windows,
    embed,
    measure_windows,
    quality_of,
    run_layer,
)
from flexquant.ensemble_builder.sequence import Assignment
from flexquant.ensemble_builder.window_quality import WindowQuality

CACHE_BYTES: Final = 2 << 30
"""Most memory for hidden states that are kept for reuse."""
KEPT_RUNS: Final = 3
"""Runs whose hidden states are kept: the stem's, and the latest candidates', one of which is the next stem."""

Run = dict[int, Tensor]
"""Inputs of some layers, by layer, and the final hidden states under the number of layers.

Each f32 [windows, window, hidden]."""


class HybridWeights:
    """Weights of an EQM: each linear layer from the store that `level_of` names, the rest from the first store.

    Args:
        stores: Weights of each level, by level name.
        level_of: Level name for every linear key.
    """

    def __init__(self, stores: Mapping[str, Weights], level_of: Mapping[str, str]) -> None:
        self._common = next(iter(stores.values()))
        self._stores = stores
        self._level_of = level_of

    def embed(self, tokens: Tensor) -> Tensor:
        """Embed tokens: int64 [rows] -> f32 [rows, hidden]."""
        return self._common.embed(tokens)

    def norm(self, key: str) -> Tensor:
        """See `Weights`."""
        return self._common.norm(key)

    def linear(self, key: str, x: Tensor) -> Tensor:
        """Apply a linear layer: f32 [rows, in] -> f32 [rows, out]."""
        return self._stores[self._level_of[key]].linear(key, x)


class ColumnWeights(Weights, Protocol):
    """Weights that can compute some of a layer's outputs."""

    def columns(self, key: str, x: Tensor, first: int, last: int) -> Tensor:
        """Compute outputs `first` to `last` of a linear layer: f32 [rows, in] -> f32 [rows, last - first]."""
        ...


Part = tuple[str, int, int]
"""Level, first and last column of neighbouring columns of a layer that are of one level."""


class SlicedWeights(HybridWeights):
    """Weights of an EQM in which the columns of a linear layer may come from several stores.

    Args:
        stores: Weights of each level, by level name.
        parts: For every linear key, ascending.
    """

    def __init__(self, stores: Mapping[str, ColumnWeights], parts: Mapping[str, Sequence[Part]]) -> None:
        super().__init__(stores, {key: of_layer[0][0] for key, of_layer in parts.items()})
        self._by_columns = stores
        self._cut = {key: of_layer for key, of_layer in parts.items() if len(of_layer) > 1}

    def linear(self, key: str, x: Tensor) -> Tensor:
        """Apply a linear layer: f32 [rows, in] -> f32 [rows, out]."""
        if key not in self._cut:
            return super().linear(key, x)
        parts = [self._by_columns[level].columns(key, x, first, last) for level, first, last in self._cut[key]]
        return torch.cat(parts, dim=1)


def hybrid(
    config: ModelConfig, modules: Sequence[Module], stores: Mapping[str, ColumnWeights], state: Assignment
) -> Decoder:
    """Return the EQM in which every module has the variant that `state` gives it."""
    parts: dict[str, list[Part]] = {}
    for module, variant in zip(modules, state, strict=True):
        level = module.variants[variant].level
        first, last = module.columns or (0, module.out_features)
        of_layer = parts.setdefault(module.linear, [])
        if of_layer and of_layer[-1][0] == level:
            first = of_layer.pop()[1]
        of_layer.append((level, first, last))
    return Decoder(config, SlicedWeights(stores, parts))


class EqmEvaluation:
    """Measures assignments over `modules` on the windows of a text.

    A module in layer i leaves the inputs of the layers up to i as they are, so a run starts at the first layer in
    which it differs from a kept one. Results do not depend on what was kept.

    Args:
        config: The model's.
        modules: The modules, in the order of the assignments' entries.
        stores: Weights of each level, by level name, from best to smallest.
        windows: The text.
        reference: What KL is measured against.
        cache_bytes: Most memory for hidden states that are kept for reuse.
    """

    def __init__(
        self,
        config: ModelConfig,
        modules: Sequence[Module],
        stores: Mapping[str, ColumnWeights],
        windows: Windows,
        reference: Reference,
        *,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._config = config
        self._modules = modules
        self._stores = stores
        self._windows = windows
        self._reference = reference
        layers = {shape.key: shape.layer for shape in config.linears()}
        self._layers = [config.layers if (layer := layers[module.linear]) is None else layer for module in modules]
        whole_run = (config.layers + 1) * windows.tokens.numel() * config.hidden_size * 4
        self._stride = -(-KEPT_RUNS * whole_run // cache_bytes)
        self._runs: dict[Assignment, Run] = {}
        self.layers_run = 0

    def __call__(self, stem: Assignment, candidates: Sequence[Assignment]) -> list[Quality]:
        """Measure candidates that differ little from `stem`."""
        measured = []
        for candidate in candidates:
            self._run(stem)
            measured.append(quality_of(self.by_window(candidate)))
        return measured

    def by_window(self, state: Assignment) -> WindowQuality:
        """Measure an assignment, with the figures of every window."""
        decoder, run = self._run(state)
        return measure_windows(decoder, run[self._config.layers], self._windows, self._reference)

    def _run(self, state: Assignment) -> tuple[Decoder, Run]:
        """Return the EQM and its hidden states, which become the latest of the kept runs."""
        decoder = hybrid(self._config, self._modules, self._stores, state)
        run = self._runs.pop(state, None) or self._complete(decoder, self._longest_start(state))
        self._runs[state] = run
        while len(self._runs) > KEPT_RUNS:
            del self._runs[next(iter(self._runs))]
        return decoder, run

    def _longest_start(self, state: Assignment) -> Run:
        """Return those hidden states of a kept run that are also `state`'s, from the run that has most of them."""

        def shared(kept: Assignment) -> int:
            differing = (at for at, here, there in zip(self._layers, state, kept, strict=True) if here != there)
            return min(differing, default=self._config.layers)

        if not self._runs:
            return {}
        nearest = max(self._runs, key=shared)
        return {layer: hidden for layer, hidden in self._runs[nearest].items() if layer <= shared(nearest)}

    def _complete(self, decoder: Decoder, start: Run) -> Run:
        run = start or {0: embed(decoder, self._windows)}
        first = max(run)
        hidden = run[first]
        for layer in range(first, self._config.layers):
            hidden = run_layer(decoder, layer, hidden)
            if (layer + 1) % self._stride == 0 or layer + 1 == self._config.layers:
                run[layer + 1] = hidden
        self.layers_run += self._config.layers - first
        return run
