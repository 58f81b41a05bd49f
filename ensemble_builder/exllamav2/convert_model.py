"""Quantizes a whole model to several levels by exllamav2's own converter, from one measurement, on a GPU."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flexquant.engine.errors import CheckpointError
from flexquant.engine.exllamav2.version import VERSION
from flexquant.engine.layer_spec import read_spec
from flexquant.engine.manifest import Text
from flexquant.engine.model_config import ModelConfig, read_model_config
from flexquant.engine.tensor_index import TensorEntry, TensorIndex
from flexquant.ensemble_builder.atomic_file import write_atomically
from flexquant.ensemble_builder.bit_allocation import head_bits
from flexquant.ensemble_builder.exllamav2.calibration_rows import CalibrationRows
from flexquant.ensemble_builder.exllamav2.conversion_job import TOKENS_NAME, ConversionJob, remove_folder
from flexquant.ensemble_builder.exllamav2.converter import CONVERTER, Converter
from flexquant.ensemble_builder.exllamav2.measurement import check_offered, check_possible, smallest_bits
from flexquant.ensemble_builder.file_hashes import checkpoint_sha256, file_record
from flexquant.ensemble_builder.levels import level_name
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.quantization_work import QuantizationWork
from flexquant.ensemble_builder.row_groups import check_rows
from flexquant.ensemble_builder.store_writer import COMMON_NAME, common_tensors, exl2_quantization, write_store
from flexquant.ensemble_builder.stores import LEVELS_FOLDER
from flexquant.ensemble_builder.workplace import WORK_NAME

OWN_MIX: Final = "exllamav2's own mix"
"""Name of the calibration texts that the converter brings along."""


def convert_model(
    checkpoint: Path,
    levels: Sequence[float],
    out: Path,
    *,
    rows: CalibrationRows,
    progress: Progress,
    command: Sequence[str] = CONVERTER,
) -> Text:
    """Write one EXL2 store per level, `out/levels/<level>`, each made by exllamav2's converter.

    A killed run is continued by the next call with the same arguments: a finished measurement and finished stores are
    kept, and the converter goes on with what it was at. It does not end with the same bytes as an undisturbed run, nor
    do two of these: how the converter shares out the bits is found by simulated annealing, which it seeds from the
    system. The work so far, and the converter's output, is in `out/.work/exllamav2`.

    Call it from the main thread, on a machine where `gpu_facts` misses nothing.

    Args:
        checkpoint: Folder of the unquantized model.
        levels: Average widths; see `check_possible`.
        out: The ensemble's folder.
        rows: What to calibrate on.
        progress: Is told how far the converter is.
        command: Starts the converter.

    Returns:
        What was calibrated on. For the converter's mix the hash is that of the file of tokens which the converter wrote
        for the first level: two of its rows are random tokens, new ones every time.

    Raises:
        CheckpointError: The checkpoint cannot be read, or the converter left out a layer or wrote a damaged one.
        UnsupportedModelError: The architecture is not supported, or its sizes do not fit the format.
        UsageError: The converter cannot make a level of this model; or cannot be handed the text here.
        FlexQuantError: The converter failed, or a file cannot be written.
    """
    config = read_model_config(checkpoint)
    check_rows(checkpoint, config.linears())
    check_possible(levels)
    folder = out / WORK_NAME / "exllamav2"
    settings = {
        "exllamav2": VERSION,
        "checkpoint": checkpoint_sha256(checkpoint),
        "levels": list(levels),
        "calibration": None if rows.text is None else rows.text.model_dump(),
        "length": rows.length,
    }
    record = QuantizationWork(folder, settings)
    conversion = Conversion(
        checkpoint=checkpoint.resolve(),
        config=config,
        folder=folder.resolve(),
        rows=rows,
        # Embedding, attention and MLP of every layer, last norm and head are the converter's parts of a model.
        converter=Converter(command, folder / "converter.log", 2 * config.layers + 3, progress),
    )
    if not record.finished:
        rows.write(conversion.parquet)
        check_offered(levels, smallest_bits(conversion.measured(), config))
        common: Path | None = None
        for level in levels:
            store = out / LEVELS_FOLDER / level_name(level)
            conversion.write(level, store, common)
            common = store / COMMON_NAME
        record.finish()
    return conversion.calibrated()


@dataclass(frozen=True, slots=True)
class Conversion:
    """The steps of making levels; each does nothing where it was done before.

    Args:
        checkpoint: Folder of the unquantized model; absolute, as the next one, because jobs are known by their paths.
        config: The model's.
        folder: For the work.
        rows: What to calibrate on.
        converter: The converter.
    """

    checkpoint: Path
    config: ModelConfig
    folder: Path
    rows: CalibrationRows
    converter: Converter

    @property
    def parquet(self) -> Path:
        """File for the text to calibrate on."""
        return self.folder / "text.parquet"

    def measured(self) -> Path:
        """Measure what every way to quantize a block costs and takes, once for all levels; return the file.

        Raises:
            FlexQuantError: See `Converter.run`.
        """
        kept = self.folder / "measurement.json"
        working = self.folder / "measure"
        written = working / "exported.json"
        options = {
            "in_dir": str(self.checkpoint),
            "output_measurement": str(written),
            **self.rows.measuring(self.parquet),
        }
        job = ConversionJob(working, options, written)
        if not kept.exists():
            self.converter.run(job, "measuring by exllamav2", "Measuring")
            write_atomically(kept, written.read_bytes())
        job.remove()
        return kept

    def write(self, level: float, store: Path, common: Path | None) -> None:
        """Convert to a level and write its store; the measurement must be there.

        Args:
            level: Average width of the decoder's weights.
            store: Folder of the store.
            common: Another store's file of what is the same in all; None for the first one.

        Raises:
            CheckpointError: A layer is missing in what the converter wrote, or damaged.
            FlexQuantError: See `Converter.run`.
        """
        name = level_name(level)
        mark = self.folder / "written" / name
        converted = self.folder / "converted" / name
        options = {
            "in_dir": str(self.checkpoint),
            "reuse_measurement": str(self.folder / "measurement.json"),
            "bits": level,
            "head_bits": head_bits(level),
            "compile_full": str(converted),
            **self.rows.quantizing(self.parquet),
        }
        job = ConversionJob(self.folder / f"level-{name}", options, converted / "output.safetensors")
        if not mark.exists():
            self.converter.run(job, f"converting to {name} bits", "Quantizing")
            write_store(
                store,
                self.checkpoint,
                common=common or common_tensors(TensorIndex.open(self.checkpoint), self.config),
                quantized=quantized_tensors(converted, self.config),
                quantization=exl2_quantization(level, self.calibrated(job)),
            )
            write_atomically(mark, b"")
        job.remove()
        remove_folder(converted)

    def calibrated(self, job: ConversionJob | None = None) -> Text:
        """Return what was calibrated on.

        Args:
            job: A finished conversion to a level. Only the first one is needed, and only where the converter's own mix
                is used: then what it says is kept.

        Raises:
            FlexQuantError: A file cannot be written.
        """
        if self.rows.text is not None:
            return self.rows.text
        kept = self.folder / "calibration.json"
        if job is not None and not kept.exists():
            found = job.record()
            text = Text(
                name=OWN_MIX,
                sha256=file_record(job.folder / TOKENS_NAME).sha256,
                tokens=found["dataset_rows"] * found["length"],
            )
            write_atomically(kept, text.model_dump_json().encode())
        return Text.model_validate_json(kept.read_bytes())


def quantized_tensors(converted: Path, config: ModelConfig) -> dict[str, TensorEntry]:
    """Return the tensors of all linear layers that the converter wrote, by name, after checking every layer.

    Args:
        converted: Folder of the converted model.
        config: The model's.

    Raises:
        CheckpointError: A layer is not in EXL2, or breaks a rule of the format.
    """
    index = TensorIndex.open(converted)
    try:
        for shape in config.linears():
            read_spec("exl2", index, shape, None)
    except CheckpointError as error:
        raise CheckpointError(
            f"exllamav2's converter left what cannot be used: {error.message}",
            hint=f"Remove {converted}; the same command converts this level again.",
        ) from error
    keys = {shape.key for shape in config.linears()}
    return {name: index[name] for name in index.names() if name.rpartition(".")[0] in keys}
