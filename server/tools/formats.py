"""Which form of calls a model writes: its chat template shows it."""

from collections.abc import Callable
from typing import Final

from flexquant.server.tools import hermes, llama, mistral
from flexquant.server.tools.call_format import CallFormat

FORMATS: Final[tuple[tuple[CallFormat, Callable[[str], bool]], ...]] = (
    (mistral.MISTRAL, mistral.writes),
    (hermes.HERMES, hermes.writes),
    (llama.LLAMA, llama.writes),
)


def format_of(template: str) -> CallFormat | None:
    """The first format that the text of a chat template shows; None if it shows none that we know."""
    return next((known for known, writes in FORMATS if writes(template)), None)
