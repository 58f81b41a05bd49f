"""The tree of a search."""

from pathlib import Path

import pytest

from flexquant.engine.errors import InputError
from flexquant.ensemble_builder.compare.search_tree import Tree, above_taken, read_searched, tree_of, without_tallest
from flexquant.ensemble_builder.sequence import Unit

UNITS = [Unit("a", (30, 10)), Unit("b", (20, 10)), Unit("c", (50, 40))]
LINES = """{"fingerprint": "f"}
{"state": [0, 0, 0], "kl": 0.0, "perplexity": 10}
{"state": [1, 0, 0], "kl": 0.1, "perplexity": 10}
{"state": [0, 1, 0], "kl": 0.2, "perplexity": 10}
{"state": [0, 0, 1], "kl": 0.3, "perplexity": 10}
{"state": [1, 1, 0], "kl": 0.4, "perplexity": 10}
{"state": [1, 0, 1], "kl": 0.5, "perplexity": 10}
{"state": [1, 1, 1], "kl": 0.6, "perplexity": 10}
"""
TAKEN = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1)]


def test_branches_hang_from_the_stem_that_they_were_tried_from(tmp_path: Path) -> None:
    (tmp_path / "search.jsonl").write_text(LINES)
    searched = read_searched(tmp_path / "search.jsonl")
    assert searched is not None
    tree = tree_of(UNITS, searched, TAKEN, TAKEN, 5)
    assert tree is not None
    assert tree.taken == ((105, 0.0), (85, 0.1), (75, 0.4), (65, 0.6))
    assert tree.greedy == tree.taken
    # (0, 1, 0) and (0, 0, 1) were tried from the top; (1, 0, 1) has the stem's (1, 0, 0) above it.
    assert tree.branches == (((105, 0.0), (95, 0.2)), ((105, 0.0), (95, 0.3)), ((85, 0.1), (75, 0.5)))
    assert (tree.single, tree.nodes) == (2, 7)


def test_a_stem_that_was_not_measured_gives_no_tree() -> None:
    """Such as the stem of a search by other units, whose journal has other assignments."""
    measured = [(state, 0.1) for state in TAKEN]
    assert tree_of(UNITS, measured[:-1], TAKEN, TAKEN, 5) is None
    assert tree_of(UNITS, [((0, 1), 0.1)], TAKEN, TAKEN, 5) is None
    assert tree_of(UNITS, [*measured, ((0, 1), 0.1)], TAKEN, TAKEN, 5) is not None


def test_a_build_without_a_journal_has_no_tree(tmp_path: Path) -> None:
    assert read_searched(tmp_path / "none.jsonl") is None


@pytest.mark.parametrize("text", ["", '{"fingerprint": "f"}\n{"state"', '{"fingerprint": "f"}\n[]\n'])
def test_a_damaged_journal_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "search.jsonl").write_text(text)
    with pytest.raises(InputError, match=r"search\.jsonl: cannot be read"):
        read_searched(tmp_path / "search.jsonl")


def test_heights_are_taken_from_the_sequence_at_the_same_footprint() -> None:
    tree = Tree(((100, 0.0), (60, 0.4), (20, 1.0)), ((100, 0.0), (40, 0.9)), (((100, 0.0), (80, 0.5)),), 1)
    risen = above_taken(tree)
    assert risen.taken == ((100, 0.0), (60, 0.0), (20, 0.0))
    assert risen.greedy[1][0] == 40
    assert risen.greedy[1][1] == pytest.approx(0.2)
    assert risen.branches[0][1][1] == pytest.approx(0.3)


def test_the_tallest_branches_are_left_out_and_counted() -> None:
    branches = tuple(((100, 0.0), (90, height)) for height in (0.1, 5.0, 0.2, 0.3))
    shown, left_out = without_tallest(Tree(((100, 0.0),), ((100, 0.0),), branches, 4), 0.3)
    assert [end for _, (_, end) in shown.branches] == [0.1, 0.2, 0.3]
    assert left_out == 1
    assert without_tallest(Tree((), (), branches, 4), 0.1) == (Tree((), (), branches, 4), 0)
