"""Opens the card: the one place that imports what only machines with a GPU have."""

import importlib.util
from collections.abc import Mapping
from typing import Final

from flexquant.engine.errors import UsageError
from flexquant.engine.exllamav2.card import Kernels
from flexquant.engine.exllamav2.compute import CardCompute
from flexquant.engine.exllamav2.facts import gpu_facts
from flexquant.engine.model_config import ModelConfig
from flexquant.engine.segment import Floats

_ON_CPU: Final = "Or serve with --device cpu."


def card_compute(*, keep_copies: bool = False) -> CardCompute:
    """What computes on the first card.

    Args:
        keep_copies: Keep page-locked host copies of the weights that were read.

    Raises:
        UsageError: It cannot be used; says everything that is missing.
    """
    missing = gpu_facts().missing
    if missing:
        raise UsageError(
            f"the model cannot run on a GPU here: {'; '.join(missing)}",
            hint=f'Install what it needs with: pip install "flexquant[cuda]". {_ON_CPU}',
        )
    from flexquant.engine.exllamav2.device import CudaCard
    from flexquant.engine.exllamav2.library import ExllamaKernels, load_extension

    extension = load_extension()
    card = CudaCard()

    def open_kernels(config: ModelConfig, norms: Mapping[str, Floats], *, max_rows: int, dequantize: int) -> Kernels:
        return ExllamaKernels(extension, card.device, config, norms, max_rows=max_rows, dequantize=dequantize)

    return CardCompute(card, open_kernels, keep_copies=keep_copies)


def card_is_there() -> bool:
    """Whether `card_compute` would find all it needs, so far as that can be told without compiling.

    Where exllamav2 is not installed this costs nothing: torch is not imported to find out.
    """
    return importlib.util.find_spec("exllamav2") is not None and not gpu_facts().missing
