"""The `logprobs` of a choice, in the two forms of OpenAI's API."""

from collections.abc import Sequence
from typing import Any

from flexquant.engine.logprobs import TokenScore
from flexquant.engine.tokenizer import Tokenizer
from flexquant.server.token_marks import MarkedToken


def chat_logprobs(tokens: Sequence[MarkedToken], tokenizer: Tokenizer) -> dict[str, Any]:
    """Of chat completions: an object for each token, with its exact bytes."""

    def entry(token: int, logprob: float | None) -> dict[str, Any]:
        content = tokenizer.token_bytes(token)
        if not content:  # it stands for no text
            return {"token": tokenizer.spelling(token), "logprob": logprob, "bytes": None}
        return {"token": content.decode(errors="replace"), "logprob": logprob, "bytes": list(content)}

    return {
        "content": [
            entry(score.token, score.logprob) | {"top_logprobs": [entry(*likely) for likely in score.top]}
            for score in (token.score for token in tokens)
        ],
        "refusal": None,
    }


def completion_logprobs(tokens: Sequence[MarkedToken], tokenizer: Tokenizer) -> dict[str, Any]:
    """Of completions: lists with one item for each token; null where the first token of an echoed prompt has none.

    `top_logprobs` always has the token itself, too. `text_offset` counts characters from the start of the choice's
    text.
    """

    def top(score: TokenScore) -> dict[str, float] | None:
        if score.logprob is None:
            return None
        found: dict[str, float] = {}
        for id_, logprob in (*score.top, (score.token, score.logprob)):
            found.setdefault(_name(id_, tokenizer), logprob)
        return found

    return {
        "tokens": [_name(token.score.token, tokenizer) for token in tokens],
        "token_logprobs": [token.score.logprob for token in tokens],
        "top_logprobs": [top(token.score) for token in tokens],
        "text_offset": [token.offset for token in tokens],
    }


def _name(token: int, tokenizer: Tokenizer) -> str:
    """A token's text; as OpenAI's API does, `bytes:\\xe2\\x80` for part of a character."""
    content = tokenizer.token_bytes(token)
    if not content:
        return tokenizer.spelling(token)
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)
