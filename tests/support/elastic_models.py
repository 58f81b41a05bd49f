"""An elastic model moved and asked by hand, and what it must be: EQM(k), assembled from the stores."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
import numpy.typing as npt
import torch

from flexquant.engine.any_precision.spec import AnyPrecisionSpec
from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.exl2.dequantize import Exl2Matrix, dequantize
from flexquant.engine.exl2.spec import Exl2Spec
from flexquant.engine.generation import Generation
from flexquant.engine.manifest import Module, assignment
from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.torch_tensors import read_tensor
from support.any_precision_layers import any_precision_weights
from support.torch_calls import appended

PROMPT = list(range(40, 60))


def carry_out(model: ElasticModel, future: "Future[int]") -> int:
    """Be the engine thread until the move has ended."""
    while not future.done():
        model.safe_point()
    return future.result(timeout=0)


def move(model: ElasticModel, position: int) -> None:
    """Go there."""
    assert carry_out(model, model.move_to(position)) == position


def offline(ensemble: Ensemble, module: str, variant: int) -> torch.Tensor:
    """Weights of a variant, read from the store that the manifest names, without arenas: whole layers, then cut.

    Residuals are added to what lies below them, and the sum is rounded to half precision; of Any-Precision the planes
    of all levels are read.
    """
    described = next(found for found in ensemble.manifest.modules if found.name == module)
    level = described.variants[variant].level
    store = next(found.store for found in ensemble.manifest.levels if found.name == level)
    index = TensorIndex.open(ensemble.folder / store)
    spec = ensemble.specs[module][variant]
    if isinstance(spec, AnyPrecisionSpec):
        return _any_precision(ensemble, described, variant)
    tensors = {name.rsplit(".", 1)[1]: read_tensor(index, name) for name in described.variants[variant].tensors}
    matrix = Exl2Matrix(
        tensors["q_weight"],
        tensors["q_scale"],
        tensors["q_scale_max"],
        tensors.get("q_invperm"),
        tensors.get("bias"),
        spec.runs,
        spec.out_features,
    )
    first = described.columns[0] if described.columns else 0
    weights = dequantize(matrix)[:, first : first + spec.padded_out].contiguous()
    return (offline(ensemble, module, variant + 1).float() + weights).half() if spec.residual else weights


def exl2_specs(ensemble: Ensemble) -> dict[str, list[Exl2Spec]]:
    """The specs of an EXL2 ensemble."""
    assert ensemble.manifest.method == "exl2"
    return {key: [spec for spec in specs if isinstance(spec, Exl2Spec)] for key, specs in ensemble.specs.items()}


def _any_precision(ensemble: Ensemble, module: Module, variant: int) -> torch.Tensor:
    """fp16 [in_features, outputs], bit by bit as the format says it."""
    stores = {level.name: level.store for level in ensemble.manifest.levels}
    tensors: list[dict[str, npt.NDArray[np.generic]]] = []
    for found in reversed(module.variants[variant:]):
        index = TensorIndex.open(ensemble.folder / stores[found.level])
        tensors.append({name.rsplit(".", 1)[1]: read_tensor(index, name).numpy() for name in found.tensors})
    weights = any_precision_weights(tensors)[slice(*(module.columns or (None, None)))]
    return torch.from_numpy(weights.T.copy())


def digest(weights: npt.NDArray[np.float16]) -> str:
    return hashlib.sha256(weights.tobytes()).hexdigest()


def digests_by_position(ensemble: Ensemble) -> list[dict[str, tuple[int, str]]]:
    """EQM(k) for every k, assembled from the stores: variant and hash of every module."""
    known = {
        (module.name, variant): digest(offline(ensemble, module.name, variant).numpy())
        for module in ensemble.manifest.modules
        for variant in range(len(module.variants))
    }
    name = ensemble.manifest.default_sequence
    positions = range(len(ensemble.sequence().transitions) + 1)
    return [
        {module: (variant, known[module, variant]) for module, variant in chosen.items()}
        for chosen in (assignment(ensemble.manifest, name, position) for position in positions)
    ]


def digests(model: ElasticModel) -> dict[str, tuple[int, str]]:
    """Variant and hash of every module where the model is now."""
    found = {}
    for module in model.ensemble.manifest.modules:
        variant, weights = model.weights_of(module.name)
        found[module.name] = (variant, digest(weights))
    return found


def generate(model: ElasticModel, tokens: int = 12, prompt: Sequence[int] = PROMPT) -> list[int]:
    """So many tokens behind a prompt."""
    with Generation(model, prompt, max_tokens=tokens, ignore_eos=True) as generation:
        while generation.finished is None:
            generation.step()
        return list(generation.generated)


def logits(model: ElasticModel) -> torch.Tensor:
    """Of `PROMPT`."""
    sequence = model.new_sequence(len(PROMPT))
    try:
        return torch.from_numpy(model.forward([appended(sequence, torch.tensor(PROMPT))]))
    finally:
        model.release(sequence)


def fresh_logits(ensemble: Ensemble, position: int) -> torch.Tensor:
    """Logits of a model that was loaded at the position and never moved."""
    fresh = ElasticModel.load(ensemble, position=position, kv_pages=8)
    try:
        return logits(fresh)
    finally:
        fresh.close()
