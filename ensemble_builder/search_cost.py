"""What a search costs, before it is begun."""

from collections.abc import Sequence
from dataclasses import dataclass

from flexquant.ensemble_builder.search import least_evaluations
from flexquant.ensemble_builder.sequence import Unit
from flexquant.ensemble_builder.sequence_search import default_evaluations


@dataclass(frozen=True, slots=True)
class SearchCost:
    """Bounds of a search's cost.

    Args:
        least_evaluations: What every search measures.
        most_evaluations: The default budget.
        least_minutes: Time for the least evaluations.
        most_minutes: Time for the default budget.
    """

    least_evaluations: int
    most_evaluations: int
    least_minutes: float
    most_minutes: float


def search_cost(units: Sequence[Unit], forward_seconds: float, workers: int = 1) -> SearchCost:
    """Return what a search over `units` costs, if an evaluation takes as long as running the whole model.

    It takes less: layers before the first one that differs from an earlier evaluation are not run again.

    Args:
        units: What transitions lower.
        forward_seconds: Measured time of running the model over the search text.
        workers: Processes of that speed.
    """
    least, most = least_evaluations(units), default_evaluations(units)
    minutes = forward_seconds / 60 / workers
    return SearchCost(least, most, least * minutes, most * minutes)
