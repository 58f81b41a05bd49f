"""The work folder of an Any-Precision quantization: the model is run forward once, then backward layer by layer.

Every layer's input is kept until the backward run has passed the layer: float32, as large as the calibration text times
the hidden size, for every layer. It lies on disk, so that memory need not hold it and a killed run can go on.
"""

import shutil
from pathlib import Path
from typing import Final

from torch import Tensor

from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.torch_tensors import read_tensor
from flexquant.ensemble_builder.quantization_work import QuantizationWork
from flexquant.ensemble_builder.safetensors_file import write_safetensors

_NAME: Final = "x"


class GradientWork(QuantizationWork):
    """Results and state of one quantization: see `QuantizationWork`.

    Layers are numbered from 0 on; the head has the number behind the last one.
    """

    @property
    def _inputs(self) -> Path:
        return self.state / "inputs"

    @property
    def _gradient(self) -> Path:
        return self.state / "gradient"

    def save_input(self, layer: int, hidden: Tensor) -> None:
        """Keep the input of a layer; those of all layers before it are kept already."""
        write_safetensors(self._inputs / f"{layer:04}" / "input.safetensors", {_NAME: hidden})

    def load_input(self, layer: int) -> Tensor:
        """Return the input of a layer."""
        return read_tensor(TensorIndex.open(self._inputs / f"{layer:04}"), _NAME)

    def drop_input(self, layer: int) -> None:
        """Remove the input of a layer that is done."""
        shutil.rmtree(self._inputs / f"{layer:04}", ignore_errors=True)

    @property
    def last_input(self) -> int | None:
        """The last layer whose input was kept; None before the first."""
        return max((int(path.parent.name) for path in self._inputs.glob("*/*.safetensors")), default=None)

    def save_gradient(self, layer: int, gradient: Tensor) -> None:
        """Keep the gradient with respect to the input of a layer: that layer is done, and so are those behind it."""
        write_safetensors(self._gradient / "gradient.safetensors", {str(layer): gradient})

    def load_gradient(self) -> tuple[int, Tensor] | None:
        """Return what was kept last: the layer that was done, and the gradient with respect to its input."""
        if not (self._gradient / "gradient.safetensors").exists():
            return None
        index = TensorIndex.open(self._gradient)
        (name,) = index.names()
        return int(name), read_tensor(index, name)
