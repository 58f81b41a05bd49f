"""How much memory a model will take, known before a byte of it is allocated. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from flexquant.engine.compute import Compute
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.kv_cache import KVType, page_bytes, pages_for
from flexquant.engine.memory.arena import page_rounded
from flexquant.engine.residency import Residency, VariantSize


@dataclass(frozen=True, slots=True)
class MemoryNeeds:
    """Anonymous memory of one model on one sequence, in bytes."""

    mapped: tuple[int, ...]
    """Arenas at positions 0..N."""
    scratch: Mapping[str, int]
    """Working memory by name: `spare`, where a shrinking step is read while the old weights still answer, and what
    whoever computes needs (`Compute.scratch`); `attention` is the part that grows with the context."""
    scratch_per_token: int
    """Of `attention`, for each token of the context."""
    fixed: int
    """Norms, in float32."""
    kv_page: int
    """One KV page."""

    @classmethod
    def of(
        cls,
        ensemble: Ensemble,
        compute: Compute,
        *,
        sequence: str | None = None,
        kv_dtype: KVType = np.float16,
        context: int | None = None,
    ) -> Self:
        """Needs of an ensemble on its default or another sequence, with sequences of `context` tokens or fewer.

        Without `context` they may be as long as the model allows.

        Raises:
            EnsembleError: There is no such sequence, or one of its transitions cannot shrink in place.
        """
        residency = plan_residency(ensemble, compute, sequence)
        config = ensemble.config
        per_token = compute.scratch_per_token(ensemble)
        attention = (config.context if context is None else context) * per_token
        return cls(
            mapped=tuple(residency.mapped(position) for position in range(residency.max_position + 1)),
            scratch={
                "spare": residency.spare_bytes,
                **compute.scratch(ensemble),
                **({"attention": attention} if attention else {}),
            },
            scratch_per_token=per_token,
            fixed=sum(config.norms().values()) * np.dtype(np.float32).itemsize,
            kv_page=page_rounded(page_bytes(config, kv_dtype)),
        )

    def total(self, position: int, tokens: int) -> int:
        """Bytes at `position` with KV pages for `tokens` tokens."""
        return self.mapped[position] + sum(self.scratch.values()) + self.fixed + pages_for(tokens) * self.kv_page


def plan_residency(ensemble: Ensemble, compute: Compute, sequence: str | None = None) -> Residency:
    """The plan of a sequence in the layout that `compute` gives weights in arenas.

    Raises:
        EnsembleError: There is no such sequence, or one of its transitions cannot shrink in place.
    """
    sizes = {
        module: [VariantSize(spec.payload, compute.size_bytes(spec), spec.residual) for spec in specs]
        for module, specs in ensemble.specs.items()
    }
    return Residency(ensemble.sequence(sequence), sizes)
