"""What may be promised to requests: KV pages are admitted against the memory that there is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from flexquant.server.controller.outlook import Outlook
from flexquant.server.controller.sample import Sample
from flexquant.server.controller.state import State

UNLIMITED: Final = 1 << 62
"""Room where no source says how much there is: the KV cache has a limit of its own."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What may be promised to requests until the next sample.

    Args:
        room: Bytes of KV pages, beyond what is promised already.
        final: Whether there will be no more: the model gives back nothing further.
        refusal: Why no new request is taken at all; None while they are.
    """

    room: int
    final: bool
    refusal: str | None


def admit(state: State, sample: Sample, found: Sequence[Outlook], *, limit: int) -> Admission:
    """Judge by the outlooks as they are without what is wanted.

    While the model can still give back, a promise keeps R_low free after the present fall, and the model shrinks for
    what is wanted. When it cannot, a promise may go down to R_crit as things are now: a fall that may end at any moment
    is no reason to refuse for good.

    Args:
        state: After the decision on `sample`.
        sample: Of this tick.
        found: Its outlooks.
        limit: The smallest position to which the model may go for a request.
    """
    refusal = state.last_refusal if state.refusing else None
    if not found:
        return Admission(UNLIMITED, final=False, refusal=refusal)
    more = sample.moving or sample.target < limit or sample.reusable_bytes > 0
    kept = [o.predicted - o.reserves.low if more else o.settled - o.reserves.critical for o in found]
    return Admission(max(0, int(min(kept))), final=not more, refusal=refusal)
