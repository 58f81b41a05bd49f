"""What a soak must show, and the table of it."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the verdict.

    Args:
        name: What is looked at.
        figure: What was seen.
        bound: What it had to be.
        held: Whether it was; None where there was nothing to judge by.
    """

    name: str
    figure: str
    bound: str
    held: bool | None

    @property
    def verdict(self) -> str:
        """For the table."""
        return {True: "holds", False: "FAILS", None: "not seen"}[self.held]


def table(checks: Sequence[Check]) -> str:
    """Markdown."""
    lines = ["| check | figure | bound | verdict |", "| --- | --- | --- | --- |"]
    lines += [f"| {check.name} | {check.figure} | {check.bound} | {check.verdict} |" for check in checks]
    return "\n".join(lines)
