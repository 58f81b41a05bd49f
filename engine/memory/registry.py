"""The books: exact bytes of everything the engine holds, kept as it is mapped and unmapped."""

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModuleBytes:
    """One resident module."""

    payload: int
    """Bytes of its tensors."""
    mapped: int
    """Its share of the arena: payload, alignment, and for the last module of an arena the rest of the page."""


@dataclass(frozen=True, slots=True)
class MemorySnapshot:
    """All books at one moment, in bytes."""

    modules: Mapping[str, ModuleBytes]
    """The weights that answer requests now."""
    loading: int
    """Arenas being filled for a step that grows the model; not yet in use."""
    kv: int
    """KV pages."""
    scratch: Mapping[str, int]
    """Declared working memory by name: what a shrink or a forward pass may use beyond the rest."""
    fixed: int
    """Weights that never move: norms and biases outside the modules."""
    embedding: int
    """The file-mapped embedding table, which is no anonymous memory and not part of `total`."""

    @property
    def payload(self) -> int:
        """Weight bytes of all modules."""
        return sum(module.payload for module in self.modules.values())

    @property
    def mapped(self) -> int:
        """Mapped bytes of all modules."""
        return sum(module.mapped for module in self.modules.values())

    @property
    def total(self) -> int:
        """All anonymous memory on the books."""
        return self.mapped + self.loading + self.kv + sum(self.scratch.values()) + self.fixed


class MemoryRegistry:
    """Keeps the books; every method may be called from any thread.

    Args:
        fixed: Bytes of weights that never move.
        embedding: Bytes of the file-mapped embedding table.
        scratch: Declared working memory by name.
    """

    def __init__(self, *, fixed: int, embedding: int, scratch: Mapping[str, int]) -> None:
        self._lock = threading.Lock()
        self._modules: dict[str, ModuleBytes] = {}
        self._loading = 0
        self._kv = 0
        self._scratch = dict(scratch)
        self._fixed = fixed
        self._embedding = embedding

    def publish(self, modules: Mapping[str, ModuleBytes], *, retired: Collection[str] = (), loaded: int = 0) -> None:
        """Replace the entries of these modules; `loaded` bytes that were being filled are theirs from now on.

        The entries of the `retired` ones go.
        """
        with self._lock:
            for name in retired:
                del self._modules[name]
            self._modules.update(modules)
            self._loading -= loaded

    def add_loading(self, nbytes: int) -> None:
        """Add `nbytes` (negative to take away) to the arenas that are being filled."""
        with self._lock:
            self._loading += nbytes

    def set_kv(self, nbytes: int) -> None:
        """Record the bytes of all KV pages."""
        with self._lock:
            self._kv = nbytes

    def snapshot(self) -> MemorySnapshot:
        """All books at this moment."""
        with self._lock:
            return MemorySnapshot(
                modules=dict(self._modules),
                loading=self._loading,
                kv=self._kv,
                scratch=dict(self._scratch),
                fixed=self._fixed,
                embedding=self._embedding,
            )
