"""What a command is given as a checkpoint: a folder, or the name of a model on the hub, which is downloaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from flexquant.engine.hub_id import HubId
from flexquant.engine.manifest import Method
from flexquant.ensemble_builder.options import GROUP_SIZE
from flexquant.ensemble_builder.progress import Progress


@dataclass(frozen=True, slots=True)
class CheckpointSource:
    """Where a checkpoint comes from.

    Args:
        path: Its folder, which need not exist.
        hub: The model on the hub; None for a folder.
    """

    path: Path
    hub: HubId | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """What `text` names: a folder that exists comes first."""
        path = Path(text)
        return cls(path, None if path.exists() else HubId.parse(text))

    @property
    def model_name(self) -> str:
        """The model's name in manifests."""
        return self.path.resolve().name if self.hub is None else self.hub.repository

    @property
    def short_name(self) -> str:
        """The beginning of a folder's name."""
        return self.path.resolve().name if self.hub is None else self.hub.name

    def folder(
        self,
        out: Path,
        progress: Progress,
        *,
        quantized: bool,
        levels: tuple[float, ...] = (),
        group_size: int = GROUP_SIZE,
        method: Method = "exl2",
        nested: bool = False,
    ) -> Path:
        """The folder of the checkpoint; downloads it first where that is needed.

        Args:
            out: Folder of the ensemble that is going to be built.
            progress: Is told what is being done.
            quantized: Whether an EXL2 checkpoint is asked for, or an unquantized one.
            levels: Levels that are going to be made of it.
            group_size: Weights that share a scale in them.
            method: How they are made.
            nested: Whether each but the last is what it adds to the next one.

        Raises:
            FlexQuantError: See `fetch_checkpoint`.
        """
        if self.hub is None:
            return self.path
        # Imported late: folders have no use for it.
        from flexquant.ensemble_builder.hub.disk_room import Room
        from flexquant.ensemble_builder.hub.fetch import fetch_checkpoint

        return fetch_checkpoint(
            self.hub, quantized=quantized, room=Room(out, levels, group_size, method, nested), progress=progress
        )
