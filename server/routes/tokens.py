"""POST /tokenize and /detokenize: text to tokens and back, in vLLM's shape."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from flexquant.server.api_types import DetokenizeRequest, TokenizeRequest
from flexquant.server.daemon_state import DaemonState, ServedModel
from flexquant.server.prompts import check_ids, encode_messages
from flexquant.server.routes.dependencies import daemon_state

router = APIRouter()


@router.post("/tokenize")
async def tokenize(body: TokenizeRequest, daemon: Annotated[DaemonState, Depends(daemon_state)]) -> dict[str, Any]:
    """The tokens that completions or chat completions would take in."""
    daemon.model.check_name(body.model)
    tokens = await asyncio.to_thread(_encode, daemon.model, body)
    return {"count": len(tokens), "max_model_len": daemon.model.context, "tokens": tokens}


@router.post("/detokenize")
async def detokenize(body: DetokenizeRequest, daemon: Annotated[DaemonState, Depends(daemon_state)]) -> dict[str, Any]:
    """The text of tokens, without special ones."""
    daemon.model.check_name(body.model)
    check_ids(daemon.model, body.tokens, "tokens")
    return {"prompt": await asyncio.to_thread(daemon.model.tokenizer.decode, body.tokens)}


def _encode(model: ServedModel, body: TokenizeRequest) -> list[int]:
    if body.messages is not None:
        bos = body.add_special_tokens is True
        return encode_messages(model, body.messages, body.tools, body.chat_template_kwargs, bos=bos)
    return model.tokenizer.encode(body.prompt or "", bos=body.add_special_tokens is not False)
