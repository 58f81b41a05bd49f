"""The texts of a build: files, or text that the model made up itself."""

from pathlib import Path

from flexquant.engine.errors import UsageError
from flexquant.engine.model_config import read_model_config
from flexquant.engine.tokenizer import Tokenizer
from flexquant.ensemble_builder.atomic_file import write_atomically
from flexquant.ensemble_builder.evaluation import WINDOW_TOKENS, Windows, read_text
from flexquant.ensemble_builder.file_hashes import file_record
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.text_sampling import sample_text


def text_windows(
    text: Path | None, tokens: int, *, model: Path, seed: int, kept: Path, progress: Progress, device: str = "cpu"
) -> Windows:
    """Return the windows of a text.

    Args:
        text: File with the text; sampled from the model if None.
        tokens: Tokens to use at most, rounded down to whole windows; at least one window.
        model: Folder of the model, and of its tokenizer.
        seed: Of a text that is sampled.
        kept: Where a sampled text is kept for a build that is continued.
        progress: Is told of the sampling.
        device: Where the model writes it, by torch's name.

    Raises:
        InputError: The text cannot be used.
        CheckpointError: The model cannot be read.
    """
    config, tokenizer = read_model_config(model), Tokenizer.open(model)
    window = min(WINDOW_TOKENS, config.context)
    limit = max(1, tokens // window)
    if text is not None:
        return Windows.of_text(read_text(text), text.name, tokenizer, config, limit=limit)
    if not kept.exists():
        name = f"{kept.stem} text"
        write_atomically(kept, sample_text(model, limit * window, seed, progress, name, device=device).encode())
    return Windows.of_text(read_text(kept), f"sampled from the model, seed {seed}", tokenizer, config, limit=limit)


def check_disjoint(calibration: Path | None, search: Path | None) -> None:
    """Check that two texts are not the same.

    Raises:
        UsageError: They are.
        InputError: One of them cannot be read.
    """
    if calibration is not None and search is not None and file_record(calibration) == file_record(search):
        raise UsageError(
            f"--calibration {calibration} and --search-text {search} are the same text",
            hint="Give two texts: a search on the text that was calibrated on finds what is not there.",
        )
