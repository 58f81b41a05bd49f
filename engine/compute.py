"""Who computes: the native kernels, or plain torch where they were not built.

A `Compute` decides two things that belong together: how a layer lies in an arena, and which code reads it there.
"""

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import psutil

from flexquant.engine.ensemble import Ensemble
from flexquant.engine.errors import UsageError
from flexquant.engine.kv_cache import KVCache
from flexquant.engine.layer_spec import LayerSpec
from flexquant.engine.native.compute import NativeCompute
from flexquant.engine.native.library import NativeUnavailableError, kernel_names
from flexquant.engine.residency import Residency
from flexquant.engine.segment import Floats, Segment
from flexquant.engine.swap import Swapper

log = logging.getLogger(__name__)

Fill = Callable[[LayerSpec, memoryview], None]
"""Reads a layer, or a slice of one, from its files into `size_bytes` bytes of an arena; raises CheckpointError."""


class ElasticDecoder(Protocol):
    """Runs an ensemble whose weights change at safe points. Engine thread only."""

    def forward(self, segments: Sequence[Segment], cache: KVCache, safe_point: Callable[[], None]) -> Floats:
        """See `Decoder.forward`."""
        ...

    def reconstruct(self, module: str) -> tuple[int, npt.NDArray[np.float16]]:
        """Resident variant of a module, and its weights: fp16 [in_features, padded outputs], packed row order.

        Of a slice, its own columns.
        """
        ...


class Compute(Protocol):
    """How weights lie in arenas, and who works on them there."""

    @property
    def name(self) -> str:
        """Such as "avx512-vnni" or "torch"."""
        ...

    def size_bytes(self, spec: LayerSpec) -> int:
        """Bytes that a layer, or a slice of one, takes in an arena, a multiple of 64."""
        ...

    @property
    def independent_rows(self) -> bool:
        """Whether a row's result is the same bits whichever rows, of a prompt or not, are computed with it."""
        ...

    def scratch(self, ensemble: Ensemble) -> Mapping[str, int]:
        """Working memory by name: most bytes that loading and passes of a prompt's chunk need."""
        ...

    def scratch_per_token(self, ensemble: Ensemble) -> int:
        """Beyond that, for each token of the longest sequence."""
        ...

    def filler(self, ensemble: Ensemble, rest: Callable[[], None]) -> Fill:
        """Make what fills arenas; it is used by one thread at a time, and calls `rest` after each piece of work."""
        ...

    def decoder(self, ensemble: Ensemble, residency: Residency, swapper: Swapper) -> ElasticDecoder:
        """Make what runs the model."""
        ...


TORCH: Final = "torch"
AUTO: Final = "auto"


def choose_compute(name: str = AUTO, threads: int | None = None) -> Compute:
    """The fastest way to compute on this machine, or the one of that name.

    Args:
        name: "auto", "torch", or a set of native kernels, such as "avx2".
        threads: That compute, in the whole process; without, as many as there are cores to use.

    Raises:
        UsageError: This machine has no such kernels.
        NativeUnavailableError: Native kernels were asked for by name and were not built.
    """
    threads = usable_cores() if threads is None else threads
    if name == TORCH:
        return _torch(threads)
    try:
        names = kernel_names()
    except NativeUnavailableError as error:
        if name != AUTO:
            raise
        log.warning("computing with plain torch, which is many times slower: %s. %s", error.message, error.hint)
        return _torch(threads)
    if name == AUTO:
        return NativeCompute(names[0], threads)
    if name not in names:
        raise UsageError(f"kernels {name!r} do not run here", hint=f"These do: {', '.join([AUTO, *names, TORCH])}.")
    return NativeCompute(name, threads)


def usable_cores() -> int:
    """Physical cores that this process may run on."""
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def _torch(threads: int) -> Compute:
    # Imported late: the daemon does without torch where there are native kernels, and starts sooner and smaller.
    from flexquant.engine.torch_compute import TorchCompute

    return TorchCompute(threads)
