"""Working memory of the torch path for tiles of dequantized weights; every thread has its own."""

import threading
from typing import Final

import torch
from torch import Tensor

HOST: Final = torch.device("cpu")
CARD_TILE_BYTES: Final = 256 << 20
"""What a tile takes on a card, where starting a kernel costs more than the cache saves."""


class Scratch(threading.local):
    """A thread's working memory. It is kept, because fresh pages for every tile cost more than the arithmetic."""

    def __init__(self) -> None:
        self._memory: dict[torch.device, Tensor] = {}

    def take(self, nbytes: int, device: torch.device = HOST) -> Tensor:
        """At least `nbytes` bytes, uint8, in the memory of `device`; what they held is lost."""
        kept = self._memory.get(device)
        if kept is None or kept.numel() < nbytes:
            del kept
            self._memory.pop(device, None)  # the old memory goes before the new one comes
            with torch.inference_mode(False):  # memory made in inference mode could not be written outside it
                self._memory[device] = torch.empty(nbytes, dtype=torch.uint8, device=device)
        return self._memory[device]


scratch = Scratch()
