"""POST /v1/chat/completions."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from flexquant.engine.tokenizer import Tokenizer
from flexquant.server.api_types import ChatRequest
from flexquant.server.daemon_state import DaemonState
from flexquant.server.generate import FinishReason, answer, generation_requests
from flexquant.server.logprob_fields import chat_logprobs
from flexquant.server.prompts import encode_messages
from flexquant.server.routes.dependencies import daemon_state
from flexquant.server.structured_output import requested_grammar
from flexquant.server.token_marks import MarkedToken

router = APIRouter()


class _ChatShape:
    id_prefix = "chatcmpl-"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer, *, logprobs: bool) -> None:
        self._tokenizer = tokenizer
        self._scored = logprobs

    def whole(self, index: int, text: str, tokens: Sequence[MarkedToken], reason: FinishReason) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": self._logprobs(tokens), "finish_reason": reason}

    def opening(self, index: int) -> list[dict[str, Any]]:
        return [_delta(index, {"role": "assistant", "content": ""}, None)]

    def piece(self, index: int, text: str, tokens: Sequence[MarkedToken]) -> dict[str, Any]:
        return _delta(index, {"content": text}, None) | {"logprobs": self._logprobs(tokens)}

    def closing(self, index: int, reason: FinishReason) -> dict[str, Any]:
        return _delta(index, {}, reason)

    def _logprobs(self, tokens: Sequence[MarkedToken]) -> dict[str, Any] | None:
        return chat_logprobs(tokens, self._tokenizer) if self._scored else None


def _delta(index: int, delta: dict[str, Any], reason: FinishReason | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


@router.post("/v1/chat/completions")
async def chat_completions(
    request: Request, body: ChatRequest, daemon: Annotated[DaemonState, Depends(daemon_state)]
) -> Response:
    """Answer a conversation."""
    daemon.model.check_name(body.model)
    prompt = await asyncio.to_thread(encode_messages, daemon.model, body.messages)
    grammar = await requested_grammar(daemon.model, body)
    generations = generation_requests(body, [prompt], body.most_tokens, daemon, logprobs=body.scored, grammar=grammar)
    shape = _ChatShape(daemon.model.tokenizer, logprobs=body.scored is not None)
    return await answer(request, daemon, body, generations, shape)
