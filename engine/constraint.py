"""What a text has to be while it is generated, as the sampler sees it."""

from typing import Protocol

import numpy as np
import numpy.typing as npt


class Constraint(Protocol):
    """Says of one sequence, token by token, what may come next."""

    def mask(self, logits: npt.NDArray[np.float64]) -> None:
        """Set the logits, f64 [vocab], of all tokens that must not come next to -inf, in place.

        Raises:
            ConstraintError: No token may.
        """
        ...

    def accept(self, token: int) -> None:
        """`token` is the next one.

        Raises:
            ConstraintError: It must not be, or what may follow it cannot be found out.
        """
        ...

    @property
    def finished(self) -> bool:
        """Whether the text is complete and nothing can follow."""
        ...
