"""Reads blocks of weights from an ensemble's stores into memory that the caller owns."""

import logging
import os
import sys
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path

from flexquant.engine.ensemble import Ensemble, file_sha256
from flexquant.engine.errors import CheckpointError
from flexquant.engine.layer_spec import LayerSpec
from flexquant.engine.memory.arena import page_rounded
from flexquant.engine.residency import Block, Placed
from flexquant.engine.tensor_index import TensorEntry

log = logging.getLogger(__name__)


class StoreReader:
    """Fills blocks in the layout of whoever computes with them.

    A file that changed on disk after this was constructed is read only if it still has the manifest's hash; a model
    must never continue on half of another one.

    Args:
        ensemble: Opened and checked.
        fill: Reads one layer into its place.
        drop_page_cache: See the attribute.
    """

    def __init__(
        self, ensemble: Ensemble, fill: Callable[[LayerSpec, memoryview], None], *, drop_page_cache: bool = False
    ) -> None:
        self._fill = fill
        self.drop_page_cache = drop_page_cache
        """Whether to drop what was read from the page cache: for times when memory is short. Linux only."""
        self._specs = ensemble.specs
        self._hashes = {ensemble.folder / name: record.sha256 for name, record in ensemble.manifest.files.items()}
        entries = [entry for specs in ensemble.specs.values() for spec in specs for entry in spec.entries.values()]
        self._spans = _spans(entries)
        self._known = {file: _signature(file) for file in self._spans}

    def read(self, block: Block, buffer: memoryview) -> None:
        """Fill the first `block.length` bytes of `buffer` with the block's tensors.

        Raises:
            CheckpointError: A file is missing, damaged or changed; names it.
        """
        for _, of_layer in groupby(block.placed, lambda place: self._spec(place).key):
            places = list(of_layer)
            for place in places:
                spec = self._spec(place)
                for file in {entry.file for entry in spec.entries.values()}:
                    self._check_unchanged(file)
                self._fill(spec, buffer[place.offset : place.offset + place.size.span])
            if self.drop_page_cache:  # now and not before: the slices of a layer lie in the same pages
                entries = [entry for place in places for entry in self._spec(place).entries.values()]
                for file, spans in _spans(entries).items():
                    for start, end in spans:
                        _drop_page_cache(file, start, end)

    def drop_files(self) -> None:
        """Drop all weights that lie in arenas from the page cache; any thread. Linux only.

        The embedding table stays: it is read from its file while a token waits for it.
        """
        for file, spans in self._spans.items():
            try:
                for start, end in spans:
                    _drop_page_cache(file, start, end)
            except OSError as error:
                log.warning("%s stays in the page cache: %s", file, error.strerror)

    def _spec(self, place: Placed) -> LayerSpec:
        return self._specs[place.module][place.variant]

    def _check_unchanged(self, file: Path) -> None:
        signature = _signature(file)
        if signature == self._known[file]:
            return
        if file_sha256(file) != self._hashes[file]:
            raise CheckpointError(
                f"{file}: changed while the model was running and no longer matches the manifest",
                hint="Restore the file, or restart with an ensemble that is complete.",
            )
        self._known[file] = signature


def _signature(file: Path) -> tuple[int, int, int]:
    """What changes when a file is written or replaced: size, time, inode."""
    try:
        found = file.stat()
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error
    return found.st_size, found.st_mtime_ns, found.st_ino


def _spans(entries: Iterable[TensorEntry]) -> dict[Path, list[tuple[int, int]]]:
    """Where the tensors lie in their files; what touches becomes one span."""
    found: dict[Path, list[tuple[int, int]]] = {}
    for entry in sorted(entries, key=lambda entry: (entry.file, entry.offset)):
        spans, end = found.setdefault(entry.file, []), entry.end
        if spans and entry.offset - spans[-1][1] < page_rounded(1):
            spans[-1] = spans[-1][0], max(end, spans[-1][1])
        else:
            spans.append((entry.offset, end))
    return found


def _drop_page_cache(file: Path, start: int, end: int) -> None:
    if sys.platform != "linux":
        return
    start = start // page_rounded(1) * page_rounded(1)
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(descriptor, start, page_rounded(end) - start, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
