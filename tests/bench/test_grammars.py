"""What grammars cost: the table, made with a small vocabulary and few tokens."""

from bench.grammars import GRAMMARS, Widened, rows
from flexquant.engine.tokenizer import Tokenizer
from support.fake_model import DOCS_LLAMA


def test_a_row_for_the_vocabulary_and_one_for_each_grammar() -> None:
    tokenizer = Tokenizer.open(DOCS_LLAMA)
    header, ruler, first, *others = rows(tokenizer, [4200], tokens=20)
    assert header.count("|") == ruler.count("|") == first.count("|") == 6
    assert "4,200" in first
    for name, row in zip(GRAMMARS, others, strict=True):
        assert name in row
        assert row.endswith(" µs |")


def test_a_wider_vocabulary_begins_with_the_demos_and_repeats_nothing() -> None:
    tokenizer = Tokenizer.open(DOCS_LLAMA)
    widened = Widened(tokenizer, 6000)
    tokens = [widened.token_bytes(token) for token in range(6000)]
    own = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    assert tokens[: len(own)] == own
    added = tokens[len(own) :]
    assert len({*added} - {*own}) == 6000 - len(own)
