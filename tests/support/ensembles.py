"""Ensembles of random weights: codes of either method written straight to safetensors, with a manifest that fits.

python tests/support/ensembles.py OUT --megabytes 400
"""

import argparse
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from flexquant.engine.manifest import (
    MANIFEST_NAME,
    Evaluation,
    FileRecord,
    Level,
    Manifest,
    Method,
    Module,
    Move,
    Quality,
    Search,
    Text,
    Transition,
    TransitionSequence,
    Variant,
)

Tensors = dict[str, NDArray[np.generic]]

_GROUP = 32
_DTYPES = {"int32": "I32", "int16": "I16", "float16": "F16"}
_SPECIAL = ["<s>", "</s>"]
_TEXT = Text(name="random weights", sha256="0" * 64, tokens=1)


@dataclass(frozen=True)
class Shape:
    """A Llama of this shape. The defaults answer in milliseconds."""

    hidden: int = 64
    intermediate: int = 128
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    vocab: int = 288
    context: int = 512

    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of every linear layer."""
        key_value = self.hidden // self.heads * self.kv_heads
        found: dict[str, tuple[int, int]] = {}
        for layer in range(self.layers):
            attention, mlp = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
            found |= {
                f"{attention}.q_proj": (self.hidden, self.hidden),
                f"{attention}.k_proj": (self.hidden, key_value),
                f"{attention}.v_proj": (self.hidden, key_value),
                f"{attention}.o_proj": (self.hidden, self.hidden),
                f"{mlp}.gate_proj": (self.hidden, self.intermediate),
                f"{mlp}.up_proj": (self.hidden, self.intermediate),
                f"{mlp}.down_proj": (self.intermediate, self.hidden),
            }
        return found | {"lm_head": (self.hidden, self.vocab)}


def shape_of_megabytes(megabytes: int, bits: int = 8) -> Shape:
    """A shape whose weights at `bits` take at least so many MB (10^6 bytes): layers of 2048/5632, as in 1 B models."""
    hidden, intermediate = 2048, 5632
    layer = Shape(hidden=hidden, intermediate=intermediate, layers=1, heads=32, kv_heads=8, vocab=512)
    weights = sum(inputs * outputs for key, (inputs, outputs) in layer.linears().items() if key != "lm_head")
    layers = math.ceil(megabytes * 1_000_000 * 8 / bits / weights)
    return Shape(hidden=hidden, intermediate=intermediate, layers=layers, heads=32, kv_heads=8, vocab=512)


def random_ensemble(
    folder: Path,
    shape: Shape = Shape(),
    *,
    bits: Sequence[int] = (8, 3),
    transitions: Sequence[Sequence[tuple[str, int, int]]] | None = None,
    cuts: Mapping[str, Sequence[int]] = MappingProxyType({}),
    shared_orders: bool = False,
    nested: bool = False,
    method: Method = "exl2",
    seed: int = 0,
) -> Path:
    """Write an ensemble of random weights.

    Args:
        folder: Created; gets `ensemble.json` and `levels/`.
        shape: Of the model.
        bits: Width of all codes of each level, descending.
        transitions: Moves (module, from variant, to variant) of each transition; by default the modules go down one
            by one, first all to the second level, then all to the third.
        cuts: By linear layer, the columns at which it is cut into slices.
        shared_orders: Layers with the same inputs take them in the same order, at every level, as in ensembles that
            our builder makes; otherwise every layer has an order of its own.
        nested: Each level but the last lies on the next one, and has as many bits as that lacks.
        method: Any-Precision levels are nested always; what is said about orders is for EXL2.
        seed: Of the weights.
    """
    rng = np.random.default_rng(seed)
    nested = nested or method == "any-precision"
    names = [f"{width:.1f}" for width in bits]
    stores = [folder / "levels" / name for name in names]
    common = _common(rng, shape)
    slices = {
        key: [*pairwise([0, *cuts[key], outputs])] if key in cuts else [None]
        for key, (_, outputs) in shape.linears().items()
    }
    variants: dict[str, list[Variant]] = {
        _name(key, columns): [] for key, of_layer in slices.items() for columns in of_layer
    }
    below = [*bits[1:], 0] if nested else [0] * len(bits)  # bits of what a level is added to
    for name, width, under, store in zip(names, bits, below, stores, strict=True):
        store.mkdir(parents=True)
        quantized: Tensors = {}
        for key, (inputs, outputs) in shape.linears().items():
            if method == "any-precision":
                tensors = any_precision_tensors(rng, key, inputs, outputs, width, under)
            else:
                order = _order(key, inputs, seed) if shared_orders else rng.permutation(inputs)
                tensors = _exl2(rng, key, order, outputs, width - under, share=2.0**-under)
                if under:
                    del tensors[f"{key}.q_invperm"]
            for columns in slices[key]:
                size = _bytes(tensors, columns, outputs)
                variants[_name(key, columns)].append(Variant(level=name, tensors=list(tensors), bytes=size))
            quantized |= tensors
        _write_safetensors(store / "quantized.safetensors", quantized)
        _write_safetensors(store / "common.safetensors", common)
        _write_settings(store, shape, method)
    if nested:
        variants = {key: _stacked(of_module) for key, of_module in variants.items()}
    modules = [
        Module(
            name=_name(key, columns),
            linear=key,
            columns=columns,
            in_features=inputs,
            out_features=columns[1] - columns[0] if columns else outputs,
            variants=variants[_name(key, columns)],
        )
        for key, (inputs, outputs) in shape.linears().items()
        for columns in slices[key]
    ]
    if transitions is None:
        transitions = [[(module.name, level, level + 1)] for level in range(len(bits) - 1) for module in modules]
    fixed = sum(tensor.nbytes for name, tensor in common.items() if "norm" in name)
    manifest = Manifest(
        name=folder.name,
        architecture="llama",
        method=method,
        parameters=sum(inputs * outputs for inputs, outputs in shape.linears().values()),
        levels=[
            Level(name=name, bits=width, bits_per_weight=width, store=f"levels/{name}", on=lower if nested else None)
            for name, width, lower in zip(names, bits, [*names[1:], None], strict=True)
        ],
        modules=modules,
        sequences={"default": _sequence(transitions, modules, fixed, cut=bool(cuts))},
        default_sequence="default",
        fixed_bytes=fixed,
        embedding_bytes=common["model.embed_tokens.weight"].nbytes,
        evaluation=Evaluation(
            text=_TEXT, window_tokens=16, windows=1, reference="position 0", reference_perplexity=1.0
        ),
        search=Search(method="none: weights are random", seed=seed, evaluations=0),
        quantization=None,
        files=file_records(folder),
    )
    (folder / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=1))
    return folder


def file_records(folder: Path) -> dict[str, FileRecord]:
    """Size and hash of every file of the ensemble but its manifest."""
    records = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_NAME):
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        records[path.relative_to(folder).as_posix()] = FileRecord(bytes=path.stat().st_size, sha256=digest)
    return records


def _stacked(variants: Sequence[Variant]) -> list[Variant]:
    """The variants with what lies below each counted in."""
    totals = [*accumulate(variant.bytes for variant in reversed(variants))][::-1]
    return [variant.model_copy(update={"bytes": total}) for variant, total in zip(variants, totals, strict=True)]


def _name(key: str, columns: tuple[int, int] | None) -> str:
    return f"{key}[{columns[0]}:{columns[1]}]" if columns else key


def _bytes(tensors: Tensors, columns: tuple[int, int] | None, outputs: int) -> int:
    """Of a slice, codes and scales count for its columns, with the padding behind the last; all else counts whole."""
    total = 0
    for name, tensor in tensors.items():
        if columns and name.endswith((".planes", ".table")):
            total += tensor.nbytes * (columns[1] - columns[0]) // outputs
        elif columns and name.endswith((".q_weight", ".q_scale")):
            width = -(-columns[1] // 32) * 32 - columns[0]
            total += tensor.nbytes * width // (-(-outputs // 32) * 32)
        else:
            total += tensor.nbytes
    return total


def _sequence(
    transitions: Sequence[Sequence[tuple[str, int, int]]], modules: Sequence[Module], fixed: int, *, cut: bool
) -> TransitionSequence:
    sizes = {module.name: [variant.bytes for variant in module.variants] for module in modules}
    footprints = [fixed + sum(of_module[0] for of_module in sizes.values())]
    for moves in transitions:
        footprints.append(footprints[-1] + sum(sizes[name][new] - sizes[name][old] for name, old, new in moves))
    return TransitionSequence(
        unit="slice" if cut else "projection" if all(len(moves) == 1 for moves in transitions) else "block",
        transitions=[
            Transition(moves=[Move(module=name, from_variant=old, to_variant=new) for name, old, new in moves])
            for moves in transitions
        ],
        footprint_bytes=footprints,
        quality=[Quality(perplexity=10.0 + position, kl=0.01 * position) for position in range(len(footprints))],
    )


def _common(rng: np.random.Generator, shape: Shape) -> Tensors:
    norms = [f"model.layers.{layer}.{norm}_layernorm.weight" for layer in range(shape.layers) for norm in _NORMS]
    tensors: Tensors = {
        "model.embed_tokens.weight": rng.standard_normal((shape.vocab, shape.hidden)).astype(np.float16)
    }
    return tensors | {
        name: (1 + 0.1 * rng.standard_normal(shape.hidden)).astype(np.float16) for name in [*norms, "model.norm.weight"]
    }


_NORMS = ("input", "post_attention")


def _order(key: str, inputs: int, seed: int) -> NDArray[np.int64]:
    """The order of a layer's inputs, the same for layers with the same inputs."""
    for name in ("k_proj", "v_proj"):
        key = key.replace(name, "q_proj")
    source = key.replace("up_proj", "gate_proj")
    return np.random.default_rng([seed, *source.encode()]).permutation(inputs)


