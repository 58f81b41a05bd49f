"""Whether checkpoints are of one and the same model, quantized or not."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from flexquant.engine.ensemble import TOKENIZER
from flexquant.engine.errors import CheckpointError
from flexquant.engine.model_config import EMBEDDING, ModelConfig, read_model_config
from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.torch_tensors import read_tensor


def check_same_model(folders: Sequence[Path]) -> None:
    """Check that checkpoints are of one model: same settings, tokenizer, embedding and norms.

    Raises:
        CheckpointError: They are not; the message names what differs.
    """
    first, *others = folders
    config, index = read_model_config(first), TensorIndex.open(first)
    for other in others:
        _check_same_config(first, config, other, read_model_config(other))
        if _content(first / TOKENIZER) != _content(other / TOKENIZER):
            raise _different(first, other, f"{TOKENIZER} differs")
        index_there = TensorIndex.open(other)
        for name in (EMBEDDING, *config.norms()):
            # Stores hold them in float16, whatever the unquantized model has.
            if not read_tensor(index, name).half().equal(read_tensor(index_there, name).half()):
                raise _different(first, other, f"tensor {name} differs")


def _check_same_config(first: Path, config: ModelConfig, other: Path, there: ModelConfig) -> None:
    for field in fields(ModelConfig):
        here, elsewhere = getattr(config, field.name), getattr(there, field.name)
        if here != elsewhere:
            raise _different(first, other, f"{field.name} is {here!r} in the first and {elsewhere!r} in the second")


def _different(first: Path, other: Path, how: str) -> CheckpointError:
    return CheckpointError(
        f"{first} and {other} are of different models: {how}",
        hint="Give quantized versions of one and the same model.",
    )


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
