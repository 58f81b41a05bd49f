"""What the daemon answers, as frozen dataclasses. Each is made from the answer's JSON by `from_json`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request, and the positions of the model while it ran."""

    prompt_tokens: int
    completion_tokens: int
    position_start: int
    position_end: int
    position_worst: int

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """From `usage`."""
        positions = data["flexquant"]
        return cls(
            prompt_tokens=data["prompt_tokens"],
            completion_tokens=data["completion_tokens"],
            position_start=positions["position_start"],
            position_end=positions["position_end"],
            position_worst=positions["position_worst"],
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, of a completion or a chat."""

    id: str
    model: str
    text: str
    finish_reason: str
    usage: Usage

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """From the answer of either endpoint."""
        choice = data["choices"][0]
        return cls(
            id=data["id"],
            model=data["model"],
            text=choice["message"]["content"] if "message" in choice else choice["text"],
            finish_reason=choice["finish_reason"],
            usage=Usage.from_json(data["usage"]),
        )


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a streamed answer. The last but one carries the finish reason, the last the usage."""

    text: str
    finish_reason: str | None
    usage: Usage | None

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """From a chunk of either endpoint."""
        usage = data.get("usage")
        choice = data["choices"][0] if data["choices"] else {}
        text = choice["delta"].get("content") if "delta" in choice else choice.get("text")
        return cls(
            text=text or "",
            finish_reason=choice.get("finish_reason"),
            usage=None if usage is None else Usage.from_json(usage),
        )


@dataclass(frozen=True, slots=True)
class Model:
    """A model that the daemon serves. `context_length` counts prompt and answer together."""

    id: str
    aliases: tuple[str, ...]
    context_length: int

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """From an entry of the list of models."""
        return cls(id=data["id"], aliases=tuple(data["aliases"]), context_length=data["context_length"])


@dataclass(frozen=True, slots=True)
class Quality:
    """Measured by the builder: perplexity, and mean KL divergence in nats per token."""

    perplexity: float
    kl: float

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """From `quality`."""
        return cls(perplexity=data["perplexity"], kl=data["kl"])


@dataclass(frozen=True, slots=True)
class Decision:
    """What the controller decided last, why, and when (seconds since 1970)."""

    what: str
    why: str
    when: float
    from_position: int
    to_position: int

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """From `last_decision`."""
        return cls(
            what=data["what"],
            why=data["why"],
            when=data["when"],
            from_position=data["from_position"],
            to_position=data["to_position"],
        )


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened: `kind` is "state", "decision", "phase" or "position", `data` what is told of it.

    `decision` is what was decided; None in an event of another kind.
    """

    kind: str
    data: Json
    decision: Decision | None

    @classmethod
    def from_json(cls, kind: str, data: Json) -> Self:
        """From an event of `GET /v1/elastic/events`."""
        return cls(kind, data, Decision.from_json(data["decision"]) if kind == "decision" else None)


@dataclass(frozen=True, slots=True)
class Reserves:
    """Bytes of a memory source that are kept free for others.

    Below `critical` everything yields, below `low` the model shrinks until `target` is free, and it grows only while
    `high` stays free.
    """

    critical: int
    low: int
    target: int
    high: int

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """From `reserves` of a source."""
        return cls(critical=data["critical"], low=data["low"], target=data["target"], high=data["high"])


@dataclass(frozen=True, slots=True)
class Source:
    """A memory source of the daemon; `error` says why it does not answer, and the rest is None then."""

    name: str
    available_bytes: int | None
    total_bytes: int | None
    error: str | None
    reserves: Reserves | None

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """From an entry of `sources`."""
        return cls(
            name=data["name"],
            available_bytes=data["available_bytes"],
            total_bytes=data["total_bytes"],
            error=data["error"],
            reserves=Reserves.from_json(reserves) if (reserves := data.get("reserves")) else None,
        )


@dataclass(frozen=True, slots=True)
class Elastic:
    """Where the model is on its sequence, and why. Sizes in bytes, times in seconds.

    Args:
        position: Transitions applied: 0 = best quality, `max_position` = smallest.
        max_position: N.
        target: Position that was ordered last; differs from `position` while a move is under way.
        footprint_bytes: Resident weights now.
        footprint_range_bytes: (smallest, largest).
        mode: "auto" or "pinned".
        pinned_position: The pin; None in auto mode.
        worst_position: Never crossed.
        ttl_seconds: Until the pin ends; None without one.
        override: "critical" while a pin yields to critical memory.
        available_bytes: Of the tightest source; None while none answers.
        pressure: "none", "low", "critical" or "unknown".
        phase: What the control law is doing.
        refusing: Why no new request is taken; None while they are.
        quality: At this position.
        last_decision: None before the first.
        release_efficiency: Share of the last large release that arrived; None before one was checked.
        retained_bytes: Released bytes that did not arrive.
        sources: All memory sources.
    """

    position: int
    max_position: int
    target: int
    footprint_bytes: int
    footprint_range_bytes: tuple[int, int]
    mode: str
    pinned_position: int | None
    worst_position: int
    ttl_seconds: float | None
    override: str | None
    available_bytes: int | None
    pressure: str
    phase: str
    refusing: str | None
    quality: Quality
    last_decision: Decision | None
    release_efficiency: float | None
    retained_bytes: int
    sources: tuple[Source, ...]

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """From `GET /v1/elastic`; fields of a newer daemon are left out."""
        low, up = data["footprint_range_bytes"]
        decision = data["last_decision"]
        return cls(
            position=data["position"],
            max_position=data["max_position"],
            target=data["target"],
            footprint_bytes=data["footprint_bytes"],
            footprint_range_bytes=(low, up),
            mode=data["mode"],
            pinned_position=data["pinned_position"],
            worst_position=data["worst_position"],
            ttl_seconds=data["ttl_seconds"],
            override=data["override"],
            available_bytes=data["available_bytes"],
            pressure=data["pressure"],
            phase=data["phase"],
            refusing=data["refusing"],
            quality=Quality.from_json(data["quality"]),
            last_decision=None if decision is None else Decision.from_json(decision),
            release_efficiency=data["release_efficiency"],
            retained_bytes=data["retained_bytes"],
            sources=tuple(Source.from_json(source) for source in data["sources"]),
        )
