"""The search on real stores: journal, budget and fingerprint."""

import io
from pathlib import Path

import pytest
import torch

from flexquant.engine.manifest import FileRecord, Text
from flexquant.ensemble_builder.eqm import EqmEvaluation, hybrid
from flexquant.ensemble_builder.evaluation import Reference, Windows, final_hidden
from flexquant.ensemble_builder.journal import Journal
from flexquant.ensemble_builder.options import SearchOptions
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.sequence import Unit, best
from flexquant.ensemble_builder.sequence_search import fingerprint, search_measured
from flexquant.ensemble_builder.stores import modules_of, open_store, units_of
from support.ensembles import Shape, random_ensemble

FILES = {
    "levels/8.0/quantized.safetensors": FileRecord(bytes=1, sha256="1" * 64),
    "levels/8.0/config.json": FileRecord(bytes=1, sha256="2" * 64),
}


def windows(fill: str = "0") -> Windows:
    tokens = torch.randint(0, 256, (1, 32), generator=torch.Generator().manual_seed(0))
    return Windows(tokens, Text(name="random", sha256=fill * 64, tokens=32))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[EqmEvaluation, list[Unit]]:
    levels = random_ensemble(tmp_path_factory.mktemp("made"), Shape(layers=1)) / "levels"
    stores = [open_store(levels / name, name, float(name)) for name in ("8.0", "3.0")]
    modules = modules_of(stores)
    weights = {store.level: store.weights() for store in stores}
    top = hybrid(stores[0].config, modules, weights, best(units_of(modules)))
    reference = Reference(top, final_hidden(top, windows()))
    return EqmEvaluation(stores[0].config, modules, weights, windows(), reference), units_of(modules)


def options(evaluations: int | None = None, minutes: float | None = None) -> SearchOptions:
    return SearchOptions(text=None, tokens=32, seed=0, evaluations=evaluations, minutes=minutes)


def quiet() -> Progress:
    return Progress(io.StringIO())


def test_what_the_journal_knows_is_not_measured_again(
    prepared: tuple[EqmEvaluation, list[Unit]], tmp_path: Path
) -> None:
    evaluation, units = prepared
    first = search_measured(evaluation, units, options(24), tmp_path / "journal", "key", quiet())
    before = evaluation.layers_run
    again = search_measured(evaluation, units, options(24), tmp_path / "journal", "key", quiet())
    assert evaluation.layers_run == before
    assert (again.found, again.qualities) == (first.found, first.qualities)
    with Journal(tmp_path / "journal", "key") as journal:
        assert len(journal.known) == first.found.evaluations


def test_another_key_measures_anew(prepared: tuple[EqmEvaluation, list[Unit]], tmp_path: Path) -> None:
    evaluation, units = prepared
    search_measured(evaluation, units, options(0), tmp_path / "journal", "key", quiet())
    search_measured(evaluation, units, options(0), tmp_path / "journal", "other", quiet())
    with Journal(tmp_path / "journal", "other") as journal:
        assert len(journal.known) == 2 * len(units)


def test_budgets(prepared: tuple[EqmEvaluation, list[Unit]], tmp_path: Path) -> None:
    evaluation, units = prepared

    def spent(name: str, told: SearchOptions) -> int:
        return search_measured(evaluation, units, told, tmp_path / name, "key", quiet()).found.evaluations

    least = 2 * len(units)
    assert spent("none", options(0)) == least
    assert spent("no time", options(minutes=0)) == least
    assert least < spent("some", options(least + 3)) <= least + 3
    assert least < spent("default", options()) <= 6 * len(units)


def test_progress_counts_evaluations(prepared: tuple[EqmEvaluation, list[Unit]], tmp_path: Path) -> None:
    evaluation, units = prepared
    told = io.StringIO()
    search_measured(evaluation, units, options(0), tmp_path / "journal", "key", Progress(told))
    assert told.getvalue().startswith("searching: 16/16 in ")


def test_the_fingerprint_follows_what_figures_depend_on() -> None:
    known = fingerprint(FILES, windows(), "unquantized")
    stores = {**FILES, "levels/8.0/quantized.safetensors": FileRecord(bytes=1, sha256="3" * 64)}
    settings = {**FILES, "levels/8.0/config.json": FileRecord(bytes=1, sha256="3" * 64)}
    assert fingerprint(stores, windows(), "unquantized") != known
    assert fingerprint(settings, windows(), "unquantized") == known
    assert fingerprint(FILES, windows("1"), "unquantized") != known
    assert fingerprint(FILES, windows(), "position 0") != known
