"""Builds an ensemble from an unquantized checkpoint: quantize, then search. A killed build goes on where it was."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from flexquant.engine.errors import CheckpointError
from flexquant.engine.exllamav2.version import VERSION
from flexquant.engine.manifest import MANIFEST_NAME, Method, Quantization
from flexquant.engine.model_config import read_model_config
from flexquant.engine.tokenizer import Tokenizer
from flexquant.ensemble_builder.any_precision.quantize_model import quantize_model as quantize_any_precision
from flexquant.ensemble_builder.completion import complete
from flexquant.ensemble_builder.evaluation import Windows
from flexquant.ensemble_builder.exllamav2.calibration_rows import CalibrationRows, CalibrationText, calibration_rows
from flexquant.ensemble_builder.exllamav2.convert_model import convert_model
from flexquant.ensemble_builder.file_hashes import checkpoint_sha256
from flexquant.ensemble_builder.levels import level_name
from flexquant.ensemble_builder.options import QuantizeOptions, SearchOptions
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.quantize_model import quantize_model
from flexquant.ensemble_builder.stores import LEVELS_FOLDER, open_store
from flexquant.ensemble_builder.texts import check_disjoint, text_windows
from flexquant.ensemble_builder.workplace import Workplace, workplace

QUANTIZERS: Final[Mapping[Method, str]] = {
    "exl2": "GPTQ with act-order and group scale search",
    "any-precision": "k-means weighted by Fisher information, split bit by bit",
}


def build(
    checkpoint: Path,
    out: Path,
    quantize: QuantizeOptions,
    search: SearchOptions,
    progress: Progress,
    name: str | None = None,
) -> None:
    """Build an ensemble.

    Args:
        checkpoint: Folder of the unquantized model.
        out: The ensemble's folder: new, empty, or with the same build in it, which is continued.
        quantize: How the levels are made.
        search: How the sequence is searched for.
        progress: Is told what is being done.
        name: Of the model; its folder's if None.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        UsageError: The texts are the same, or another process builds there.
        InputError: A text cannot be used, or `out` holds something else.
        FlexQuantError: A file cannot be written.
    """
    if not checkpoint.is_dir():
        raise CheckpointError(
            f"{checkpoint}: there is no such folder",
            hint="Give the folder of a Hugging Face checkpoint, or a model on the hub as org/name.",
        )
    read_model_config(checkpoint)  # what cannot be built is refused before anything is written
    Tokenizer.open(checkpoint)
    check_disjoint(quantize.calibration, search.text)
    settings = {"checkpoint": checkpoint_sha256(checkpoint), **quantize.settings(), **search.settings()}
    with workplace(out, settings) as place:
        if place.finished:
            progress.note(f"{out / MANIFEST_NAME}: is finished already")
            return
        calibration = _calibration(checkpoint, quantize, search, place, progress)
        # Before the long work, so that a text that cannot be used is found now.
        windows = text_windows(
            search.text,
            search.tokens,
            model=checkpoint,
            seed=search.seed + 1,
            kept=place.work / "search.txt",
            progress=progress,
            device=search.device,
        )
        quantization = _quantize(checkpoint, out, quantize, calibration, progress)
        names = [level_name(level) for level in quantize.levels]
        complete(
            place,
            settings,
            name=name or checkpoint.resolve().name,
            stores=[
                open_store(out / LEVELS_FOLDER / name, name, level)
                for name, level in zip(names, quantize.levels, strict=True)
            ],
            windows=windows,
            checkpoint=checkpoint,
            quantization=quantization,
            options=search,
            progress=progress,
        )


def _calibration(
    checkpoint: Path, quantize: QuantizeOptions, search: SearchOptions, place: Workplace, progress: Progress
) -> Windows | CalibrationRows:
    """Return what to calibrate on: windows for our own quantizers, rows for exllamav2's converter."""
    if quantize.quantizer == "exllamav2":
        config, tokens = read_model_config(checkpoint), quantize.calibration_tokens
        given = None if quantize.calibration is None else CalibrationText(quantize.calibration, tokens)
        return calibration_rows(given, checkpoint, config)
    return text_windows(
        quantize.calibration,
        quantize.calibration_tokens,
        model=checkpoint,
        seed=search.seed,
        kept=place.work / "calibration.txt",
        progress=progress,
        device=search.device,
    )


def _quantize(
    checkpoint: Path,
    out: Path,
    options: QuantizeOptions,
    calibration: Windows | CalibrationRows,
    progress: Progress,
) -> Quantization:
    """Write the stores, and return how they were made."""
    if isinstance(calibration, CalibrationRows):
        text = convert_model(checkpoint, options.levels, out, rows=calibration, progress=progress)
        return Quantization(quantizer=f"exllamav2 {VERSION}'s converter", group_size=None, calibration=text)
    if options.method == "any-precision":
        quantize_any_precision(
            checkpoint,
            options.levels,
            out,
            windows=calibration.tokens,
            calibration=calibration.text,
            progress=progress,
        )
    else:
        quantize_model(
            checkpoint,
            options.levels,
            out,
            windows=calibration.tokens,
            calibration=calibration.text,
            group_size=options.group_size,
            nested=options.nested,
            progress=progress,
        )
    return Quantization(
        quantizer=QUANTIZERS[options.method],
        group_size=options.group_size if options.method == "exl2" else None,
        calibration=calibration.text,
    )
