"""POST /v1/chat/completions."""

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from flexquant.engine.grammar_constraint import CompiledGrammar
from flexquant.server.api_types import ChatRequest
from flexquant.server.chat_shape import ChatShape
from flexquant.server.daemon_state import DaemonState, ServedModel
from flexquant.server.generate import answer, generation_requests
from flexquant.server.prompts import chat_template, encode_messages
from flexquant.server.routes.dependencies import daemon_state
from flexquant.server.structured_output import compile_grammar, requested_grammar, tool_constraint
from flexquant.server.tools.tool_use import ToolUse, tool_use

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat_completions(
    request: Request, body: ChatRequest, daemon: Annotated[DaemonState, Depends(daemon_state)]
) -> Response:
    """Answer a conversation."""
    model = daemon.model
    model.check_name(body.model)
    use = tool_use(body, chat_template(model))
    prompt = await asyncio.to_thread(
        encode_messages,
        model,
        body.messages,
        None if use is None else list(use.tools.values()),
        body.chat_template_kwargs,
        lead="" if use is None else use.lead,
    )
    grammar = await (requested_grammar(model, body) if use is None or not use.forced else _call(model, use))
    spelled = frozenset[int]() if use is None else use.marks(model.tokenizer)
    generations = generation_requests(
        body, [prompt], body.most_tokens, daemon, logprobs=body.scored, spelled_tokens=spelled, grammar=grammar
    )
    shape = ChatShape(model.tokenizer, logprobs=body.scored is not None, tools=use)
    return await answer(request, daemon, body, generations, shape)


def _call(model: ServedModel, use: ToolUse) -> Coroutine[Any, Any, CompiledGrammar]:
    """The grammar of a call that has to be made."""
    given = [tool.for_template() for tool in use.tools.values()]
    return compile_grammar(model, tool_constraint(given, use.forced_name), "tools")
