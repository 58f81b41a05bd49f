"""A comparison's figures as a block of a Markdown file."""

import json
from pathlib import Path

import pytest

from bench.comparison import main


def record() -> dict[str, object]:
    over = {"greedy": {"ratio": 0.9876, "interval": [0.98, 0.99]}}
    one = {
        "name": "exl2 8.0-2.5",
        "levels": [{"bits": 8.0}, {"bits": 2.5}],
        "measured": {"text": {"name": "c.txt"}, "windows": 12, "window_tokens": 1024},
        "methods": [{"area_under_kl": 0.0462}],
        "sequence_area_over": over,
        "worst_beside_ladder": {"ratio": 1.0212, "position": 31},
        "beside_ladder": [{"ratio": 1.0}, {"ratio": 1.0212}],
        "ladder_bytes": 90_000_000,
        "storage": {"once_bytes": 10_000_000},
        "granularity": {"steps": 57, "mean_bytes": 82_000.0, "most_bytes": 1_000_000},
        "search": {"evaluations": 342, "minutes": 8.73},
        "exhaustive": None,
        "pruned": [
            {
                "dropped_variants": dropped,
                "variants": 114,
                "disk_bytes": 12_000_000 - 100_000 * dropped,
                "positions": 58 - dropped,
                "footprint_range_bytes": [3_000_000, 6_000_000],
                "allowed": [{"share_of_range": 0.25, "kl": 0.0123, "predicted_kl": 0.0111}],
            }
            for dropped in (0, 12)
        ],
        "findings": ["The search beats greedy by sensitivity."],
    }
    said = ["Greedy by sensitivity has the same area.", "The whole model at one width has 3 % more area."]
    other = one | {"name": "any-precision 8.0-2.5", "pruned": [], "findings": said}
    return {"model": "docs-llama", "ensembles": [one, other], "between": ["one beside the other"]}


def test_figures_are_those_of_the_record_and_a_run_replaces_its_block(tmp_path: Path) -> None:
    (tmp_path / "compare.json").write_text(json.dumps(record()))
    page = tmp_path / "page.md"
    page.write_text("Before.\n\n<!-- bench comparison -->\nold\n<!-- /bench comparison -->\nAfter.\n")
    assert main([str(tmp_path / "compare.json"), "--markdown", str(page)]) == 0
    said = page.read_text()
    assert said.startswith("Before.")
    assert said.endswith("After.\n")
    assert "old" not in said
    assert "| 8, 2.5 | 0.0462 | 0.988 (0.980 to 0.990) | not run |" in said
    assert "| 8, 2.5 | 1.021 | 31 | 1 of 2 | 9.0x |" in said
    assert "342 evaluations, 8.7 min" in said
    assert "| 12 of 114 | 10.0% | 45 | 3.000 to 6.000 MB | 0.0123 (0.0111) |" in said
    assert "- 8, 2.5: The search beats greedy by sensitivity." in said
    assert "| any-precision 8, 2.5 | 0.0462 |" in said
    assert "- any-precision 8, 2.5: The whole model at one width has 3 % more area." in said
    assert "- one beside the other" in said


def test_blocks_may_have_other_names(tmp_path: Path) -> None:
    (tmp_path / "compare.json").write_text(json.dumps(record()))
    page = tmp_path / "page.md"
    page.write_text("<!-- bench pruning -->\n<!-- /bench pruning -->\n")
    assert main([str(tmp_path / "compare.json"), "--markdown", str(page), "--block", "pruning"]) == 0
    assert "### pruning" in page.read_text()


def test_a_record_that_cannot_be_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.json")]) == 3
    assert "cannot be read" in capsys.readouterr().err
