"""An unquantized model of full size with random weights."""

import shutil
from pathlib import Path

from bench.our_model import dense_checkpoint, tokenizer_of
from bench.scale import BenchShape


def write_checkpoint(folder: Path, shape: BenchShape, context: int) -> None:
    """Write it unless it is there already. It appears under its name when it is complete."""
    if folder.exists():
        return
    unfinished = folder.with_name(folder.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    dense_checkpoint(
        unfinished,
        hidden=shape.hidden,
        intermediate=shape.intermediate,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        vocab=shape.vocab,
        context=context,
    )
    (unfinished / "tokenizer.json").write_text(tokenizer_of(shape.vocab).to_str())
    (unfinished / "tokenizer_config.json").write_text("{}")
    unfinished.rename(folder)
