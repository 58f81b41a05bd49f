"""POST /v1/chat/completions."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from flexquant.server.api_error import ApiError
from flexquant.server.api_types import ChatRequest
from flexquant.server.daemon_state import DaemonState, ServedModel
from flexquant.server.generate import FinishReason, answer, generation_requests
from flexquant.server.routes.dependencies import daemon_state

router = APIRouter()


class _ChatShape:
    id_prefix = "chatcmpl-"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def whole(self, index: int, text: str, reason: FinishReason) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": reason}

    def opening(self, index: int) -> list[dict[str, Any]]:
        return [_delta(index, {"role": "assistant", "content": ""}, None)]

    def piece(self, index: int, text: str) -> dict[str, Any]:
        return _delta(index, {"content": text}, None)

    def closing(self, index: int, reason: FinishReason) -> dict[str, Any]:
        return _delta(index, {}, reason)


def _delta(index: int, delta: dict[str, Any], reason: FinishReason | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


_SHAPE = _ChatShape()


@router.post("/v1/chat/completions")
async def chat_completions(
    request: Request, body: ChatRequest, daemon: Annotated[DaemonState, Depends(daemon_state)]
) -> Response:
    """Answer a conversation."""
    daemon.model.check_name(body.model)
    prompt = await asyncio.to_thread(_encode, daemon.model, body)
    return await answer(request, daemon, body, generation_requests(body, [prompt], body.most_tokens, daemon), _SHAPE)


def _encode(model: ServedModel, body: ChatRequest) -> list[int]:
    """Token ids of the conversation. Templates write BOS themselves; the tokenizer does not double it."""
    if model.chat_template is None:
        raise ApiError(400, f"{model.id} has no chat template; use /v1/completions.", code="no_chat_template")
    return model.tokenizer.encode(model.chat_template.render(body.template_messages()), special=True, bos=True)
