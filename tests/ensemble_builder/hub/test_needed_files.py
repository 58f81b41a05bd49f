"""Which files of a repository are fetched."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexquant.ensemble_builder.hub.needed_files import DESCRIPTIONS, descriptions, weights

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
NAMES = st.text(alphabet="ab/.", max_size=6).flatmap(
    lambda stem: st.sampled_from([stem, f"{stem}.safetensors", f"{stem}.bin", f"{stem}.gguf", f"{stem}.json"])
)


def index(*names: object) -> dict[str, object]:
    return {"metadata": {}, "weight_map": {f"tensor{at}": name for at, name in enumerate(names)}}


def test_the_index_tells_shards_from_other_copies_of_the_weights() -> None:
    assert weights([*SHARDS, "consolidated.safetensors", "model.safetensors"], index(*SHARDS, SHARDS[0])) == SHARDS


def test_an_index_of_files_that_are_not_there_is_stale() -> None:
    assert weights(["output.safetensors"], index(*SHARDS)) == ["output.safetensors"]
    assert weights(["b.safetensors", "a.safetensors"], index("../a.safetensors")) == ["a.safetensors", "b.safetensors"]


def test_without_an_index_the_one_file_counts_and_else_all() -> None:
    assert weights(["model.safetensors", "consolidated.safetensors"]) == ["model.safetensors"]
    assert weights(reversed(SHARDS)) == SHARDS


@pytest.mark.parametrize("damaged", [[], "text", {"weight_map": []}, index(1, None), index()])
def test_a_damaged_index_counts_as_none(damaged: object) -> None:
    assert weights(SHARDS, damaged) == SHARDS


@given(st.lists(NAMES, unique=True), st.lists(NAMES))
def test_weights_are_safetensors_of_the_repository_itself(names: list[str], indexed: list[str]) -> None:
    found = weights(names, index(*indexed))
    assert set(found) <= set(names)
    assert found == sorted(set(found))
    assert all(name.endswith(".safetensors") and "/" not in name for name in found)
    safe = [name for name in names if name.endswith(".safetensors") and "/" not in name]
    assert bool(found) == bool(safe)


@given(st.lists(st.one_of(NAMES, st.sampled_from(DESCRIPTIONS)), unique=True))
def test_descriptions_are_of_the_repository(names: list[str]) -> None:
    assert set(descriptions(names)) == set(names) & set(DESCRIPTIONS)
