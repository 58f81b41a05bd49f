"""POST /v1/completions."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request, Response

from flexquant.engine.tokenizer import Tokenizer
from flexquant.server.api_types import CompletionRequest
from flexquant.server.daemon_state import DaemonState
from flexquant.server.generate import FinishReason, answer, generation_requests
from flexquant.server.logprob_fields import completion_logprobs
from flexquant.server.prompts import encode_prompt
from flexquant.server.routes.dependencies import daemon_state
from flexquant.server.structured_output import requested_grammar
from flexquant.server.token_marks import MarkedToken

DEFAULT_MAX_TOKENS: Final = 16

router = APIRouter()


class _CompletionShape:
    id_prefix = "cmpl-"
    whole_object = chunk_object = "text_completion"

    def __init__(self, tokenizer: Tokenizer, *, logprobs: bool) -> None:
        self._tokenizer = tokenizer
        self._scored = logprobs

    def whole(self, index: int, text: str, tokens: Sequence[MarkedToken], reason: FinishReason) -> dict[str, Any]:
        return _choice(index, text, self._logprobs(tokens), reason)

    def opening(self, index: int) -> list[dict[str, Any]]:  # noqa: ARG002  # there is nothing to say
        return []

    def pieces(self, index: int, text: str, tokens: Sequence[MarkedToken]) -> list[dict[str, Any]]:
        return [_choice(index, text, self._logprobs(tokens), None)]

    def closing(self, index: int, reason: FinishReason) -> list[dict[str, Any]]:
        return [_choice(index, "", None, reason)]

    def _logprobs(self, tokens: Sequence[MarkedToken]) -> dict[str, Any] | None:
        return completion_logprobs(tokens, self._tokenizer) if self._scored else None


def _choice(index: int, text: str, logprobs: dict[str, Any] | None, reason: FinishReason | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


@router.post("/v1/completions")
async def completions(
    request: Request, body: CompletionRequest, daemon: Annotated[DaemonState, Depends(daemon_state)]
) -> Response:
    """Continue prompts."""
    daemon.model.check_name(body.model)
    prompts = await asyncio.to_thread(lambda: [encode_prompt(daemon.model, prompt) for prompt in body.prompts])
    max_tokens = DEFAULT_MAX_TOKENS if body.most_tokens is None else body.most_tokens
    grammar = await requested_grammar(daemon.model, body)
    generations = generation_requests(
        body,
        prompts,
        max_tokens,
        daemon,
        logprobs=body.logprobs,
        echo=bool(body.echo),
        continues=True,
        grammar=grammar,
    )
    shape = _CompletionShape(daemon.model.tokenizer, logprobs=body.logprobs is not None)
    return await answer(request, daemon, body, generations, shape)
