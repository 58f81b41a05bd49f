"""POST /v1/completions."""

import asyncio
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request, Response

from flexquant.server.api_error import ApiError
from flexquant.server.api_types import CompletionRequest
from flexquant.server.daemon_state import DaemonState, ServedModel
from flexquant.server.generate import FinishReason, answer, generation_requests
from flexquant.server.routes.dependencies import daemon_state

DEFAULT_MAX_TOKENS: Final = 16

router = APIRouter()


class _CompletionShape:
    id_prefix = "cmpl-"
    whole_object = chunk_object = "text_completion"

    def whole(self, index: int, text: str, reason: FinishReason) -> dict[str, Any]:
        return _choice(index, text, reason)

    def opening(self, index: int) -> list[dict[str, Any]]:  # noqa: ARG002  # there is nothing to say
        return []

    def piece(self, index: int, text: str) -> dict[str, Any]:
        return _choice(index, text, None)

    def closing(self, index: int, reason: FinishReason) -> dict[str, Any]:
        return _choice(index, "", reason)


def _choice(index: int, text: str, reason: FinishReason | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}


_SHAPE = _CompletionShape()


@router.post("/v1/completions")
async def completions(
    request: Request, body: CompletionRequest, daemon: Annotated[DaemonState, Depends(daemon_state)]
) -> Response:
    """Continue prompts."""
    daemon.model.check_name(body.model)
    prompts = await asyncio.to_thread(lambda: [_encode(daemon.model, prompt) for prompt in body.prompts])
    max_tokens = DEFAULT_MAX_TOKENS if body.most_tokens is None else body.most_tokens
    return await answer(request, daemon, body, generation_requests(body, prompts, max_tokens, daemon), _SHAPE)


def _encode(model: ServedModel, prompt: str | list[int]) -> list[int]:
    """Token ids of a prompt; ids are taken as they are, text begins with BOS if the model uses one."""
    tokens = model.tokenizer.encode(prompt, bos=True) if isinstance(prompt, str) else prompt
    if not tokens:
        raise ApiError(400, "prompt: it is empty.", param="prompt")
    if max(tokens) >= model.vocab_size:
        raise ApiError(
            400, f"prompt: token id {max(tokens)} is outside the vocabulary of {model.vocab_size}.", param="prompt"
        )
    return tokens
