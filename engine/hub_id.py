"""Names of models on the Hugging Face Hub: "org/name", or "org/name@revision"."""

import re
from dataclasses import dataclass
from typing import Final, Self

DEFAULT_REVISION: Final = "main"
_WORD: Final = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_PATTERN: Final = re.compile(rf"({_WORD}/{_WORD})(?:@({_WORD}(?:/{_WORD})*))?")


@dataclass(frozen=True, slots=True)
class HubId:
    """A model on the hub. As text it is what a person writes.

    Args:
        repository: Such as "org/name".
        revision: A branch, a tag or a commit.
    """

    repository: str
    revision: str = DEFAULT_REVISION

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The hub id that `text` is; None if it cannot be one."""
        found = _PATTERN.fullmatch(text)
        if found is None or ".." in text:
            return None
        return cls(found[1], found[2] or DEFAULT_REVISION)

    @property
    def name(self) -> str:
        """The model's own name, without the organisation's."""
        return self.repository.partition("/")[2]

    def __str__(self) -> str:
        return self.repository if self.revision == DEFAULT_REVISION else f"{self.repository}@{self.revision}"
