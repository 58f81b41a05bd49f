"""Where a daemon starts: the context and the position that fit into the memory there is. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from flexquant.engine.errors import MemoryShortError, UsageError

COMFORTABLE_CONTEXT: Final = 4096
"""Quality yields to a context of this many tokens, and a longer one yields to quality."""
LEAST_CONTEXT: Final = 256
"""A daemon with less context than this is of no use."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What the model takes, in bytes.

    Args:
        weights: Of weights, at positions 0..N, descending.
        working: Everything beside weights and KV pages: scratch, activations, buffers of the server.
        kv_page: One KV page.
        page_tokens: Tokens per KV page.
        context: Most tokens of a sequence that the model runs with.
        working_per_token: Beside `working`, for each token of the context, however many sequences there are.
        context_limit: Why `context` is less than the model declares, if it is.
    """

    weights: Sequence[int]
    working: int
    kv_page: int
    page_tokens: int
    context: int
    working_per_token: int = 0
    context_limit: str | None = None

    def of_context(self, tokens: int) -> int:
        """Bytes that a sequence of `tokens` takes: KV pages, and memory to work with."""
        return -(-tokens // self.page_tokens) * self.kv_page + tokens * self.working_per_token

    def tokens(self, nbytes: int) -> int:
        """Tokens of one sequence that fit into `nbytes`, at most the model's context."""
        page = self.kv_page + self.page_tokens * self.working_per_token
        return min(max(nbytes, 0) // page * self.page_tokens, self.context)

    def pages_in(self, nbytes: int) -> int:
        """KV pages that fit into `nbytes`; none if that is negative."""
        return max(nbytes, 0) // self.kv_page


@dataclass(frozen=True, slots=True)
class Room:
    """Memory that may be taken, in bytes.

    Args:
        available: Every byte that there is, by the tightest source.
        spare: What remains of that when others keep their reserve.
    """

    available: int
    spare: int


@dataclass(frozen=True, slots=True)
class StartPlan:
    """Where a daemon starts.

    Args:
        context: Most tokens of one sequence.
        position: Of the model.
        kept_tokens: Most tokens whose keys and values are kept for later prompts: what there is room for beside the
            weights of that position, the context at least.
    """

    context: int
    position: int
    kept_tokens: int


def plan_start(
    demand: Demand, room: Room, *, context: int | None, parallel: int, pin: int | None, worst_position: int | None
) -> StartPlan:
    """Choose the context (unless it is given) and the best position that leaves others their reserve.

    Without such a position the start is at the smallest allowed one, as long as that fits at all.

    Args:
        demand: Of the model.
        room: That there is.
        context: Tokens that the user asks for; None takes what model and memory allow.
        parallel: Sequences that shall each have their context, as far as others keep their reserve.
        pin: Position that the user wants held; where it does not fit, the start is at a smaller one.
        worst_position: Position not to go beyond.

    Raises:
        UsageError: `context`, `pin` or `worst_position` is beyond the model's.
        MemoryShortError: Not even the smallest position fits, with the context asked for.
    """
    last = len(demand.weights) - 1
    for flag, position in (("--pin", pin), ("--worst-position", worst_position)):
        if position is not None and position > last:
            raise UsageError(f"{flag} {position}: this model has positions 0 to {last}")
    if context is not None and context > demand.context:
        raise UsageError(
            f"--context {context}: this model runs with at most {demand.context} tokens", hint=demand.context_limit
        )
    worst = last if worst_position is None else worst_position
    if context is None:
        context = _default_context(demand, room, worst)
    fixed = demand.working + demand.of_context(context)
    missing = demand.weights[worst] + fixed - room.available
    if missing > 0:
        raise _short(demand, worst, context, room.available, missing)
    best = 0 if pin is None else min(pin, worst)
    fitting = (k for k in range(best, worst + 1) if demand.weights[k] + fixed <= room.spare)
    position = next(fitting, worst)
    more = demand.pages_in(room.spare - fixed - demand.weights[position]) * demand.page_tokens
    return StartPlan(context, position, min(parallel * context, context + more))


def _default_context(demand: Demand, room: Room, worst: int) -> int:
    """All that fits beside the best weights; if that is little, up to a comfortable size beside the smallest."""
    at_best = demand.tokens(room.spare - demand.working - demand.weights[0])
    comfortable = min(COMFORTABLE_CONTEXT, demand.context)
    if at_best >= comfortable:
        return at_best
    at_worst = demand.tokens(room.available - demand.working - demand.weights[worst])
    return max(min(at_worst, comfortable), min(LEAST_CONTEXT, demand.context))


def _short(demand: Demand, worst: int, context: int, available: int, missing: int) -> MemoryShortError:
    needed = available + missing
    have = f"{_mib(available)} are available"
    if available < 0:  # a budget below what the daemon takes without a model
        have = f"the limit is exceeded by {_mib(-available)} already"
    return MemoryShortError(
        f"not enough memory: at its smallest position {worst} the model takes {_mib(demand.weights[worst])} of "
        f"weights, {_mib(demand.of_context(context))} for {context} tokens of context and {_mib(demand.working)} to "
        f"work with, together {_mib(needed)}; {have}, {_mib(missing)} are missing",
        needed=needed,
        available=available,
        hint="Close other programs, raise --memory-budget, or ask for less with --context.",
    )


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:.1f} MiB"
