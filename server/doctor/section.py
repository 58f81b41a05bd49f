"""What one group of checks has found."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Section:
    """One group.

    Args:
        name: One word.
        findings: Pairs of what was looked at and what was found, for people.
        facts: The same for programs.
    """

    name: str
    findings: tuple[tuple[str, str], ...]
    facts: Mapping[str, Any]

    def text(self) -> str:
        """For people: the name, then a line per finding."""
        width = max((len(what) for what, _ in self.findings), default=0)
        return "\n".join([self.name, *(f"  {what:{width}}  {found}" for what, found in self.findings)])
