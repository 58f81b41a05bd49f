"""EXL2 layers of random codes, and what they must decode to: the format's rules at their plainest, number by number.

A column of a group is one little-endian integer whose digits of `bits` bits are the codes of its rows; Python's whole
numbers do the packing. Nothing here is shared with the packages that are tested.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from support.checkpoints import write_safetensors

WIDTHS = (2, 3, 4, 5, 6, 8)
WHOLE_WORDS = {8: 4, 6: 16, 5: 32, 4: 8, 3: 32, 2: 16}
"""Fewest rows of each width whose codes fill whole 32-bit words."""

Groups = Sequence[tuple[int, int]]
"""(bits, rows) of each group."""


@dataclass(frozen=True)
class Exl2Layer:
    """One layer: its tensors by suffix, and the parts that they were made of. K inputs, Np padded outputs, G groups."""

    tensors: dict[str, NDArray[np.generic]]
    groups: Groups
    out_features: int
    bias: bool
    codes: NDArray[np.uint8]
    """[K, Np]"""
    scale_indices: NDArray[np.int64]
    """[G, Np], 0..15"""

    @property
    def in_features(self) -> int:
        return len(self.codes)

    def weights(self, prescale: float = 1.0) -> NDArray[np.float16]:
        """[K, Np] in packed order of rows; every product is rounded to half precision."""
        largest = self.tensors["q_scale_max"].astype(np.float32) * np.float32(prescale / 256)
        roots = self.scale_indices + 1
        scales = (roots * roots).astype(np.float16) * largest.astype(np.float16)[:, None]
        rows = np.repeat(np.arange(len(self.groups)), [rows for _, rows in self.groups])
        zero = np.array([1 << (bits - 1) for bits, _ in self.groups])[rows]
        weights: NDArray[np.float16] = (self.codes.astype(np.int64) - zero[:, None]).astype(np.float16) * scales[rows]
        return weights

    def product(self, x: NDArray[np.float32], prescale: float = 1.0) -> NDArray[np.float64]:
        """x [rows, K] times the layer, with its bias: [rows, out_features]."""
        permutation = np.argsort(self.tensors["q_invperm"])
        result = x.astype(np.float64)[:, permutation] @ self.weights(prescale).astype(np.float64)
        bias = self.tensors.get("bias")
        return result[:, : self.out_features] + (0 if bias is None else bias.astype(np.float64))

    def write(self, folder: Path, key: str = "layer") -> None:
        """Write a store with this layer alone."""
        named = {f"{key}.{suffix}": array for suffix, array in self.tensors.items()}
        write_safetensors(folder / "output.safetensors", named)


def random_layer(
    groups: Groups, out_features: int, *, seed: int = 0, bias: bool = False, largest: float = 0.02
) -> Exl2Layer:
    """A layer of random codes, scales and rows in random order; `largest` bounds its group scales."""
    random = np.random.default_rng(seed)
    padded = -(-out_features // 32) * 32
    blocks = [random.integers(0, 1 << bits, (rows, padded), dtype=np.uint8) for bits, rows in groups]
    packed = [pack_codes(block, bits) for block, (bits, _) in zip(blocks, groups, strict=True)]
    table: list[int] = []
    words = 0
    for block, (bits, _) in zip(packed, groups, strict=True):
        table += [bits, words]
        words += len(block)
    indices = random.integers(0, 16, (len(groups), padded))
    inputs = sum(rows for _, rows in groups)
    tensors: dict[str, NDArray[np.generic]] = {
        "q_weight": np.concatenate(packed).view(np.int32),
        "q_scale": np.concatenate([pack_codes(row[:, None].astype(np.uint8), 4).T for row in indices]).view(np.int32),
        "q_scale_max": (largest * random.random(len(groups))).astype(np.float16),
        "q_groups": np.array(table, dtype=np.uint16).view(np.int16),
        "q_invperm": random.permutation(inputs).astype(np.int32),
    }
    if bias:
        tensors["bias"] = random.standard_normal(out_features).astype(np.float16)
    return Exl2Layer(tensors, groups, out_features, bias, np.concatenate(blocks), indices)


def pack_codes(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint32]:
    """Codes [rows, columns] as words [rows * bits / 32, columns]: each column one stream, lowest bits first."""
    columns = []
    for column in codes.T.tolist():
        stream = sum(code << (bits * row) for row, code in enumerate(column))
        columns.append(np.frombuffer(stream.to_bytes(len(column) * bits // 8, "little"), dtype="<u4"))
    return np.stack(columns, axis=1)


@st.composite
def layers(draw: st.DrawFn) -> Exl2Layer:
    """Layers of one to four widths in any order, each with a group size of its own and a shorter last group."""
    groups: list[tuple[int, int]] = []
    for bits in draw(st.lists(st.sampled_from(WIDTHS), min_size=1, max_size=4)):
        size = draw(st.sampled_from([32, 64, 128]))
        rows = draw(st.sampled_from([32, 64, 96, 160]))
        groups += [(bits, min(size, rows - start)) for start in range(0, rows, size)]
    if draw(st.booleans()):
        bits = groups[-1][0]
        groups.append((bits, WHOLE_WORDS[bits]))
    return random_layer(
        groups,
        out_features=draw(st.integers(1, 80)),
        seed=draw(st.integers(0, 2**32 - 1)),
        bias=draw(st.booleans()),
        largest=draw(st.sampled_from([1e-6, 1e-3, 0.02, 1.0, 100.0])),
    )
