"""Writes the stores of an Any-Precision ensemble from tensors that lie in a work folder layer by layer."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from flexquant.engine.model_config import ANY_PRECISION_METHOD
from flexquant.ensemble_builder.levels import level_name
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.quantization_work import QuantizationWork
from flexquant.ensemble_builder.store_writer import COMMON_NAME, write_store
from flexquant.ensemble_builder.stores import LEVELS_FOLDER


def write_stores(
    out: Path,
    checkpoint: Path,
    common: Mapping[str, Tensor],
    levels: Sequence[float],
    work: QuantizationWork,
    origin: Mapping[str, object],
    progress: Progress,
) -> None:
    """Write one store per level.

    Args:
        out: The ensemble's folder.
        checkpoint: For JSON and tokenizer files.
        common: Embedding and norms.
        levels: Falling.
        work: Holds the tensors.
        origin: What config.json says of how they were made.
        progress: Is told the stores.

    Raises:
        CheckpointError: A source file cannot be read.
        FlexQuantError: A file cannot be written.
    """
    shared: Mapping[str, Tensor] | Path = common
    with progress.stage("writing the stores", len(levels)) as stage:
        for level, below in zip(levels, [*levels[1:], None], strict=True):
            store = out / LEVELS_FOLDER / level_name(level)
            write_store(
                store,
                checkpoint,
                common=shared,
                quantized=work.results(level_name(level)),
                quantization={
                    "quant_method": ANY_PRECISION_METHOD,
                    "bits": int(level),
                    "below": None if below is None else int(below),
                    **origin,
                },
            )
            shared = store / COMMON_NAME
            stage.advance()
