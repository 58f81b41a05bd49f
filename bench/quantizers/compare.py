"""The comparison: llama.cpp's types first, then for each of them a level of ours that takes as many bits."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.quantizers.equal_bits import GROUP_SIZE, equal_level, store_bits
from bench.quantizers.gguf_weights import GgufFile, GgufWeights, bits_per_weight, types_told
from bench.quantizers.importance import write_importance
from bench.quantizers.llama_file import write_llama_file
from bench.quantizers.llama_quantizer import quantize
from bench.quantizers.quality import Bench
from bench.quantizers.report import Measured, Pair
from flexquant.engine.model_config import read_model_config
from flexquant.engine.tensor_index import TensorIndex
from flexquant.ensemble_builder.bit_allocation import neighbours
from flexquant.ensemble_builder.bounded_weights import BoundedWeights
from flexquant.ensemble_builder.evaluation import Windows
from flexquant.ensemble_builder.levels import level_name
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.quantize_model import quantize_model
from flexquant.ensemble_builder.stores import LEVELS_FOLDER, open_store
from flexquant.ensemble_builder.window_quality import WindowQuality


@dataclass(frozen=True, slots=True)
class Compared:
    """All figures.

    Args:
        unquantized: Of the checkpoint as it is.
        pairs: One per type of llama.cpp, in the order asked for.
        peer: Version of llama-cpp-python.
    """

    unquantized: WindowQuality
    pairs: list[Pair]
    peer: str


def compare(
    checkpoint: Path,
    kinds: Sequence[str],
    *,
    windows: Windows,
    calibration: Windows,
    work: Path,
    python: str,
    progress: Progress,
) -> Compared:
    """Quantize a checkpoint both ways and measure.

    Args:
        checkpoint: The unquantized model.
        kinds: llama.cpp's types: "Q4_K_M".
        windows: The text to measure on.
        calibration: The text that our levels and llama.cpp's importance matrix are made with.
        work: An empty folder for files.
        python: Interpreter that has llama-cpp-python.
        progress: Is told what is being done.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        FlexQuantError: llama.cpp failed, or a file cannot be written.
    """
    config, index = read_model_config(checkpoint), TensorIndex.open(checkpoint)
    bench = Bench(checkpoint, windows)
    source, target, matrix = work / "source.gguf", work / "target.gguf", work / "importance.npz"
    write_llama_file(source, index, config)
    write_importance(matrix, index, config, calibration)
    peer = ""
    theirs: list[Measured] = []
    with progress.stage("llama.cpp's types", 2 * len(kinds)) as stage:
        for kind, importance in ((kind, importance) for kind in kinds for importance in (None, matrix)):
            peer = quantize(python, source, target, kind, importance)
            file = GgufFile(target, config)
            quality = bench.with_linears(BoundedWeights(partial(GgufWeights, file, index, config)))
            name = kind if importance is None else f"{kind}, importance matrix"
            theirs.append(Measured(name, types_told(kind, file.matrices), bits_per_weight(file.matrices), quality))
            target.unlink()
            stage.advance()
    levels = [equal_level(config.linears(), measured.bits) for measured in theirs[::2]]
    ours = _levels(checkpoint, bench, levels, calibration, work / "ours", progress)
    pairs = [
        Pair(plain, improved, ours[level])
        for plain, improved, level in zip(theirs[::2], theirs[1::2], levels, strict=True)
    ]
    return Compared(bench.unquantized(), pairs, peer)


def _levels(
    checkpoint: Path, bench: Bench, levels: Sequence[float], calibration: Windows, out: Path, progress: Progress
) -> dict[float, Measured]:
    """Make levels of ours and measure them."""
    distinct = sorted(set(levels), reverse=True)
    quantize_model(
        checkpoint,
        distinct,
        out,
        windows=calibration.tokens,
        calibration=calibration.text,
        group_size=GROUP_SIZE,
        progress=progress,
    )
    found = {}
    with progress.stage("our levels", len(distinct)) as stage:
        for level in distinct:
            store = open_store(out / LEVELS_FOLDER / level_name(level), level_name(level), level)
            widths = " and ".join(f"{width}" for width in sorted(set(neighbours(level)), reverse=True))
            quality = bench.with_linears(store.weights())
            found[level] = Measured(f"level {level:g}", f"EXL2, codes of {widths} bits", store_bits(store), quality)
            stage.advance()
    return found
