"""What searches will take, from the time in which one model was run over a text."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.scale import BenchShape
from flexquant.engine.decoder import Decoder
from flexquant.ensemble_builder.evaluation import Windows, final_hidden, measure
from flexquant.ensemble_builder.options import PRESETS
from flexquant.ensemble_builder.search_cost import SearchCost, search_cost
from flexquant.ensemble_builder.sequence import Unit
from flexquant.ensemble_builder.stores import open_store

OTHERS: Final = {
    "Llama 3.2 1B": BenchShape(2048, 8192, 16, 32, 8, 128_256, 131_072),
    "Llama 3.1 8B": BenchShape(4096, 14_336, 32, 32, 8, 128_256, 131_072),
}


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of a search by projections with the standard preset, for two levels.

    Args:
        model: Its name.
        transitions: How many projections it has.
        forward_seconds: Expected time of running it over the preset's search text.
        cost: Evaluations and minutes.
    """

    model: str
    transitions: int
    forward_seconds: float
    cost: SearchCost


def forward_seconds(store: Path, windows: Windows) -> float:
    """Time of an evaluation that reuses nothing: all layers, the head, and the figures of every window.

    The first run, which reads the weights, is not counted.
    """
    opened = open_store(store, store.name, 0.0)
    decoder = Decoder(opened.config, opened.weights())
    started = 0.0
    for _ in range(2):
        started = time.perf_counter()
        measure(decoder, final_hidden(decoder, windows), windows, None)
    return time.perf_counter() - started


def estimates(measured: BenchShape, seconds: float, tokens: int) -> list[Estimate]:
    """Estimates for `OTHERS`, where time grows with the weights that a token meets and with the tokens.

    Args:
        measured: The model that was run.
        seconds: In so much time.
        tokens: Over so many tokens.
    """
    wanted = PRESETS["standard"].search_tokens
    found = []
    for name, shape in OTHERS.items():
        forward = seconds * weights_of(shape) / weights_of(measured) * wanted / tokens
        units = [Unit(str(at), (2, 1)) for at in range(shape.linears)]
        found.append(Estimate(name, shape.linears, forward, search_cost(units, forward)))
    return found


def weights_of(shape: BenchShape) -> int:
    """Weights of all linear layers, head included."""
    kv_width = shape.hidden // shape.heads * shape.kv_heads
    layer = shape.hidden * (2 * shape.hidden + 2 * kv_width + 3 * shape.intermediate)
    return shape.layers * layer + shape.hidden * shape.vocab
