"""Whose program makes the levels of a build: ours, on the CPU, or exllamav2's converter, on an NVIDIA GPU."""

from collections.abc import Sequence
from typing import Literal

from flexquant.engine.errors import UsageError
from flexquant.engine.exllamav2.facts import gpu_facts
from flexquant.ensemble_builder.exllamav2.measurement import check_possible
from flexquant.ensemble_builder.options import Quantizer
from flexquant.ensemble_builder.progress import Progress

Asked = Literal["auto", "own", "exllamav2"]


def choose_quantizer(
    asked: Asked, levels: Sequence[float], own_alone: str | None, device: str, progress: Progress
) -> Quantizer:
    """Return whose program makes the levels.

    Args:
        asked: "auto" takes the converter where a card is used and exllamav2 is installed with all that it needs.
        levels: Bits per weight, falling.
        own_alone: An option of the build that the converter does not know, such as "--nested"; None if there is none.
        device: Where the build measures, by torch's name.
        progress: Is told what "auto" took, where there was a choice.

    Raises:
        UsageError: The converter was asked for, and cannot run here or not make this.
    """
    if asked == "own":
        return "own"
    if asked == "exllamav2":
        if own_alone is not None:
            raise UsageError(f"--quantizer exllamav2 cannot be used with {own_alone}", hint="Leave one of them out.")
        missing = gpu_facts().missing
        if missing:
            raise UsageError(
                f"exllamav2's converter cannot run here: {'; '.join(missing)}",
                hint='Install what it needs with: pip install "flexquant[cuda]". Or use --quantizer own.',
            )
        check_possible(levels)
        return "exllamav2"
    if device == "cpu" or gpu_facts().missing:
        return "own"
    reason = own_alone or _impossible(levels)
    if reason is not None:
        progress.note(f"levels are quantized on the CPU, because exllamav2's converter does not make them: {reason}")
        return "own"
    progress.note("exllamav2's converter makes the levels on the GPU (--quantizer own: our quantizer, on the CPU)")
    return "exllamav2"


def _impossible(levels: Sequence[float]) -> str | None:
    try:
        check_possible(levels)
    except UsageError as error:
        return error.message
    return None
