"""Whether the disks have room for a download and for what is built of it."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flexquant.engine.errors import FlexQuantError
from flexquant.engine.hub_id import HubId
from flexquant.engine.manifest import Method
from flexquant.engine.model_config import ModelConfig
from flexquant.ensemble_builder.any_precision.sizes import planes_and_tables
from flexquant.ensemble_builder.any_precision.widths import widths_of
from flexquant.ensemble_builder.options import GROUP_SIZE
from flexquant.ensemble_builder.planned_ensemble import stored_bytes


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system: its number, and how many bytes are free there."""

    device: int
    free: int


Probe = Callable[[Path], Disk]


def disk_of(folder: Path) -> Disk:
    """The disk that a folder lies on, or will lie on."""
    folder = Path(os.path.abspath(folder))
    while not folder.exists():
        folder = folder.parent
    return Disk(folder.stat().st_dev, shutil.disk_usage(folder).free)


@dataclass(frozen=True, slots=True)
class Room:
    """Where an ensemble is going to be built, and what that takes.

    Args:
        out: Its folder.
        levels: Bits of the levels that are made; none where the downloaded checkpoints are the levels themselves.
        group_size: Weights that share a scale.
        method: How the levels are made.
        nested: Whether each level but the last is what it adds to the next one.
        probe: Looks at a disk.
    """

    out: Path
    levels: Sequence[float] = ()
    group_size: int = GROUP_SIZE
    method: Method = "exl2"
    nested: bool = False
    probe: Probe = disk_of

    def check(self, source: HubId, config: ModelConfig, cache: Path, *, missing: int, whole: int) -> None:
        """Refuse what the disks have no room for.

        Args:
            source: What is downloaded.
            config: The model's.
            cache: Where the download goes.
            missing: Bytes that are still to be downloaded.
            whole: Bytes of all weights that are downloaded.

        Raises:
            FlexQuantError: A disk is too small.
        """
        disk, other = self.probe(cache), self.probe(self.out)
        together = disk.device == other.device
        if self.levels:
            whole_build = ensemble_bytes(config, self.levels, self.group_size, self.method, nested=self.nested)
            built = max(0, whole_build - _bytes_in(self.out))
        else:
            built = 0 if together else max(0, whole - _bytes_in(self.out))  # hard links on the same disk
        if together:
            _check(source, cache, disk, missing, built)
        else:
            _check(source, cache, disk, missing, 0)
            _check(source, self.out, other, 0, built)


def ensemble_bytes(
    config: ModelConfig, levels: Sequence[float], group_size: int, method: Method = "exl2", *, nested: bool = False
) -> int:
    """About how many bytes the files of an ensemble take: its levels, and the embedding that they share."""
    if method == "any-precision":
        embedding = 2 * config.vocab_size * config.hidden_size
        return embedding + sum(planes_and_tables(shape, widths_of(shape, levels))[0] for shape in config.linears())
    return stored_bytes(config, levels, group_size, nested=nested)


def _check(source: HubId, folder: Path, disk: Disk, download: int, ensemble: int) -> None:
    if download + ensemble <= disk.free:
        return
    parts = [
        f"{_gb(nbytes)} {what}"
        for nbytes, what in ((download, "to download"), (ensemble, "for the ensemble"))
        if nbytes
    ]
    raise FlexQuantError(
        f"{source}: the disk of {folder} is too small: {' and '.join(parts)} are needed, {_gb(disk.free)} are free",
        hint="Make room, or use a larger disk: HF_HOME says where downloads go; --out, or XDG_CACHE_HOME for "
        "flexquant-serve, where the ensemble goes.",
    )


def _gb(nbytes: int) -> str:
    return f"{nbytes / 1e9:.3f} GB"


def _bytes_in(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*")) if folder.is_dir() else 0
