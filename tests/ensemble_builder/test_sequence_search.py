"""The search on real stores: journal, budget and fingerprint."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from flexquant.engine.manifest import FileRecord, Module, Quality, Text, Variant
from flexquant.ensemble_builder.evaluation import Windows
from flexquant.ensemble_builder.evaluation_setup import EvaluationSetup
from flexquant.ensemble_builder.executor import InProcess
from flexquant.ensemble_builder.journal import Journal
from flexquant.ensemble_builder.options import SearchOptions
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.sequence import Assignment
from flexquant.ensemble_builder.sequence_search import Searched, fingerprint, search_measured
from flexquant.ensemble_builder.stores import modules_of, open_store
from flexquant.ensemble_builder.units import Kind, units_of
from support.ensembles import Shape, random_ensemble

LEVELS = ("8.0", "3.0")
FILES = {
    "levels/8.0/quantized.safetensors": FileRecord(bytes=1, sha256="1" * 64),
    "levels/8.0/config.json": FileRecord(bytes=1, sha256="2" * 64),
}
MODULES = [
    Module(
        name=name,
        linear=name,
        in_features=32,
        out_features=32,
        variants=[Variant(level="8.0", tensors=[], bytes=9)],
    )
    for name in ("a", "b")
]


def windows(fill: str = "0") -> Windows:
    tokens = torch.randint(0, 256, (1, 32), generator=torch.Generator().manual_seed(0))
    return Windows(tokens, Text(name="random", sha256=fill * 64, tokens=32))


class Prepared:
    """An ensemble to search over, and the measuring of it, whose work is counted."""

    def __init__(self, folder: Path) -> None:
        levels = random_ensemble(folder, Shape(layers=1)) / "levels"
        stores = [open_store(levels / name, name, float(name)) for name in LEVELS]
        self.modules = modules_of(stores)
        self.measure = InProcess(EvaluationSetup(folder, LEVELS, self.modules, windows(), checkpoint=None))
        self.measured: list[Assignment] = []

    def search(self, path: Path, told: SearchOptions, key: str = "key", kind: Kind = "projection") -> Searched:
        with Journal(path, key) as journal:
            units = units_of(self.modules, LEVELS, kind)
            return search_measured(kind, units, Counted(self, workers=1), told, journal, quiet())


class Counted:
    """Passes on what is to be measured, as though several workers were there."""

    def __init__(self, prepared: Prepared, workers: int) -> None:
        self.prepared = prepared
        self.workers = workers

    def __call__(self, stem: Assignment, candidates: Sequence[Assignment]) -> Iterator[Quality]:
        self.prepared.measured += candidates
        return self.prepared.measure(stem, candidates)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared(tmp_path_factory.mktemp("made"))


def options(evaluations: int | None = None, minutes: float | None = None) -> SearchOptions:
    return SearchOptions(text=None, tokens=32, seed=0, evaluations=evaluations, minutes=minutes)


def quiet() -> Progress:
    return Progress(io.StringIO())


def test_what_the_journal_knows_is_not_measured_again(prepared: Prepared, tmp_path: Path) -> None:
    first = prepared.search(tmp_path / "journal", options(24))
    before = len(prepared.measured)
    again = prepared.search(tmp_path / "journal", options(24))
    assert len(prepared.measured) == before
    assert (again.found, again.qualities) == (first.found, first.qualities)
    with Journal(tmp_path / "journal", "key") as journal:
        assert len(journal.known) == first.found.evaluations


def test_another_key_measures_anew(prepared: Prepared, tmp_path: Path) -> None:
    prepared.search(tmp_path / "journal", options(0))
    prepared.search(tmp_path / "journal", options(0), key="other")
    with Journal(tmp_path / "journal", "other") as journal:
        assert len(journal.known) == 2 * len(prepared.modules)


def test_budgets(prepared: Prepared, tmp_path: Path) -> None:
    def spent(name: str, told: SearchOptions) -> int:
        return prepared.search(tmp_path / name, told).found.evaluations

    least = 2 * len(prepared.modules)
    assert spent("none", options(0)) == least
    assert spent("no time", options(minutes=0)) == least
    assert least < spent("some", options(least + 3)) <= least + 3
    assert least < spent("default", options()) <= 6 * len(prepared.modules)


def test_idle_workers_change_neither_the_sequence_nor_the_journal(prepared: Prepared, tmp_path: Path) -> None:
    units = units_of(prepared.modules, LEVELS, "projection")
    found = []
    for workers in (1, 3):
        with Journal(tmp_path / f"{workers}", "key") as journal:
            told = Counted(prepared, workers)
            found.append(search_measured("projection", units, told, options(), journal, quiet()))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "3").read_bytes()
    assert [found[0].found, found[0].measured] == [found[1].found, found[1].measured]


def test_searches_over_other_units_share_what_was_measured(prepared: Prepared, tmp_path: Path) -> None:
    before = len(prepared.measured)
    first = prepared.search(tmp_path / "journal", options(0))
    second = prepared.search(tmp_path / "journal", options(0), kind="block")
    assert len(prepared.measured) - before == len(first.measured | second.measured)
    assert first.qualities[0] == second.qualities[0]
    assert first.qualities[-1] == second.qualities[-1]
    assert len(second.qualities) == 1 + 3


def test_progress_counts_evaluations(prepared: Prepared, tmp_path: Path) -> None:
    told = io.StringIO()
    units = units_of(prepared.modules, LEVELS, "projection")
    with Journal(tmp_path / "journal", "key") as journal:
        search_measured("projection", units, Counted(prepared, 1), options(0), journal, Progress(told))
    assert told.getvalue().startswith("searching by projection: 16/16 in ")


def test_the_fingerprint_follows_what_figures_depend_on() -> None:
    known = fingerprint(FILES, MODULES, windows(), "unquantized")
    stores = {**FILES, "levels/8.0/quantized.safetensors": FileRecord(bytes=1, sha256="3" * 64)}
    settings = {**FILES, "levels/8.0/config.json": FileRecord(bytes=1, sha256="3" * 64)}
    assert fingerprint(stores, MODULES, windows(), "unquantized") != known
    assert fingerprint(settings, MODULES, windows(), "unquantized") == known
    assert fingerprint(FILES, MODULES, windows("1"), "unquantized") != known
    assert fingerprint(FILES, MODULES, windows(), "position 0") != known
    assert fingerprint(FILES, MODULES[:1], windows(), "unquantized") != known
