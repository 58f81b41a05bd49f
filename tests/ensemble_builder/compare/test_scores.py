"""Scores survive being killed."""

from pathlib import Path

import pytest

from flexquant.engine.errors import InputError
from flexquant.ensemble_builder.compare.scores import Scores
from flexquant.ensemble_builder.window_quality import WindowQuality

QUALITY = WindowQuality((2.5, 0.1 + 0.2), (1e-7, 0.25), (0.5, 1 / 3))


def test_what_was_added_is_known_again_to_the_last_digit(tmp_path: Path) -> None:
    with Scores(tmp_path / "scores", "f") as scores:
        scores.add_quality("8.0", QUALITY)
        scores.add_choices("8.0", (True, False, True))
    with Scores(tmp_path / "scores", "f") as scores:
        assert scores.qualities == {"8.0": QUALITY}
        assert scores.choices == {"8.0": (True, False, True)}
    with Scores(tmp_path / "scores", "other text") as scores:
        assert not scores.qualities


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "scores").write_text('{"fingerprint": "f"}\n{"model": "8.0", "kl": [1]}\n')
    with pytest.raises(InputError, match="line 2 is damaged"):
        Scores(tmp_path / "scores", "f")
