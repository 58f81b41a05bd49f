"""The calls of Llama 3.1 and later: an answer that is a JSON object, or several with semicolons between them.

`{"name": "f", "parameters": {...}}`, sometimes behind the special token `<|python_tag|>`.

Source: the prompt format pages of Llama 3.1 and 3.2. Calls of the built-in tools, which are Python, are not read.
"""

from typing import Final

from flexquant.server.tools.call_format import CallFormat

LLAMA: Final = CallFormat("Llama", opening="<|python_tag|>", between=";", arguments="parameters", bare=True)


def writes(template: str) -> bool:
    """Whether the model of this chat template writes such calls."""
    return LLAMA.opening in template or '"parameters": ' in template
