"""Our model of the bench: an ensemble of random weights at 8, 4, 3 and 2 bits, with a vocabulary of full size."""

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Final, Literal

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from bench.scale import BITS, NESTED_BITS, PLANE_BITS, BenchShape
from bench.worker import ROOT

# The tests have the writer of random ensembles, and `tests` is no installed package: this is the one place of the
# bench that makes it importable.
sys.path.insert(0, str(ROOT / "tests"))

from flexquant.engine.manifest import MANIFEST_NAME
from support.dense_checkpoint import dense_checkpoint
from support.ensembles import Shape, random_ensemble

__all__ = ["dense_checkpoint", "random_ensemble", "replace_tokenizers", "tests_shape", "tokenizer_of", "write_ensemble"]


Kind = Literal["stores", "nested", "planes", "stores of planes"]
"""Of our models: EXL2 at 8, 4, 3 and 2 bits; 8 bits as 4 bits and what is added to them; Any-Precision; and EXL2 at the
widths of that."""

_BITS: Final = {"stores": BITS, "nested": NESTED_BITS, "planes": PLANE_BITS, "stores of planes": PLANE_BITS}


def write_ensemble(folder: Path, shape: BenchShape, kind: Kind = "stores") -> None:
    """Write the ensemble unless it is there already. It appears under its name when it is complete.

    Args:
        folder: The ensemble's.
        shape: Of the model.
        kind: Which of our models.
    """
    if folder.exists():
        return
    unfinished = folder.with_name(folder.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    random_ensemble(
        unfinished,
        tests_shape(shape),
        bits=_BITS[kind],
        nested=kind == "nested",
        method="any-precision" if kind == "planes" else "exl2",
        shared_orders=True,  # as ensembles have that our builder makes
    )
    replace_tokenizers(unfinished, shape.vocab)
    unfinished.rename(folder)


def tests_shape(shape: BenchShape) -> Shape:
    """The shape as the writer of random ensembles takes it."""
    return Shape(
        hidden=shape.hidden,
        intermediate=shape.intermediate,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        vocab=shape.vocab,
        context=shape.context,
    )


def replace_tokenizers(ensemble: Path, vocab: int) -> None:
    """Give every store a tokenizer of `vocab` tokens, because reading one is part of a server's start."""
    text = tokenizer_of(vocab).to_str().encode()
    manifest = json.loads((ensemble / MANIFEST_NAME).read_text())
    for name in manifest["files"]:
        if name.endswith("/tokenizer.json"):
            (ensemble / name).write_bytes(text)
            manifest["files"][name] = {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    (ensemble / MANIFEST_NAME).write_text(json.dumps(manifest))


def tokenizer_of(vocab: int) -> Tokenizer:
    """Byte-level BPE: two special tokens, 256 bytes, then pairs and triples of printable ASCII, one merge each."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    tokens = ["<s>", "</s>", *alphabet]
    merges: list[tuple[str, str]] = []
    starts = letters
    while len(tokens) < vocab:
        merges += [(start, letter) for start in starts for letter in letters][: vocab - len(tokens)]
        starts = [start + letter for start, letter in merges[len(tokens) - 2 - len(alphabet) :]]
        tokens += starts
    model = models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(tokens[:2])
    return tokenizer
