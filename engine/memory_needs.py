"""How much memory a model will take, known before a byte of it is allocated. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch

from flexquant.engine.ensemble import Ensemble
from flexquant.engine.exl2.arena_layout import ALIGNMENT, size_bytes
from flexquant.engine.exl2.dequantize import scratch_bytes
from flexquant.engine.kv_cache import page_bytes, pages_for
from flexquant.engine.memory.arena import page_rounded
from flexquant.engine.residency import Residency, VariantSize


@dataclass(frozen=True, slots=True)
class MemoryNeeds:
    """Anonymous memory of one model on one sequence, in bytes."""

    mapped: tuple[int, ...]
    """Arenas at positions 0..N."""
    scratch: Mapping[str, int]
    """Working memory by name: `spare`, where a shrinking step is read while the old weights still answer, and
    `dequantize`, the tiles of a matrix product. Steps that grow read straight into their new arena, so there is no
    staging buffer."""
    fixed: int
    """Norms, in float32."""
    kv_page: int
    """One KV page."""

    @classmethod
    def of(cls, ensemble: Ensemble, *, sequence: str | None = None, kv_dtype: torch.dtype = torch.float16) -> Self:
        """Needs of an ensemble on its default or another sequence.

        Raises:
            EnsembleError: There is no such sequence, or one of its transitions cannot shrink in place.
        """
        residency = plan_residency(ensemble, sequence)
        config = ensemble.config
        return cls(
            mapped=tuple(residency.mapped(position) for position in range(residency.max_position + 1)),
            scratch={
                "spare": residency.spare_bytes,
                "dequantize": max(scratch_bytes(shape.in_features) for shape in config.linears()),
            },
            fixed=len(config.norms()) * config.hidden_size * torch.float32.itemsize,
            kv_page=page_rounded(page_bytes(config, kv_dtype)),
        )

    def total(self, position: int, tokens: int) -> int:
        """Bytes at `position` with KV pages for `tokens` tokens."""
        return self.mapped[position] + sum(self.scratch.values()) + self.fixed + pages_for(tokens) * self.kv_page


def plan_residency(ensemble: Ensemble, sequence: str | None = None) -> Residency:
    """The plan of a sequence in the layout that weights have in arenas.

    Raises:
        EnsembleError: There is no such sequence, or one of its transitions cannot shrink in place.
    """
    sizes = {
        module: [VariantSize(spec.payload, -(-size_bytes(spec) // ALIGNMENT) * ALIGNMENT) for spec in specs]
        for module, specs in ensemble.specs.items()
    }
    return Residency(ensemble.sequence(sequence), sizes)
