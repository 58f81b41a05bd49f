"""POST /v1/chat/completions."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from flexquant.server.api_types import ChatRequest
from flexquant.server.daemon_state import DaemonState, ServedModel, daemon_state
from flexquant.server.error_envelope import ApiError
from flexquant.server.generate import FinishReason, answer, generation_request

router = APIRouter()


class _ChatShape:
    id_prefix = "chatcmpl-"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def whole(self, text: str, reason: FinishReason) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}

    def opening(self) -> list[dict[str, Any]]:
        return [_delta({"role": "assistant", "content": ""}, None)]

    def piece(self, text: str) -> dict[str, Any]:
        return _delta({"content": text}, None)

    def closing(self, reason: FinishReason) -> dict[str, Any]:
        return _delta({}, reason)


def _delta(delta: dict[str, Any], reason: FinishReason | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


_SHAPE = _ChatShape()


@router.post("/v1/chat/completions")
async def chat_completions(
    request: Request, body: ChatRequest, daemon: Annotated[DaemonState, Depends(daemon_state)]
) -> Response:
    """Answer a conversation."""
    daemon.model.check_name(body.model)
    prompt = await asyncio.to_thread(_encode, daemon.model, body)
    max_tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    generation = generation_request(body, prompt, max_tokens, daemon.model)
    return await answer(request, daemon, body, generation, _SHAPE)


def _encode(model: ServedModel, body: ChatRequest) -> list[int]:
    """Token ids of the conversation. Templates write BOS themselves; the tokenizer does not double it."""
    if model.chat_template is None:
        raise ApiError(400, f"{model.id} has no chat template; use /v1/completions.", code="no_chat_template")
    return model.tokenizer.encode(model.chat_template.render(body.template_messages()), special=True, bos=True)
