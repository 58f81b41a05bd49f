"""The user's cap: the most memory that this daemon may use."""

from collections.abc import Callable, Sequence

from flexquant.engine.memory.process import anonymous_bytes
from flexquant.server.controller.sample import MemoryReading


class BudgetProbe:
    """`--memory-budget`: what is left of it is available, all of it is ours.

    Args:
        budget: Bytes of private (anonymous) memory that this daemon may use.
        used: Gives the bytes that it uses now.
    """

    name = "budget"

    def __init__(self, budget: int, used: Callable[[], int] = anonymous_bytes) -> None:
        self._budget = budget
        self._used = used

    def read(self) -> Sequence[MemoryReading]:
        """Bytes left of the budget; negative when the daemon is over it."""
        return [MemoryReading(self.name, available=self._budget - self._used(), total=self._budget, shared=False)]
