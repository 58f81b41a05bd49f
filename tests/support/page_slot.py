"""Page memory for a KV cache that lies where a test wants it."""

import numpy as np
import numpy.typing as npt
from torch import Tensor


class Slot:
    """A page somewhere in a common buffer."""

    def __init__(self, data: Tensor) -> None:
        self._data = data
        self.mapped_bytes = data.nbytes

    @property
    def address(self) -> int:
        return self._data.data_ptr()

    def array(self) -> npt.NDArray[np.uint8]:
        return self._data.numpy()

    def release(self) -> None:
        return
