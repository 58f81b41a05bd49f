"""What a store holds of a linear layer, whichever method quantized it."""

import flexquant.engine.any_precision.spec as any_precision
import flexquant.engine.exl2.spec as exl2
from flexquant.engine.any_precision.spec import AnyPrecisionSpec
from flexquant.engine.exl2.spec import Exl2Spec
from flexquant.engine.manifest import Method
from flexquant.engine.model_config import LinearShape
from flexquant.engine.tensor_index import TensorIndex

LayerSpec = Exl2Spec | AnyPrecisionSpec
"""A layer or a slice of one, at one level: `entries` are its tensors. A `residual` needs what lies below it."""


def is_quantized(method: Method, index: TensorIndex, key: str) -> bool:
    """Whether a store has the linear layer `key` in the form of this method."""
    return any_precision.is_quantized(index, key) if method == "any-precision" else exl2.is_quantized(index, key)


def read_spec(method: Method, index: TensorIndex, shape: LinearShape, base: LayerSpec | None) -> LayerSpec:
    """Find and check the tensors of a layer.

    Args:
        method: Of the ensemble.
        index: The store.
        shape: The layer, as the model's config has it.
        base: The layer at the level that the store lies on, if it does.

    Raises:
        CheckpointError: A tensor is missing, or breaks a rule of the format; the message names it.
    """
    if method == "any-precision":
        assert base is None or isinstance(base, AnyPrecisionSpec), "an ensemble has one method"
        return any_precision.read_spec(
            index,
            shape.key,
            in_features=shape.in_features,
            out_features=shape.out_features,
            bias=shape.bias,
            base=base,
        )
    assert base is None or isinstance(base, Exl2Spec), "an ensemble has one method"
    return exl2.read_spec(
        index, shape.key, in_features=shape.in_features, out_features=shape.out_features, bias=shape.bias, base=base
    )
