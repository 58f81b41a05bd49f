"""The reaction to a hog with a nested model, beside that with two stores: see `reaction`."""

from collections.abc import Callable
from typing import Final

from bench.figures import Figure
from bench.row import Row
from bench.session import Session
from bench.suites.reaction import STREAMS, Reaction, between_tokens, reactions

_SHARE: Final = 0.2
"""Of the runs of the other suite: what is compared differs by more than runs do."""


def run(session: Session) -> list[Row]:
    """One daemon after the other: first that with two stores."""
    runs = max(2, round(_SHARE * session.scale.reaction_runs))
    found = {nested: reactions(session, runs, nested=nested) for nested in (False, True)}

    def row(what: str, time: Callable[[Reaction], float]) -> Row:
        nested, pair = (Figure.of([time(run) for run in found[kind]]) for kind in (True, False))
        return Row(f"nested reaction, {what}", "s", nested, pair, "two stores", less_is_better=True)

    nested, pair = between_tokens(found[True]), between_tokens(found[False])
    return [
        row(f"from the order to bytes given back, {runs} runs of each", lambda run: run.order_to_bytes),
        row("from crossing R_low to bytes given back", lambda run: run.crossing_to_bytes),
        row("from where R_low would have been crossed to bytes given back", lambda run: run.need_to_bytes),
        Row(
            f"nested reaction, p99 time between tokens of {STREAMS} streams while the hog takes memory",
            "ms",
            Figure.exact(nested.during),
            Figure.exact(pair.during),
            "two stores",
            less_is_better=True,
        ),
        Row(
            "nested reaction, the same streams in the seconds before",
            "ms",
            Figure.exact(nested.steady),
            Figure.exact(pair.steady),
            "two stores",
            less_is_better=True,
        ),
    ]