def _exl2(
    rng: np.random.Generator, key: str, order: NDArray[np.int64], outputs: int, bits: int, *, share: float = 1.0
) -> Tensors:
    """A layer of uniformly random codes whose products have a `share` of their inputs' standard deviation."""
    inputs = len(order)
    padded = -(-outputs // 32) * 32
    groups, words = inputs // _GROUP, _GROUP * bits // 32
    spread = 2**bits / math.sqrt(12)  # of uniform codes
    largest = 2.0 * share / (spread * math.sqrt(inputs))
    table = np.array([(bits, group * words) for group in range(groups)]).reshape(-1)
    return {
        f"{key}.q_weight": np.frombuffer(rng.bytes(groups * words * padded * 4), np.int32).reshape(-1, padded),
        f"{key}.q_scale": np.frombuffer(rng.bytes(groups * padded // 2), np.int32).reshape(groups, -1),
        f"{key}.q_scale_max": np.full(groups, largest, np.float16),
        f"{key}.q_groups": table.astype(np.uint16).view(np.int16),
        f"{key}.q_invperm": order.astype(np.int32),
    }


def any_precision_tensors(
    rng: np.random.Generator, key: str, inputs: int, outputs: int, bits: int, below: int
) -> Tensors:
    """What a level of `bits` bits has of a layer of random codes, on one of `below` bits (0 for none)."""
    planes = bits - below
    table = np.sort(rng.standard_normal((outputs, 2**bits)), axis=1) / math.sqrt(inputs)
    return {
        f"{key}.planes": np.frombuffer(rng.bytes(planes * outputs * inputs // 8), np.int32).reshape(
            planes, outputs, -1
        ),
        f"{key}.table": table.astype(np.float16),
    }


def _write_safetensors(path: Path, tensors: Mapping[str, NDArray[np.generic]]) -> None:
    header: dict[str, object] = {}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        header[name] = {"dtype": _DTYPES[tensor.dtype.name], "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            stream.write(tensor.data)


def _write_settings(store: Path, shape: Shape, method: Method) -> None:
    config: dict[str, object] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    if method == "any-precision":
        config["quantization_config"] = {"quant_method": "flexquant-any-precision"}
    (store / "config.json").write_text(json.dumps(config, indent=1))
    # Every byte is a token, so any text can be encoded and any answer decoded.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={token: number for number, token in enumerate([*_SPECIAL, *alphabet])}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(_SPECIAL)
    tokenizer.save(os.fspath(store / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    (store / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))


def main() -> None:
    """Write an ensemble whose best level has at least so many MB."""
    parser = argparse.ArgumentParser(description="Write an ensemble of random weights.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--megabytes", type=int, default=400, help="at least so many MB of weights at the best level")
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 3], help="widths of the levels, descending")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    shape = shape_of_megabytes(arguments.megabytes, arguments.bits[0])
    random_ensemble(arguments.out, shape, bits=arguments.bits, seed=arguments.seed)


if __name__ == "__main__":
    main()
