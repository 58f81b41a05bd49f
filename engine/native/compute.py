"""Computing with the native kernels: layers are repacked while they stream into their arena."""

import ctypes
from collections.abc import Callable, Mapping
from typing import Final

from flexquant.engine.ensemble import Ensemble
from flexquant.engine.layer_spec import LayerSpec
from flexquant.engine.memory.arena import Arena, page_rounded
from flexquant.engine.native.decoder import NativeDecoder, shape_of
from flexquant.engine.native.layouts import layout_of, repack, staging_bytes
from flexquant.engine.native.library import choose_kernels, load, set_threads
from flexquant.engine.native.linears import most_rounded_bytes
from flexquant.engine.prefill import CHUNK_TOKENS
from flexquant.engine.residency import Residency
from flexquant.engine.swap import Swapper
from flexquant.engine.tensor_index import read_into

_FLOAT_BYTES: Final = 4
_STAGING_BYTES: Final = 512 << 10
"""Little enough to stay in a core's cache between reading and repacking."""


class NativeCompute:
    """Implements `Compute`.

    Args:
        kernels: Name of the instruction set to use, in the whole process.
        threads: That compute, in the whole process.
    """

    independent_rows: Final = True

    def __init__(self, kernels: str, threads: int) -> None:
        self.name = kernels
        choose_kernels(kernels)
        set_threads(threads)

    def size_bytes(self, spec: LayerSpec) -> int:
        """See `Compute`."""
        return layout_of(spec).size_bytes

    def scratch(self, ensemble: Ensemble) -> Mapping[str, int]:
        """See `Compute`. `staging` is where files are read before they are repacked, `pass` where chunks compute."""
        row = 2 * ensemble.config.hidden_size + 2 * ensemble.config.rotary_dim  # hidden states and rotations, float32
        return {
            "staging": _staging(ensemble),
            "pass": page_rounded(_pass_bytes(ensemble)) + CHUNK_TOKENS * row * _FLOAT_BYTES,
        }

    def scratch_per_token(self, ensemble: Ensemble) -> int:  # noqa: ARG002  # attention reads pages where they are
        """See `Compute`."""
        return 0

    def filler(self, ensemble: Ensemble, rest: Callable[[], None]) -> Callable[[LayerSpec, memoryview], None]:
        """See `Compute`."""
        return _Filler(_staging(ensemble), rest)

    def decoder(self, ensemble: Ensemble, residency: Residency, swapper: Swapper) -> NativeDecoder:
        """See `Compute`."""
        return NativeDecoder(ensemble, residency, swapper, max_rows=CHUNK_TOKENS, scratch=Arena(_pass_bytes(ensemble)))


class _Filler:
    def __init__(self, staging: int, rest: Callable[[], None]) -> None:
        self._rest = rest
        self._staging = Arena(staging)
        self._staging.prefault()
        self._library = load()

    def __call__(self, spec: LayerSpec, buffer: memoryview) -> None:
        def fetch(suffix: str, start: int, end: int) -> int:
            self._rest()  # from the piece before
            read_into(spec.entries[suffix], self._staging.memory()[: end - start], start)
            return self._staging.address

        layout = layout_of(spec)
        target = (ctypes.c_ubyte * layout.size_bytes).from_buffer(buffer)
        repack(self._library, layout, fetch, ctypes.addressof(target), self._staging.mapped_bytes)


def _staging(ensemble: Ensemble) -> int:
    needed = max(staging_bytes(spec) for specs in ensemble.specs.values() for spec in specs)
    return page_rounded(max(_STAGING_BYTES, needed))


def _pass_bytes(ensemble: Ensemble) -> int:
    """Scratch memory of a pass of CHUNK_TOKENS rows, whichever variants are resident."""
    rounded = most_rounded_bytes(ensemble, CHUNK_TOKENS)
    return int(load().fq_scratch_bytes(ctypes.byref(shape_of(ensemble.config)), CHUNK_TOKENS, rounded))
