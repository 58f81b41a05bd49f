"""What a request says as token ids. Encoding takes a while for long texts: never on the event loop."""

from collections.abc import Mapping, Sequence
from typing import Any

from flexquant.server.api_error import ApiError
from flexquant.server.chat_template import ChatTemplate
from flexquant.server.daemon_state import ServedModel
from flexquant.server.messages import Message
from flexquant.server.tools.fields import Tool


def chat_template(model: ServedModel) -> ChatTemplate:
    """The model's chat template.

    Raises:
        ApiError: 400, it has none.
    """
    if model.chat_template is None:
        raise ApiError(400, f"{model.id} has no chat template; use /v1/completions.", code="no_chat_template")
    return model.chat_template


def encode_messages(
    model: ServedModel,
    messages: Sequence[Message],
    tools: Sequence[Tool] | None = None,
    variables: Mapping[str, Any] | None = None,
    *,
    lead: str = "",
    bos: bool = False,
) -> list[int]:
    """Token ids of a conversation: those of transformers' `apply_chat_template`. Templates write BOS themselves.

    Args:
        model: Whose template and tokenizer are used.
        messages: The conversation.
        tools: What the model is told that it may call.
        variables: Further variables of the template.
        lead: With what the answer begins already.
        bos: Whether to begin with the begin-of-text token where the template has not written it.

    Raises:
        ApiError: The model has no chat template, or its template refuses the messages or cannot be given tools.
    """
    template = chat_template(model)
    text = template.render(
        [message.for_template() for message in messages],
        tools=[tool.for_template() for tool in tools or ()],
        variables=variables or {},
    )
    return model.tokenizer.encode(text + lead, special=True, bos=bos)


def encode_prompt(model: ServedModel, prompt: str | list[int]) -> list[int]:
    """Token ids of a prompt; ids are taken as they are, text begins with BOS if the model uses one.

    Raises:
        ApiError: The prompt is empty, or an id is outside the vocabulary.
    """
    tokens = model.tokenizer.encode(prompt, bos=True) if isinstance(prompt, str) else prompt
    if not tokens:
        raise ApiError(400, "prompt: it is empty.", param="prompt")
    check_ids(model, tokens, "prompt")
    return tokens


def check_ids(model: ServedModel, tokens: Sequence[int], param: str) -> None:
    """Raise ApiError (400) for the field `param` unless all of its token ids are in the vocabulary."""
    highest = max(tokens, default=0)
    if highest >= model.vocab_size:
        raise ApiError(
            400, f"{param}: token id {highest} is outside the vocabulary of {model.vocab_size}.", param=param
        )
