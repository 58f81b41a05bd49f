"""exllamav2's handles over the weights that are resident: one per matrix, and one per attention or MLP block.

A block's handle holds raw pointers to its matrices, and CUDA graphs that were captured of it hold raw pointers to
their weights. So when a matrix changes, its block's handle is made anew, which costs next to nothing, and the graphs
of that block go with the old one.
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from flexquant.engine.exllamav2.card import CardMemory, Kernels
from flexquant.engine.exllamav2.form import Form
from flexquant.engine.model_config import HEAD, ModelConfig

_ATTENTION: Final = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP: Final = ("gate_proj", "up_proj", "down_proj")


class Placed(NamedTuple):
    """A layer that was uploaded."""

    form: Form
    memory: CardMemory
    offset: int


class Handles:
    """Engine thread only.

    Args:
        kernels: Make the handles.
        config: The model's shape.
    """

    def __init__(self, kernels: Kernels, config: ModelConfig) -> None:
        self._kernels = kernels
        self._layers = config.layers
        self._matrices: dict[str, int] = {}  # by key of the linear layer
        self._attention: dict[int, int] = {}  # by decoder layer
        self._mlp: dict[int, int] = {}

    @property
    def head(self) -> int:
        """The head's matrix."""
        return self._matrices[HEAD]

    def attention(self, layer: int) -> int:
        """A layer's attention block."""
        return self._attention[layer]

    def mlp(self, layer: int) -> int:
        """A layer's MLP block."""
        return self._mlp[layer]

    def matrix(self, key: str) -> int:
        """The matrix of a linear layer."""
        return self._matrices[key]

    def exchange(self, new: Mapping[str, Placed]) -> None:
        """Put uploaded layers into use; those that they replace are out of use when this returns.

        If a matrix cannot be made, everything is as it was.
        """
        made: dict[str, int] = {}
        try:
            for key, (form, memory, offset) in new.items():
                made[key] = self._kernels.make_matrix(form, memory, offset)
        except BaseException:
            for matrix in made.values():
                self._kernels.free_matrix(matrix)
            raise
        self._kernels.synchronize()
        layers = [layer for layer in range(self._layers) if any(f"layers.{layer}." in key for key in made)]
        attention = [layer for layer in layers if _any_of(_attention_keys(layer), made)]
        mlp = [layer for layer in layers if _any_of(_mlp_keys(layer), made)]
        self._free_blocks(attention, mlp)
        replaced = [self._matrices[key] for key in made if key in self._matrices]
        self._matrices |= made
        for matrix in replaced:
            self._kernels.free_matrix(matrix)
        for layer in attention:
            if all(key in self._matrices for key in _attention_keys(layer)):
                q, k, v, o = (self._matrices[key] for key in _attention_keys(layer))
                self._attention[layer] = self._kernels.make_attention(layer, q, k, v, o)
        for layer in mlp:
            if all(key in self._matrices for key in _mlp_keys(layer)):
                gate, up, down = (self._matrices[key] for key in _mlp_keys(layer))
                self._mlp[layer] = self._kernels.make_mlp(layer, gate, up, down)

    def release(self) -> None:
        """Free all handles; releasing twice is allowed."""
        if self._matrices:
            self._kernels.synchronize()
        self._free_blocks(list(self._attention), list(self._mlp))
        for matrix in self._matrices.values():
            self._kernels.free_matrix(matrix)
        self._matrices.clear()

    def _free_blocks(self, attention: Iterable[int], mlp: Iterable[int]) -> None:
        for layer in attention:
            if layer in self._attention:
                self._kernels.free_attention(self._attention.pop(layer))
        for layer in mlp:
            if layer in self._mlp:
                self._kernels.free_mlp(self._mlp.pop(layer))


def _any_of(keys: Iterable[str], made: Mapping[str, int]) -> bool:
    return any(key in made for key in keys)


def _attention_keys(layer: int) -> list[str]:
    return [f"model.layers.{layer}.self_attn.{name}" for name in _ATTENTION]


def _mlp_keys(layer: int) -> list[str]:
    return [f"model.layers.{layer}.mlp.{name}" for name in _MLP]
