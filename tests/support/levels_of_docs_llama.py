"""docs-llama at 8, 4 and 3 bits: 8 and 3 as the demo has them, 4 rounded to nearest here."""

import os
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flexquant.engine.ensemble import Ensemble
from flexquant.engine.manifest import (
    MANIFEST_NAME,
    Evaluation,
    Level,
    Manifest,
    Module,
    Move,
    Quality,
    Search,
    Text,
    Transition,
    TransitionSequence,
    Variant,
)
from flexquant.engine.model_config import EMBEDDING, ModelConfig, read_model_config
from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.tokenizer import Tokenizer
from flexquant.engine.torch_tensors import read_tensor
from flexquant.engine.weights import DenseWeights
from flexquant.ensemble_builder.exl2_pack import QuantizedLinear, pack
from flexquant.ensemble_builder.row_groups import groups_of
from support.checkpoints import write_safetensors
from support.ensembles import file_records

TESTS = Path(__file__).parents[1]
CHECKPOINT = TESTS / "assets/docs-llama"
LEVELS = ("8.0", "4.0", "3.0")
_DEMO = TESTS.parent / "server/demo/levels"
_SUFFIXES = ("q_weight", "q_scale", "q_scale_max", "q_groups", "q_invperm")
_GROUP = 32
_WRITTEN = "levels/{}/quantized.safetensors"


@cache
def checkpoint() -> tuple[ModelConfig, DenseWeights]:
    """The unquantized model."""
    config = read_model_config(CHECKPOINT)
    return config, DenseWeights(TensorIndex.open(CHECKPOINT), config)


def windows(count: int, tokens: int) -> Tensor:
    """The first windows of the validation text, each with BOS first: int64 [count, tokens]."""
    config, _ = checkpoint()
    assert config.bos_id is not None
    text = (TESTS / "assets/text/validation.txt").read_text(encoding="utf-8")
    found = torch.tensor(Tokenizer.open(CHECKPOINT).encode(text, bos=False)[: count * (tokens - 1)])
    return torch.cat([torch.full((count, 1), config.bos_id), found.view(count, tokens - 1)], dim=1)


def layer_at(level: str, key: str) -> dict[str, NDArray[np.generic]]:
    """Tensors by suffix of a linear layer at a level."""
    if level == "4.0":
        return {suffix: tensor.numpy() for suffix, tensor in rounded_to_nearest(checkpoint()[1].weight(key), 4).items()}
    index = TensorIndex.open(_DEMO / level)
    return {suffix: read_tensor(index, f"{key}.{suffix}").numpy() for suffix in _SUFFIXES}


def rounded_to_nearest(weight: Tensor, bits: int) -> dict[str, Tensor]:
    """EXL2 tensors of a matrix f32 [out_features, in_features], in groups of 32 rows in the model's order."""
    columns = weight.T.reshape(-1, _GROUP, len(weight))  # [groups, rows, out_features]
    zero = 1 << (bits - 1)
    wanted = columns.abs().amax(dim=1) / (zero - 1)  # scales that hold the largest weight of every column
    largest = wanted.amax(dim=1).half()
    unit = (largest.float() / 256).half().float()[:, None]
    roots = (wanted / unit).sqrt().ceil().clamp(1, 16)
    scales = (roots * roots * unit).half().float()[:, None]
    codes = ((columns / scales).round() + zero).clamp(0, 2 * zero - 1)
    return pack(
        QuantizedLinear(
            groups=groups_of([(bits, weight.shape[1])], _GROUP),
            codes=codes.to(torch.uint8).flatten(0, 1),
            scale_codes=(roots - 1).to(torch.uint8),
            scale_max=largest,
            permutation=torch.arange(weight.shape[1]),
        )
    )


def write_levels(folder: Path) -> Ensemble:
    """Write an ensemble of all levels; each of its two transitions takes all modules to the next level."""
    config, _ = checkpoint()
    for level in LEVELS:
        shutil.copytree(_DEMO / ("3.0" if level == "4.0" else level), folder / "levels" / level)
    named = {
        f"{shape.key}.{suffix}": array
        for shape in config.linears()
        for suffix, array in layer_at("4.0", shape.key).items()
    }
    write_safetensors(folder / _WRITTEN.format("4.0"), named)
    indexes = [TensorIndex.open(folder / "levels" / level) for level in LEVELS]
    modules = [
        Module(
            name=shape.key,
            linear=shape.key,
            in_features=shape.in_features,
            out_features=shape.out_features,
            variants=[_variant(shape.key, level, index) for level, index in zip(LEVELS, indexes, strict=True)],
        )
        for shape in config.linears()
    ]
    fixed = sum(indexes[0][norm].nbytes for norm in config.norms())
    text = Text(name="none", sha256="0" * 64, tokens=1)
    manifest = Manifest(
        name=os.fspath(folder.name),
        architecture=config.architecture,
        method="exl2",
        parameters=sum(shape.in_features * shape.out_features for shape in config.linears()),
        levels=[
            Level(name=name, bits=float(name), bits_per_weight=float(name), store=f"levels/{name}") for name in LEVELS
        ],
        modules=modules,
        sequences={"default": _sequence(modules, fixed)},
        default_sequence="default",
        fixed_bytes=fixed,
        embedding_bytes=indexes[0][EMBEDDING].nbytes,
        evaluation=Evaluation(
            text=text, window_tokens=16, windows=1, reference="unquantized", reference_perplexity=1.0
        ),
        search=Search(method="none", seed=0, evaluations=0),
        quantization=None,
        files=file_records(folder),
    )
    (folder / MANIFEST_NAME).write_text(manifest.model_dump_json())
    return Ensemble.open(folder)


def _variant(key: str, level: str, index: TensorIndex) -> Variant:
    names = [f"{key}.{suffix}" for suffix in _SUFFIXES]
    return Variant(level=level, tensors=names, bytes=sum(index[name].nbytes for name in names))


def _sequence(modules: Sequence[Module], fixed: int) -> TransitionSequence:
    steps = range(len(LEVELS) - 1)
    return TransitionSequence(
        unit="layer",
        transitions=[
            Transition(moves=[Move(module=module.name, from_variant=step, to_variant=step + 1) for module in modules])
            for step in steps
        ],
        footprint_bytes=[
            fixed + sum(module.variants[level].bytes for module in modules) for level in range(len(LEVELS))
        ],
        quality=[Quality(perplexity=1.0, kl=0.0)] * len(LEVELS),
    )
