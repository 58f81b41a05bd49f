"""What the routes work with: the served model, the thread that runs it, and the controller."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flexquant.engine.grammar import Grammars
from flexquant.engine.tokenizer import Tokenizer
from flexquant.server.api_error import ApiError
from flexquant.server.chat_template import ChatTemplate
from flexquant.server.control_loop import Controller
from flexquant.server.counts import Counts
from flexquant.server.engine_thread import EngineThread


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The one model of this daemon.

    Args:
        id: Its name in answers.
        aliases: Further names that requests may give.
        created: Seconds since 1970, when the ensemble was built.
        build: Names build and ensemble, for `system_fingerprint`.
        context: Most tokens of prompt and answer together.
        vocab_size: Token ids are below this.
        tokenizer: The model's.
        chat_template: The model's; None where it has none.
        modules_by_level: How many modules each level has at a position.
        listed: The names that it is listed under: its id, and the aliases that the user chose.
        any_name: Requests may give any name, and mean this model.
        grammars: What its answers can be held to.
    """

    id: str
    aliases: frozenset[str]
    created: int
    build: str
    context: int
    vocab_size: int
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    modules_by_level: Callable[[int], Mapping[str, int]]
    listed: tuple[str, ...]
    any_name: bool
    grammars: Grammars

    def check_name(self, name: str | None) -> None:
        """Raise ApiError (404) unless `name` is this model; a request without a name means it too."""
        if name is not None and name != self.id and name not in self.aliases and not self.any_name:
            raise ApiError(
                404,
                f"model: {name!r} is not served here; this daemon serves {self.id!r}.",
                param="model",
                code="model_not_found",
            )

    def fingerprint(self, position: int) -> str:
        """Build, ensemble and position: with the same one, the same request and seed give the same text."""
        return f"{self.build}-p{position}"


@dataclass(frozen=True, slots=True)
class DaemonState:
    """Everything behind the routes."""

    model: ServedModel
    engine: EngineThread
    controller: Controller
    counts: Counts
