"""From what a request says of its answer to the grammar that holds it to that."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from flexquant.engine.errors import GrammarError
from flexquant.engine.grammar import Grammar
from flexquant.engine.grammar_constraint import CompiledGrammar
from flexquant.server.api_error import ApiError
from flexquant.server.api_types import GenerationFields
from flexquant.server.daemon_state import ServedModel
from flexquant.server.structured_fields import ResponseFormat, StructuredOutputs

JsonSchema = dict[str, Any]
ANY_OBJECT: Final[JsonSchema] = {"type": "object"}
NO_ARGUMENTS: Final[JsonSchema] = {"properties": {}, "additionalProperties": False}
"""What OpenAI's API takes a function without `parameters` to have."""


async def requested_grammar(model: ServedModel, fields: GenerationFields) -> CompiledGrammar | None:
    """The grammar that `response_format` or `structured_outputs` asks for; None where neither does.

    Raises:
        ApiError: Both do; or it has a mistake or something that is not supported, which the message names.
    """
    by_format = None if fields.response_format is None else format_grammar(fields.response_format)
    if fields.structured_outputs is None:
        return None if by_format is None else await compile_grammar(model, by_format, "response_format")
    if by_format is not None:
        raise ApiError(400, "structured_outputs: give it or response_format, not both.", param="structured_outputs")
    return await compile_grammar(model, other_grammar(fields.structured_outputs), "structured_outputs")


async def compile_grammar(model: ServedModel, grammar: "Grammar", param: str) -> CompiledGrammar:
    """Make a grammar ready, off the event loop and off the engine thread.

    Args:
        model: Whose answers it is for.
        grammar: What they have to be.
        param: The request's field that says so.

    Raises:
        ApiError: 400 that names the field and what is wrong.
    """
    try:
        return await asyncio.to_thread(model.grammars.compile, grammar)
    except GrammarError as error:
        raise _refused(error, param) from error


def format_grammar(wanted: ResponseFormat) -> Grammar | None:
    """What `response_format` asks for; None for any text.

    Raises:
        ApiError: The schema cannot be used.
    """
    if wanted.type == "text":
        return None
    schema = ANY_OBJECT if wanted.json_schema is None else wanted.json_schema.json_schema
    try:
        return Grammar.of_schema(schema)
    except GrammarError as error:
        raise _refused(error, "response_format") from error


def other_grammar(wanted: StructuredOutputs) -> Grammar:
    """What `structured_outputs` asks for."""
    if wanted.choice is not None:
        return Grammar.of_choices(wanted.choice)
    if wanted.regex is not None:
        return Grammar("regex", wanted.regex)
    return Grammar("lark", wanted.grammar or "")


def tool_constraint(tools: Sequence[Mapping[str, Any]], name: str | None = None) -> Grammar:
    """A call of a tool: `{"name": ..., "arguments": {...}}`, the arguments by the tool's own schema.

    For `compile_grammar`, with `param` "tools".

    Args:
        tools: As in OpenAI's API: `{"type": "function", "function": {"name", "parameters"}}`.
        name: The tool to call; None for any of them.

    Raises:
        ApiError: There is no such tool, or a schema cannot be used.
    """
    functions = [tool["function"] for tool in tools]
    chosen = [function for function in functions if name is None or function["name"] == name]
    if not chosen:
        said = "it needs tools" if name is None else f"{name!r} is not in tools"
        raise ApiError(400, f"tool_choice: {said}.", param="tool_choice")
    calls = [_call_schema(function, number) for number, function in enumerate(chosen)]
    try:
        return Grammar.of_schema(calls[0] if len(calls) == 1 else {"anyOf": calls})
    except GrammarError as error:
        raise _refused(error, "tools") from error


def _call_schema(function: Mapping[str, Any], number: int) -> JsonSchema:
    """The schema of a call. The `$id` makes references in the parameters' schema begin at that schema."""
    arguments = {"$id": f"tool:{number}", "type": "object"} | (function.get("parameters") or NO_ARGUMENTS)
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _refused(error: GrammarError, param: str) -> ApiError:
    return ApiError(400, f"{param}: {error.message}.", param=param)
