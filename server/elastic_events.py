"""What a tick has changed, as events: `decision`, `phase` and `position`."""

from dataclasses import asdict
from typing import Any

from flexquant.server.elastic_state import DecisionState
from flexquant.server.event_stream import EventStream


class ElasticEvents:
    """Compares each tick with the one before and publishes what differs.

    Args:
        stream: Where to.
    """

    def __init__(self, stream: EventStream) -> None:
        self._stream = stream
        self._phase: str | None = None
        self._position: int | None = None
        self._decision: DecisionState | None = None

    def tell(
        self, *, position: int, target: int, footprint_bytes: int, phase: str, decision: DecisionState | None
    ) -> None:
        """Publish what is new since the last call; the first call publishes nothing but a decision.

        Args:
            position: Published now.
            target: Ordered last.
            footprint_bytes: Of `position`.
            phase: Of the law.
            decision: The last one; a new object is a new decision.
        """
        place: dict[str, Any] = {"position": position, "target": target, "footprint_bytes": footprint_bytes}
        if decision is not None and decision is not self._decision:
            self._stream.publish("decision", {**place, "phase": phase, "decision": asdict(decision)})
        if self._phase is not None and phase != self._phase:
            self._stream.publish("phase", {**place, "phase": phase, "before": self._phase})
        if self._position is not None and position != self._position:
            self._stream.publish("position", {**place, "phase": phase, "before": self._position})
        self._phase, self._position, self._decision = phase, position, decision
