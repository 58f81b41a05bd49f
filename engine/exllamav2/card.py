"""What is needed of a graphics card: memory that really goes back, and exllamav2's kernels over it.

Two small surfaces. Everything else of this package is written against them, without torch and without exllamav2;
`device.py` and `library.py` implement them for a real card, and the tests with a fake that enforces their rules.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from flexquant.engine.exllamav2.form import Form
from flexquant.engine.segment import Floats


class CardMemory(Protocol):
    """One piece of device memory."""

    @property
    def nbytes(self) -> int:
        """Its size; 0 after release."""
        ...

    @property
    def address(self) -> int:
        """Where it begins on the card."""
        ...

    def release(self) -> None:
        """Give it back to the driver; releasing twice is allowed. Nothing that runs may still use it."""
        ...


class Rows(NamedTuple):
    """Equal pieces of a device memory: `count` of them of `nbytes` bytes, `pitch` apart, the first at `start`."""

    memory: CardMemory
    start: int
    pitch: int


class Card(Protocol):
    """Device memory. Any thread may use it."""

    @property
    def name(self) -> str:
        """Such as "NVIDIA GeForce RTX 4090"."""
        ...

    @property
    def integrated(self) -> bool:
        """Whether it shares the memory of the processor."""
        ...

    def available(self) -> tuple[int, int]:
        """Free bytes on the card, and bytes in all, as the driver counts them."""
        ...

    def taken(self) -> int:
        """Bytes on the card that this process has taken, without what the driver takes for itself."""
        ...

    def allocate(self, nbytes: int) -> CardMemory:
        """Take memory from the driver.

        Raises:
            MemoryError: The card has no room.
        """
        ...

    def staging(self, nbytes: int) -> memoryview:
        """Page-locked host memory of `nbytes` bytes, given back when the view dies.

        Raises:
            MemoryError: The system has no room.
        """
        ...

    def upload(self, source: memoryview, target: CardMemory) -> None:
        """Copy host memory to the beginning of device memory; done when this returns."""
        ...

    def copy(self, source: Rows, target: Rows, *, count: int, nbytes: int) -> None:
        """Copy pieces from one device memory to another, behind all passes so far; done when this returns."""
        ...


@dataclass(frozen=True, slots=True)
class Span:
    """Rows of one sequence in a pass.

    Its memory is float16 [layers, 2 (keys, values), capacity, kv_heads, head_dim].
    """

    memory: CardMemory
    capacity: int
    """Tokens that the memory holds."""
    past: int
    """Tokens whose keys and values are there."""
    rows: int
    """New tokens; their keys and values are written behind the past ones."""


class Kernels(Protocol):
    """exllamav2's kernels for one model. Engine thread only.

    A handle points into device memory and to other handles, and nothing checks that these are still there: a block's
    handle must be freed before its matrices', and a matrix's before its memory, and before either goes `synchronize`
    must have returned since the last pass.
    """

    def make_matrix(self, form: Form, memory: CardMemory, offset: int) -> int:
        """Take over a layer that was uploaded in `form`. Its weights are rewritten in place: once, not again."""
        ...

    def free_matrix(self, matrix: int) -> None:
        """Forget a matrix; its memory stays."""
        ...

    def make_attention(self, layer: int, q: int, k: int, v: int, o: int) -> int:
        """The attention block of a layer, norm included, of these matrices."""
        ...

    def free_attention(self, block: int) -> None:
        """Forget an attention block and the CUDA graphs that were captured of it."""
        ...

    def make_mlp(self, layer: int, gate: int, up: int, down: int) -> int:
        """The MLP block of a layer, norm included, of these matrices."""
        ...

    def free_mlp(self, block: int) -> None:
        """Forget an MLP block and the CUDA graphs that were captured of it."""
        ...

    def synchronize(self) -> None:
        """Wait until the card has done all it was asked to."""
        ...

    def enter(self, rows: Floats, spans: Sequence[Span]) -> Any:
        """Begin a pass; what is returned goes into the calls below.

        Args:
            rows: f32 [sum of all spans' rows, hidden], the tokens' embeddings.
            spans: One of any length, or several of one row each.
        """
        ...

    def attend(self, block: int, layer: int, passing: Any) -> None:
        """Run a layer's attention block."""
        ...

    def mlp(self, block: int, passing: Any) -> None:
        """Run an MLP block."""
        ...

    def logits(self, head: int, passing: Any, rows: Sequence[int]) -> Floats:
        """Final norm and head of some rows, at most 32: f32 [len(rows), padded vocabulary]."""
        ...

    def reconstruct(self, matrix: int) -> npt.NDArray[np.float16]:
        """A matrix's weights, for verification: [in_features, padded outputs], in the order of the inputs."""
        ...

    def close(self) -> None:
        """Give back working memory; all handles are freed by then."""
        ...
