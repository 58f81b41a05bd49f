"""Where a model's weights, keys and values lie: in the host's memory, or on a card."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import psutil

from flexquant.engine.arena_set import ArenaSet
from flexquant.engine.kv_cache import KVCache
from flexquant.engine.memory.process import anonymous_bytes
from flexquant.engine.swap import Arenas


@dataclass(frozen=True, slots=True)
class CardUse:
    """Memory of a card that has its own."""

    memory: Callable[[], tuple[int, int]]
    """Free and total bytes, of all programs together."""
    used: Callable[[], int]
    """Bytes that this process has taken, without what the driver takes for itself."""


@dataclass(frozen=True, slots=True)
class Placement:
    """How memory is taken there."""

    arenas: Callable[..., Arenas[Any]]
    """Takes the arguments of `ArenaSet`."""
    cache: Callable[..., KVCache]
    """Takes the arguments of `KVCache`, without `allocate`."""
    available: Callable[[], int]
    """Free bytes, for messages."""
    private: Callable[[], int]
    """Bytes that this process has of it, as the system or the card counts them: releases are checked against that."""
    card: CardUse | None
    """None where the model lies in the host's memory, which an integrated card shares."""


HOST: Final = Placement(ArenaSet, KVCache, lambda: psutil.virtual_memory().available, anonymous_bytes, None)
