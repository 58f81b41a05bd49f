"""Any-Precision layers of random codes, and what they must decode to: the format's rules at their plainest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexquant.engine.any_precision.spec import AnyPrecisionSpec, read_spec
from flexquant.engine.tensor_index import TensorIndex
from support.checkpoints import write_safetensors
from support.ensembles import any_precision_tensors

Tensors = Mapping[str, NDArray[np.generic]]


def any_precision_weights(levels: Sequence[Tensors]) -> NDArray[np.float16]:
    """Weights fp16 [N, K] of what each level has of a layer, by suffix, from the one that is on none upwards."""
    planes = np.concatenate([level["planes"] for level in levels])
    bits = np.unpackbits(planes.view(np.uint8), axis=2, bitorder="little").astype(np.int64)  # [b, N, K]
    codes = sum(plane << (len(bits) - 1 - number) for number, plane in enumerate(bits))
    table: NDArray[np.float16] = levels[-1]["table"].astype(np.float16)
    return np.take_along_axis(table, codes, axis=1)


@dataclass(frozen=True)
class AnyPrecisionLayer:
    """One layer: its widths from the smallest up, and by width what that level has of it, by suffix."""

    in_features: int
    out_features: int
    widths: Sequence[int]
    tensors: Sequence[Tensors]

    @property
    def bias(self) -> NDArray[np.generic] | None:
        return self.tensors[0].get("bias")

    def weights(self, level: int = -1) -> NDArray[np.float16]:
        """[N, K] at a level, counted from the smallest."""
        return any_precision_weights(self.tensors[: level % len(self.tensors) + 1])

    def product(self, x: NDArray[np.float32], level: int = -1) -> NDArray[np.float64]:
        """x [rows, K] times the layer, with its bias: [rows, N]."""
        product = x.astype(np.float64) @ self.weights(level).astype(np.float64).T
        return product if self.bias is None else product + self.bias.astype(np.float64)

    def specs(self, folder: Path) -> list[AnyPrecisionSpec]:
        """Write a store for each level, from the smallest up, and read them back."""
        base, found = None, []
        for width, tensors in zip(self.widths, self.tensors, strict=True):
            store = folder / str(width)
            store.mkdir(parents=True)
            write_safetensors(
                store / "quantized.safetensors", {f"layer.{name}": part for name, part in tensors.items()}
            )
            base = read_spec(
                TensorIndex.open(store),
                "layer",
                in_features=self.in_features,
                out_features=self.out_features,
                bias=self.bias is not None,
                base=base,
            )
            found.append(base)
        return found


def random_layer(
    in_features: int, out_features: int, widths: Sequence[int], *, bias: bool = False, seed: int = 0
) -> AnyPrecisionLayer:
    """A layer of random codes; `widths` ascend."""
    rng = np.random.default_rng(seed)
    levels = []
    for width, below in zip(widths, [0, *widths], strict=False):
        named = any_precision_tensors(rng, "layer", in_features, out_features, width, below)
        levels.append({name.removeprefix("layer."): tensor for name, tensor in named.items()})
    if bias:
        levels[0]["bias"] = rng.standard_normal(out_features).astype(np.float16)
    return AnyPrecisionLayer(in_features, out_features, widths, levels)


@st.composite
def layers(draw: st.DrawFn) -> AnyPrecisionLayer:
    """Layers of one to four levels, of inputs that are odd multiples of 32, too, and of any number of outputs."""
    widths = sorted(draw(st.sets(st.integers(2, 8), min_size=1, max_size=4)))
    return random_layer(
        32 * draw(st.integers(1, 7)),
        draw(st.integers(1, 80)),
        widths,
        bias=draw(st.booleans()),
        seed=draw(st.integers(0, 2**32 - 1)),
    )
