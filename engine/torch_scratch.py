"""Working memory of the torch path for tiles of dequantized weights; every thread has its own."""

import threading

import torch
from torch import Tensor


class Scratch(threading.local):
    """A thread's working memory. It is kept, because fresh pages for every tile cost more than the arithmetic."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)

    def take(self, nbytes: int) -> Tensor:
        """At least `nbytes` bytes, uint8; what they held is lost."""
        if self._memory.numel() < nbytes:
            self._memory = torch.empty(0, dtype=torch.uint8)  # the old memory goes before the new one comes
            with torch.inference_mode(False):  # memory made in inference mode could not be written outside it
                self._memory = torch.empty(nbytes, dtype=torch.uint8)
        return self._memory


scratch = Scratch()
