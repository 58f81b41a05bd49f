"""Granularity and storage: what needs no measuring, only the manifest, the config and the sizes of files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from flexquant.engine.manifest import FileRecord, Level, Manifest
from flexquant.engine.model_config import ModelConfig
from flexquant.ensemble_builder.report.ladder import module_bytes, rungs


@dataclass(frozen=True, slots=True)
class Granularity:
    """Footprint differences between neighbouring positions.

    Args:
        steps: Number of them.
        mean_bytes: Their mean.
        most_bytes: The largest.
    """

    steps: int
    mean_bytes: float
    most_bytes: int

    @classmethod
    def of(cls, footprints: Sequence[int]) -> "Granularity":
        """Return the granularity of falling footprints, of which there are two or more."""
        steps = [high - low for high, low in pairwise(footprints)]
        return cls(len(steps), sum(steps) / len(steps), max(steps))


@dataclass(frozen=True, slots=True)
class Ladder:
    """Whole models between the ensemble's levels, computed and not made.

    Args:
        bits: Width of each, falling.
        footprints: Resident bytes of each.
        group_size: Weights per scale that were assumed.
        storage_bytes: What all of them together would take on disk, with shared files once.
    """

    bits: tuple[float, ...]
    footprints: tuple[int, ...]
    group_size: int
    storage_bytes: int


@dataclass(frozen=True, slots=True)
class Storage:
    """Bytes on disk.

    Args:
        stores: Bytes of all files of each store, by level name.
        shared_bytes: Bytes of the files that all stores have in common, counted once.
        once_bytes: All stores together, files of equal content counted once.
        disk_bytes: All stores together as they lie on this disk: hard links once, copies each.
    """

    stores: dict[str, int]
    shared_bytes: int
    once_bytes: int
    disk_bytes: int


def storage_of(folder: Path, manifest: Manifest) -> Storage:
    """Measure an ensemble's stores.

    Args:
        folder: The ensemble, which has been checked.
        manifest: Its manifest.
    """
    by_level = {level.name: _files_of(level, manifest.files) for level in manifest.levels}
    sizes = {record.sha256: record.bytes for files in by_level.values() for record in files.values()}
    in_all = set.intersection(*({record.sha256 for record in files.values()} for files in by_level.values()))
    found = [(folder / name).stat() for files in by_level.values() for name in files]
    on_disk = {(stat.st_dev, stat.st_ino): stat.st_size for stat in found}
    return Storage(
        stores={name: sum(record.bytes for record in files.values()) for name, files in by_level.items()},
        shared_bytes=sum(sizes[sha256] for sha256 in in_all),
        once_bytes=sum(sizes.values()),
        disk_bytes=sum(on_disk.values()),
    )


def ladder_of(manifest: Manifest, config: ModelConfig, group_size: int, shared_bytes: int) -> Ladder | None:
    """Return the ladder between the first and the last level; None where whole models cannot have those widths.

    Args:
        manifest: The ensemble's.
        config: The model's.
        group_size: Weights per scale.
        shared_bytes: Files that all stores share.
    """
    bits = rungs(manifest.levels[-1].bits, manifest.levels[0].bits)
    if not bits:
        return None
    modules = [module_bytes(config, width, group_size) for width in bits]
    return Ladder(
        bits=tuple(bits),
        footprints=tuple(manifest.fixed_bytes + size for size in modules),
        group_size=group_size,
        storage_bytes=shared_bytes + sum(modules),
    )


def _files_of(level: Level, files: Mapping[str, FileRecord]) -> dict[str, FileRecord]:
    return {name: record for name, record in files.items() if name.startswith(f"{level.store}/")}
