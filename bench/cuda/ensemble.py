"""The ensembles that are run: the demo, and one of 1.1 billion random weights that moves by blocks or projections."""

import json
from pathlib import Path
from typing import Final

from bench.our_model import random_ensemble, replace_tokenizers, tests_shape
from bench.scale import FULL, BenchShape
from flexquant.engine.manifest import MANIFEST_NAME

BITS: Final = (8, 4)
BLOCKS: Final = "blocks"
PROJECTIONS: Final = "projections"

DEMO: Final = Path(__file__).parent.parent.parent / "server" / "demo"


def write_large(folder: Path, shape: BenchShape = FULL.shape) -> Path:
    """Write the random ensemble unless it is there: levels of 8 and 4 bits, and two sequences between them."""
    if (folder / MANIFEST_NAME).exists():
        return folder
    ours = tests_shape(shape)
    blocks = [[(key, 0, 1) for key in keys] for keys in blocks_of(list(ours.linears()))]
    random_ensemble(folder, ours, bits=BITS, transitions=blocks, shared_orders=True)
    replace_tokenizers(folder, shape.vocab)
    _add_projections(folder)
    return folder


def blocks_of(keys: list[str]) -> list[list[str]]:
    """The linear layers of every attention block, every MLP block, and the head, in the order of the forward pass."""
    found: dict[str, list[str]] = {}
    for key in keys:
        found.setdefault(key.rpartition(".")[0] or key, []).append(key)
    return list(found.values())


def _add_projections(folder: Path) -> None:
    """The same way down, one projection at a time, as a second sequence."""
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    blocks = manifest["sequences"].pop(manifest["default_sequence"])
    sizes = {module["name"]: [variant["bytes"] for variant in module["variants"]] for module in manifest["modules"]}
    moves = [move for transition in blocks["transitions"] for move in transition["moves"]]
    footprints = blocks["footprint_bytes"][:1]
    for move in moves:
        before, after = (sizes[move["module"]][move[which]] for which in ("from_variant", "to_variant"))
        footprints.append(footprints[-1] + after - before)
    manifest["sequences"] = {
        BLOCKS: blocks,
        PROJECTIONS: {
            "unit": "projection",
            "transitions": [{"moves": [move]} for move in moves],
            "footprint_bytes": footprints,
            "quality": [{"perplexity": 10.0, "kl": 0.0}] * len(footprints),
        },
    }
    manifest["default_sequence"] = BLOCKS
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
