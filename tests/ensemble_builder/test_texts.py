"""Texts from files, and from the model itself."""

import io
from pathlib import Path

import pytest

from flexquant.engine.errors import InputError, UsageError
from flexquant.ensemble_builder import texts
from flexquant.ensemble_builder.evaluation import Windows
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.texts import check_disjoint, text_windows
from support.tiny_checkpoint import TEXT, tiny_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


def windows_of(model: Path, text: Path | None, tokens: int, kept: Path, seed: int = 0) -> Windows:
    return text_windows(text, tokens, model=model, seed=seed, kept=kept, progress=Progress(io.StringIO()))


def test_a_file_gives_at_most_the_tokens_asked_for(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(TEXT * 20)
    for tokens, count in [(1, 1), (128, 1), (400, 3), (10**6, len(TEXT) * 20 // 127)]:
        assert windows_of(model, path, tokens, tmp_path / "kept").tokens.shape == (count, 128)
    assert not (tmp_path / "kept").exists()


def test_a_sampled_text_fills_its_windows_and_is_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept.txt"
    first = windows_of(model, None, 300, kept, seed=7)
    assert first.tokens.shape == (2, 128)
    assert first.text.name == "sampled from the model, seed 7"
    monkeypatch.setattr(texts, "sample_text", None)
    again = windows_of(model, None, 300, kept, seed=7)
    assert again.text == first.text
    assert again.tokens.equal(first.tokens)


def test_seeds_give_different_texts(model: Path, tmp_path: Path) -> None:
    first, second = (windows_of(model, None, 128, tmp_path / str(seed), seed) for seed in (0, 1))
    assert first.text.sha256 != second.text.sha256


def test_the_same_text_twice_is_refused(tmp_path: Path) -> None:
    first, second, other = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    first.write_text("same")
    second.write_text("same")
    other.write_text("other")
    check_disjoint(first, other)
    check_disjoint(first, None)
    with pytest.raises(UsageError, match="are the same text"):
        check_disjoint(first, second)
    with pytest.raises(InputError, match="nowhere: cannot be read"):
        check_disjoint(first, tmp_path / "nowhere")
