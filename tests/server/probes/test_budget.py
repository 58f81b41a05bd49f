"""The user's cap."""

from flexquant.server.controller.sample import MemoryReading
from flexquant.server.probes.budget import BudgetProbe


def test_a_budget_is_ours_alone_and_may_be_exceeded() -> None:
    assert BudgetProbe(100, lambda: 30).read() == [MemoryReading("budget", 70, 100, shared=False)]
    assert BudgetProbe(100, lambda: 130).read()[0].available == -30


def test_a_budget_counts_the_private_memory_of_this_process() -> None:
    (reading,) = BudgetProbe(1 << 50).read()
    assert 0 < reading.total - reading.available < 1 << 40
