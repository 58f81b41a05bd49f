"""Where a model's weights, keys and values lie: in the host's memory, or on a card."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import psutil

from flexquant.engine.arena_set import ArenaSet
from flexquant.engine.kv_cache import KVCache, KVType
from flexquant.engine.model_config import ModelConfig
from flexquant.engine.swap import Arenas


@dataclass(frozen=True, slots=True)
class Placement:
    """How memory is taken there."""

    arenas: Callable[..., Arenas[Any]]
    """Takes the arguments of `ArenaSet`."""
    cache: Callable[[ModelConfig, int, KVType], KVCache]
    """Takes the first three arguments of `KVCache`."""
    available: Callable[[], int]
    """Free bytes, for messages."""
    own_memory: Callable[[], tuple[int, int]] | None
    """Free and total bytes of a card that has memory of its own; None where the model lies in the host's."""


HOST: Final = Placement(ArenaSet, KVCache, lambda: psutil.virtual_memory().available, None)
