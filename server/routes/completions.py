"""POST /v1/completions."""

import asyncio
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request, Response

from flexquant.server.api_types import CompletionRequest
from flexquant.server.daemon_state import DaemonState, ServedModel, daemon_state
from flexquant.server.error_envelope import ApiError
from flexquant.server.generate import FinishReason, answer, generation_request

DEFAULT_MAX_TOKENS: Final = 16

router = APIRouter()


class _CompletionShape:
    id_prefix = "cmpl-"
    whole_object = chunk_object = "text_completion"

    def whole(self, text: str, reason: FinishReason) -> dict[str, Any]:
        return _choice(text, reason)

    def opening(self) -> list[dict[str, Any]]:
        return []

    def piece(self, text: str) -> dict[str, Any]:
        return _choice(text, None)

    def closing(self, reason: FinishReason) -> dict[str, Any]:
        return _choice("", reason)


def _choice(text: str, reason: FinishReason | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}


_SHAPE = _CompletionShape()


@router.post("/v1/completions")
async def completions(
    request: Request, body: CompletionRequest, daemon: Annotated[DaemonState, Depends(daemon_state)]
) -> Response:
    """Continue a prompt."""
    daemon.model.check_name(body.model)
    prompt = await asyncio.to_thread(_encode, daemon.model, body.single_prompt)
    max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    generation = generation_request(body, prompt, max_tokens, daemon.model)
    return await answer(request, daemon, body, generation, _SHAPE)


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
