"""Rows as text, and a Markdown file in which a run replaces its own blocks only."""

from pathlib import Path

import pytest

from bench.figures import Figure
from bench.row import Row
from bench.tables import block, markdown, plain, replace_block, write_blocks

FASTER = Row("decode, 4 bits", "tokens/s", Figure(50.0, 48.0, 52.0, 7), Figure(40.0, 39.0, 41.0, 7), "llama.cpp Q4_0")
ALONE = Row("swap", "MB/s", Figure.exact(1234.5), None, "nothing: no peer resizes a live model")


def test_the_ratio_is_ours_over_the_peer() -> None:
    assert FASTER.ratio == 50.0 / 40.0
    assert ALONE.ratio is None


def test_a_row_as_json_has_medians_and_ranges() -> None:
    found = FASTER.to_json()
    assert (found["name"], found["ours"], found["peer"], found["ratio"]) == ("decode, 4 bits", 50.0, 40.0, 1.25)
    assert (found["ours_range"], found["peer_range"]) == ([48.0, 52.0], [39.0, 41.0])
    assert ALONE.to_json()["peer"] is None


def test_a_row_without_a_peer_says_why() -> None:
    assert plain([ALONE]) == "swap: 1,234 MB/s | nothing: no peer resizes a live model\n"


def test_a_table_has_a_line_per_row() -> None:
    assert markdown([FASTER]).splitlines()[-1] == (
        "| decode, 4 bits | 50 (48 to 52) tokens/s | llama.cpp Q4_0 | 40 (39 to 41) tokens/s | 1.25 |"
    )


def test_a_block_goes_to_the_end_and_later_replaces_itself(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text("# Results\n\nBy hand.\n")
    write_blocks(path, {"decode": block("decode", {"date": "old"}, [FASTER]), "swap": block("swap", {}, [ALONE])})
    path.write_text(path.read_text() + "\nAfter.\n")
    write_blocks(path, {"decode": block("decode", {"date": "new"}, [FASTER])})
    text = path.read_text()
    assert text.startswith("# Results\n\nBy hand.\n\n<!-- bench decode -->\n")
    assert text.endswith("<!-- /bench swap -->\n\nAfter.\n")
    assert "- date: new" in text
    assert "- date: old" not in text


def test_a_block_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="has no"):
        replace_block("<!-- bench decode -->\n", "decode", "new")
