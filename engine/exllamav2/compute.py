"""Computing on the card: what `ElasticModel` needs to run an ensemble there."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol

from flexquant.engine.arena_set import Read
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.exl2.spec import Exl2Spec
from flexquant.engine.exllamav2.arenas import CardArenas
from flexquant.engine.exllamav2.cache import CardCache
from flexquant.engine.exllamav2.card import Card, Kernels
from flexquant.engine.exllamav2.decoder import CardDecoder
from flexquant.engine.exllamav2.form import Form
from flexquant.engine.exllamav2.handles import Handles
from flexquant.engine.exllamav2.limits import check_limits
from flexquant.engine.kv_cache import KVType
from flexquant.engine.layer_spec import LayerSpec
from flexquant.engine.memory.process import anonymous_bytes
from flexquant.engine.memory.registry import MemoryRegistry
from flexquant.engine.model_config import ModelConfig
from flexquant.engine.placement import CardUse, Placement
from flexquant.engine.prefill import CHUNK_TOKENS
from flexquant.engine.residency import Residency
from flexquant.engine.segment import Floats
from flexquant.engine.swap import Swapper

_HALF: Final = 2
"""Bytes of a number in half precision."""


class OpenKernels(Protocol):
    """Makes the kernels of one model."""

    def __call__(self, config: ModelConfig, norms: Mapping[str, Floats], *, max_rows: int, dequantize: int) -> Kernels:
        """Args: the model's shape, its norm weights by name, most rows of a pass, most weights of a layer."""
        ...


class CardCompute:
    """Implements `Compute` for one model at a time; `ElasticModel.load` takes it together with its `placement`.

    Args:
        card: Has the memory.
        open_kernels: Makes what computes.
        keep_copies: Keep page-locked host copies of the weights that were read.
    """

    name: Final = "exllamav2"
    independent_rows: Final = False
    """exllamav2 adds up partial sums in whatever order they are ready."""

    def __init__(self, card: Card, open_kernels: OpenKernels, *, keep_copies: bool = False) -> None:
        self.card = card
        self._open_kernels = open_kernels
        self._keep_copies = keep_copies
        self._made: tuple[Kernels, Handles, CardArenas] | None = None

    def placement(self, ensemble: Ensemble) -> Placement:
        """An ensemble's weights, keys and values lie on the card.

        Raises:
            UnsupportedModelError: The card does not run its model family.
        """
        check_limits(ensemble)
        return Placement(
            arenas=partial(self._make_arenas, ensemble),
            cache=self._make_cache,
            available=lambda: self.card.available()[0],
            private=self._held,
            card=None if self.card.integrated else CardUse(self.card.available, self.card.taken),
        )

    def _held(self) -> int:
        """An integrated card's memory is the host's, and its pages are not among the process's anonymous ones."""
        return self.card.taken() + (anonymous_bytes() if self.card.integrated else 0)

    def size_bytes(self, spec: LayerSpec) -> int:
        """See `Compute`."""
        return Form(_exl2(spec)).size_bytes

    def scratch(self, ensemble: Ensemble) -> Mapping[str, int]:
        """See `Compute`: on the card, where a pass computes and where prompts have weights in half precision."""
        config = ensemble.config
        widest = max(config.heads * config.head_dim, config.hidden_size)
        row = _HALF * (4 * widest + 2 * max(config.intermediate_size, config.hidden_size))
        return {
            "dequantize": _HALF * _most_weights(ensemble),
            "pass": CHUNK_TOKENS * row,
            "rotations": 2 * _HALF * config.context * config.head_dim,
        }

    def scratch_per_token(self, ensemble: Ensemble) -> int:
        """See `Compute`: the mask of a prompt's chunk, and scores where torch has no kernel that keeps none."""
        return CHUNK_TOKENS * (1 + 2 * _HALF * ensemble.config.heads)

    def filler(self, ensemble: Ensemble, rest: Callable[[], None]) -> Callable[[LayerSpec, memoryview], None]:  # noqa: ARG002  # as `Compute` has it
        """See `Compute`. Reading takes nothing from a card that computes, so it never rests."""
        return lambda spec, buffer: Form(_exl2(spec)).fill(buffer)

    def decoder(self, ensemble: Ensemble, residency: Residency, swapper: Swapper) -> CardDecoder:  # noqa: ARG002  # as `Compute` has it
        """See `Compute`."""
        assert self._made is not None, "the arenas are made before the decoder"
        kernels, handles, arenas = self._made
        return CardDecoder(ensemble, kernels, handles, arenas, max_rows=CHUNK_TOKENS)

    def _make_arenas(
        self,
        ensemble: Ensemble,
        residency: Residency,
        read: Read,
        *,
        position: int,
        registry: MemoryRegistry,
        progress: Callable[[int, int], None],
    ) -> CardArenas:
        kernels = self._open_kernels(
            ensemble.config,
            {name: ensemble.common.floats(name) for name in ensemble.config.norms()},
            max_rows=CHUNK_TOKENS,
            dequantize=_most_weights(ensemble),
        )
        handles = Handles(kernels, ensemble.config)
        arenas = CardArenas(
            residency,
            read,
            position=position,
            registry=registry,
            progress=progress,
            card=self.card,
            handles=handles,
            forms=_forms(ensemble.specs),
            linears={module.name: module.linear for module in ensemble.manifest.modules},
            keep_copies=self._keep_copies,
            kernels=kernels,
        )
        self._made = kernels, handles, arenas
        return arenas

    def _make_cache(self, config: ModelConfig, pages: int, dtype: KVType, *, kept: int | None) -> CardCache:
        return CardCache(config, pages, dtype, card=self.card, kept=kept)


def _exl2(spec: LayerSpec) -> Exl2Spec:
    assert isinstance(spec, Exl2Spec), "`placement` lets no other method pass"
    return spec


def _forms(specs: Mapping[str, Sequence[LayerSpec]]) -> dict[tuple[str, int], Form]:
    return {(module, number): Form(_exl2(spec)) for module, found in specs.items() for number, spec in enumerate(found)}


def _most_weights(ensemble: Ensemble) -> int:
    """Weights of the largest layer but the head, which never runs on more than a few rows."""
    return max(
        spec.in_features * spec.padded_out for specs in ensemble.specs.values() for spec in specs if _inner(spec)
    )


def _inner(spec: LayerSpec) -> bool:
    return spec.key.startswith("model.layers.")
