"""What a build can be told, and its presets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from flexquant.engine.exllamav2.version import VERSION
from flexquant.engine.manifest import Method
from flexquant.ensemble_builder.file_hashes import file_record
from flexquant.ensemble_builder.units import Kind
from flexquant.ensemble_builder.workplace import Settings

GROUP_SIZE: Final = 32
"""Weights that share a scale, if nothing else is said."""

Quantizer = Literal["own", "exllamav2"]
"""Whose program makes levels in EXL2: ours, or exllamav2's converter, which needs a GPU."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How the sequence is searched for.

    Args:
        text: File with the search text; sampled from the model if None.
        tokens: Tokens of it to measure on, at most (whole windows, at least one).
        seed: Seed of texts that are sampled.
        evaluations: Most evaluations; the sensitivities and the quality of every position are always measured.
            Five per transition if None.
        minutes: Most minutes for the search; what is always measured may take longer. No limit if None. With one, the
            outcome depends on the speed of the machine.
        units: What the transitions of each sequence lower; the first is the default sequence.
        max_step: Most bytes that a module gives back in one step; larger ones are cut into column slices. No limit if
            None.
        workers: Processes that measure; the outcome does not depend on them.
        device: Where candidates are measured, by torch's name. The outcome depends on it in the last digits alone.
    """

    text: Path | None
    tokens: int
    seed: int
    evaluations: int | None
    minutes: float | None
    units: tuple[Kind, ...] = ("projection",)
    max_step: int | None = None
    workers: int = 1
    device: str = "cpu"

    def settings(self) -> Settings:
        """Return what the outcome depends on."""
        return {
            "search text": text_identity(self.text),
            "search tokens": self.tokens,
            "seed": self.seed,
            "evaluations": self.evaluations,
            "minutes": self.minutes,
            "units": list(self.units),
            "largest step": self.max_step,
        }


@dataclass(frozen=True, slots=True)
class QuantizeOptions:
    """How the levels are made.

    Args:
        levels: Bits per weight, falling.
        calibration: File with the calibration text. If None it is sampled from the model; exllamav2's converter then
            takes texts that it brings along.
        calibration_tokens: Tokens of it to calibrate on, at most.
        group_size: Weights that share a scale; Any-Precision has no scales, and exllamav2's converter chooses.
        nested: Whether a level but the last holds what is added to the next one.
        method: How weights are quantized.
        quantizer: Whose program does it.
    """

    levels: tuple[float, ...]
    calibration: Path | None
    calibration_tokens: int
    group_size: int = GROUP_SIZE
    nested: bool = False
    method: Method = "exl2"
    quantizer: Quantizer = "own"

    def settings(self) -> Settings:
        """Return what the outcome depends on."""
        return {
            "levels": list(self.levels),
            "calibration text": text_identity(self.calibration),
            "calibration tokens": self.calibration_tokens,
            **self._means(),
            **({"nested": True} if self.nested else {}),
        }

    def _means(self) -> Settings:
        if self.quantizer == "exllamav2":
            return {"quantizer": f"exllamav2 {VERSION}"}
        return {"group size": self.group_size} if self.method == "exl2" else {"method": self.method}


@dataclass(frozen=True, slots=True)
class Preset:
    """Amounts of work that a build defaults to.

    Args:
        calibration_tokens: See `QuantizeOptions`.
        search_tokens: See `SearchOptions`.
        evaluations: See `SearchOptions`.
    """

    calibration_tokens: int
    search_tokens: int
    evaluations: int | None


PRESETS: Final = {
    "standard": Preset(calibration_tokens=65536, search_tokens=8192, evaluations=None),
    "quick": Preset(calibration_tokens=8192, search_tokens=2048, evaluations=0),
}


def text_identity(path: Path | None) -> str | None:
    """Return a hash of a text file, by which builds from different texts are told apart."""
    return None if path is None else file_record(path).sha256
