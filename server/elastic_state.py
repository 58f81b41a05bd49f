"""What the controller needs from a model, and what the daemon shows of it."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal, Protocol

from flexquant.server.controller.parameters import Reserves
from flexquant.server.controller.sample import StressReading
from flexquant.server.controller.state import Phase


@dataclass(frozen=True, slots=True)
class Quality:
    """Measured by the builder: perplexity, and mean KL divergence in nats per token."""

    perplexity: float
    kl: float


@dataclass(frozen=True, slots=True)
class PositionState:
    """One position of the sequence: bytes of weights there, and the quality as the builder measured it."""

    footprint_bytes: int
    perplexity: float
    kl: float


@dataclass(frozen=True, slots=True)
class SequenceState:
    """What `GET /v1/elastic/sequence` answers: all positions, 0 (the best) to N (the smallest). It never changes."""

    positions: tuple[PositionState, ...]


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """What a model holds at one moment, in bytes; see `Sample` for what each is.

    Args:
        elastic: Mapped for swappable weights (W), transient copies included.
        kv: Mapped for KV pages, reusable ones included.
        kv_promised: What admitted sequences may still map.
        reusable: KV pages that no sequence has.
    """

    elastic: int
    kv: int = 0
    kv_promised: int = 0
    reusable: int = 0


@dataclass(frozen=True, slots=True)
class MemoryState:
    """What the daemon holds, in bytes, by its own books and by the system's count.

    Args:
        elastic: Mapped for swappable weights, transient copies included.
        kv: Mapped for KV pages.
        kv_promised: What admitted sequences may still map for KV pages.
        reusable: Of `kv`, what is only kept for later prompts.
        scratch: Declared working memory: most that moves and passes use beyond the rest.
        fixed: Weights that never move.
        embedding: The embedding table: mapped from its file, which the system may drop and read again.
        registry: All anonymous memory on the books: elastic, kv, scratch and fixed together.
        private: The process's anonymous memory as the system counts it: the books, Python, HTTP and the tokenizer.
    """

    elastic: int
    kv: int
    kv_promised: int
    reusable: int
    scratch: int
    fixed: int
    embedding: int
    registry: int
    private: int


class Elastic(Protocol):
    """A model that can be resized while it runs; every member may be used from any thread."""

    @property
    def footprints(self) -> Sequence[int]:
        """Bytes of resident weights at positions 0..N."""
        ...

    @property
    def quality(self) -> Sequence[Quality]:
        """Quality at positions 0..N."""
        ...

    @property
    def position(self) -> int:
        """Position that is published now."""
        ...

    @property
    def target(self) -> int:
        """Position that was ordered last; `position` again after a failed move."""
        ...

    @property
    def moving(self) -> bool:
        """Whether steps are still under way."""
        ...

    @property
    def memory(self) -> ModelMemory:
        """What it holds now."""
        ...

    def request_position(self, position: int, *, urgent: bool) -> Future[int]:
        """Order a move; a later order supersedes it.

        The future gives the position that was reached, or SwapError.
        """
        ...

    def memory_state(self) -> MemoryState:
        """What the daemon holds, for people; may take milliseconds."""
        ...

    def drop_reusable(self) -> None:
        """Order that KV pages which no sequence has go at the next safe point."""
        ...

    def trim(self) -> None:
        """Begin to give back what the heap and the system's file cache hold on the model's account."""
        ...


@dataclass(frozen=True, slots=True)
class SourceState:
    """One probe's last word. `error` is set, and the rest is None, while it does not answer.

    `reserves` is what is kept free for others in this domain, and thereby when the controller acts.
    """

    name: str
    available_bytes: int | None
    total_bytes: int | None
    error: str | None
    reserves: Reserves | None


@dataclass(frozen=True, slots=True)
class DecisionState:
    """The last thing that the controller decided; `when` in seconds since 1970."""

    what: str
    why: str
    when: float
    from_position: int
    to_position: int


@dataclass(frozen=True, slots=True)
class ElasticState:
    """Everything that `GET /v1/elastic` answers; `dataclasses.asdict` gives its JSON.

    `available_bytes` is that of the tightest source (None while none answers), `pressure` is "unknown" then.
    `target` differs from `position` while a move is under way.
    """

    position: int
    max_position: int
    target: int
    footprint_bytes: int
    footprint_range_bytes: tuple[int, int]
    """[low, up]: at the smallest and at the best position."""
    mode: Literal["auto", "pinned"]
    pinned_position: int | None
    worst_position: int
    ttl_seconds: float | None
    """Until the pin ends; None without a pin or without an end."""
    override: Literal["critical"] | None
    """Set while a pin yields to critical memory."""
    available_bytes: int | None
    pressure: Literal["none", "low", "critical", "unknown"]
    phase: Phase
    refusing: str | None
    """Why no new request is taken; None while they are."""
    quality: Quality
    last_decision: DecisionState | None
    release_efficiency: float | None
    """Share of the last large release that arrived; None before one was checked."""
    retained_bytes: int
    """Released bytes that did not arrive."""
    memory: MemoryState
    sources: tuple[SourceState, ...]
    stress: tuple[StressReading, ...]
