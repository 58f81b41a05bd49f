"""The work folder of a quantization: what is done is on disk after each layer, so that a killed run can go on.

Every file is complete or absent. A folder of other inputs or settings is emptied, never mixed with.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from torch import Tensor

from flexquant.engine.tensor_index import TensorEntry, TensorIndex
from flexquant.engine.torch_tensors import read_tensor
from flexquant.ensemble_builder.atomic_file import cannot_write, write_atomically
from flexquant.ensemble_builder.safetensors_file import write_safetensors

_SETTINGS: Final = "settings.json"
_FINISHED: Final = "finished.json"
_LAYERS: Final = "layers"
_HIDDEN: Final = "hidden"


class QuantizationWork:
    """Results and state of one quantization.

    Args:
        folder: Made if it is missing.
        settings: What the results depend on; JSON values.

    Raises:
        FlexQuantError: The folder cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, object]) -> None:
        self._folder = folder
        self._settings = json.dumps(settings, indent=2, sort_keys=True).encode()
        if not self._same(_SETTINGS):
            self.clear()
            write_atomically(folder / _SETTINGS, self._settings)

    @property
    def state(self) -> Path:
        """Folder for what a run needs to go on, and results do not."""
        return self._folder / _HIDDEN

    @property
    def finished(self) -> bool:
        """Whether `finish` was called for the same settings."""
        return self._same(_FINISHED)

    def save_layer(self, layer: int, results: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Keep a layer's quantized tensors: by level, by name."""
        for level, tensors in results.items():
            write_safetensors(self._layer_folder(level) / f"{layer:04}.safetensors", tensors)

    def save_hidden(self, layer: int, hidden: Tensor) -> None:
        """Keep the input of a layer: everything before that layer is done and kept."""
        write_safetensors(self.state / "hidden.safetensors", {str(layer): hidden})

    def load_hidden(self) -> tuple[int, Tensor] | None:
        """Return what was kept last: the layer and its input."""
        if not (self.state / "hidden.safetensors").exists():
            return None
        index = TensorIndex.open(self.state)
        (name,) = index.names()
        return int(name), read_tensor(index, name)

    def results(self, level: str) -> dict[str, TensorEntry]:
        """Return where the quantized tensors of a level are, by name."""
        index = TensorIndex.open(self._layer_folder(level))
        return {name: index[name] for name in index.names()}

    def finish(self) -> None:
        """Note that the results are written elsewhere, and remove them here."""
        write_atomically(self._folder / _FINISHED, self._settings)
        for name in (_LAYERS, _HIDDEN):
            shutil.rmtree(self._folder / name, ignore_errors=True)

    def clear(self) -> None:
        """Remove the folder and everything in it."""
        try:
            (self._folder / _SETTINGS).unlink(missing_ok=True)  # first: half a folder must not look like a whole one
            shutil.rmtree(self._folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise cannot_write(self._folder, error) from error

    def _layer_folder(self, level: str) -> Path:
        return self._folder / _LAYERS / level

    def _same(self, name: str) -> bool:
        try:
            return (self._folder / name).read_bytes() == self._settings
        except OSError:
            return False
