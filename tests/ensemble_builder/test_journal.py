"""The journal survives being killed."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.engine.errors import InputError
from flexquant.engine.manifest import Quality
from flexquant.ensemble_builder.journal import Journal
from flexquant.ensemble_builder.sequence import Assignment

ENTRIES: dict[Assignment, Quality] = {
    (0, 0): Quality(perplexity=14.7815, kl=0.0),
    (1, 0): Quality(perplexity=15.1, kl=1.25e-07),
    (1, 2): Quality(perplexity=19.0, kl=0.1 + 0.2),
}


def written(path: Path) -> Path:
    with Journal(path, "f") as journal:
        for state, quality in ENTRIES.items():
            journal.add(state, quality)
    return path


def test_what_was_added_is_known_again(tmp_path: Path) -> None:
    with Journal(written(tmp_path / "journal"), "f") as journal:
        assert journal.known == ENTRIES


def test_other_stores_start_anew(tmp_path: Path) -> None:
    path = written(tmp_path / "journal")
    with Journal(path, "other") as journal:
        assert journal.known == {}
        journal.add((9,), ENTRIES[0, 0])
    with Journal(path, "other") as journal:
        assert journal.known == {(9,): ENTRIES[0, 0]}


@settings(deadline=None, max_examples=40)
@given(cut=st.integers(0, 400))
def test_cut_off_anywhere_it_keeps_whole_entries_and_goes_on(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = written(tmp_path_factory.mktemp("cut") / "journal")
    whole = path.read_bytes()
    path.write_bytes(whole[: min(cut, len(whole))])
    with Journal(path, "f") as journal:
        kept = dict(journal.known)
        assert list(kept.items()) == list(ENTRIES.items())[: len(kept)]
        assert len(kept) == max(whole[:cut].count(b"\n") - 1, 0)
        for state, quality in ENTRIES.items():
            if state not in kept:
                journal.add(state, quality)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("line", ["{", '{"state": [1]}', "[]", '{"state": 3, "kl": 0, "perplexity": 1}'])
def test_damage_before_the_end_is_an_error_that_names_the_line(tmp_path: Path, line: str) -> None:
    path = written(tmp_path / "journal")
    lines = path.read_text().splitlines()
    lines[2] = line
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="line 3 is damaged") as caught:
        Journal(path, "f")
    assert caught.value.hint is not None
