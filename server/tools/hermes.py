"""The calls of Hermes 2 Pro, which Qwen2.5, Qwen3 and many others have taken over: one pair of tags for each.

`<tool_call>\\n{"name": "f", "arguments": {...}}\\n</tool_call>`

Source: the function calling format in the model card of Nous Hermes 2 Pro; Qwen's documentation of function calling.
"""

from typing import Final

from flexquant.server.tools.call_format import CallFormat

HERMES: Final = CallFormat("Hermes", opening="<tool_call>", last="</tool_call>")


def writes(template: str) -> bool:
    """Whether the model of this chat template writes such calls; Qwen3-Coder has XML between the same tags."""
    return HERMES.opening in template and "<function=" not in template
