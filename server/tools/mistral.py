"""The calls of Mistral's models: a list behind a special token.

`[TOOL_CALLS] [{"name": "f", "arguments": {...}}, ...]`

Source: the tokenizer documentation (v2 and v3) of mistral-common. Its templates take only ids of 9 letters and digits.
"""

from typing import Final

from flexquant.server.tools.call_format import CallFormat

MISTRAL: Final = CallFormat(
    "Mistral", opening="[TOOL_CALLS]", first="[", between=",", last="]", id_prefix="", id_length=9
)


def writes(template: str) -> bool:
    """Whether the model of this chat template writes such calls; later ones have `NAME[ARGS]{...}` there."""
    return MISTRAL.opening in template and "[ARGS]" not in template
