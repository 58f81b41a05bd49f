"""Prompts that both sides get."""


def prompt(number: int, tokens: int, vocab: int) -> list[int]:
    """Token ids of the prompt of that number: different ones, none of them special on either side.

    Args:
        number: 0, 1, ...; other numbers, other tokens.
        tokens: Length.
        vocab: Size of the vocabulary.
    """
    special = 300  # special tokens and byte tokens come first on both sides
    return [special + (7919 * (number + 1) + 104_729 * place) % (vocab - special) for place in range(tokens)]
