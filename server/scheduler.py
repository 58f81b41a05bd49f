"""The policy of continuous batching: who waits, who is admitted, who decodes, and whose prompt goes on next.

Everything is ordered by one number, the rank: arrival plus `patience` seconds for each token of the prompt. Short
prompts go ahead of long ones, but only those that arrive within `patience` seconds per token of the long one: nothing
starves. Pure: no thread, no clock, no memory of what has left.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, eq=False, slots=True)
class Ticket:
    """One sequence that waits for its turn or has it; equal to nothing but itself.

    Args:
        prompt_tokens: Tokens to be prefilled, as far as known when it is submitted.
        arrived: When it came, in seconds of any steady clock.
        expires: When it is to be given up, in seconds of the same clock; None for never.
        after: A sibling, another choice of the same prompt, whose prompt should be in the cache first. It holds this
            ticket back while it waits or is prefilled itself, if it was submitted before this one.
    """

    prompt_tokens: int
    arrived: float
    expires: float | None = None
    after: "Ticket | None" = None


@dataclass(frozen=True, slots=True)
class Turn:
    """What to compute next."""

    decoding: tuple[Ticket, ...]
    """All that decode, one row each in the next decode pass; those whose prompts were complete first come first."""
    prefilling: Ticket | None
    """Whose prompt goes on between decode passes."""


class QueueFull(Exception):  # noqa: N818  # like queue.Full: nothing is wrong, there is no room
    """No more tickets may wait; `limit` may."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"no more than {limit} sequences may wait")
        self.limit = limit


class Scheduler:
    """Keeps all tickets and decides; its owner computes, and calls one method at a time.

    Args:
        parallel: Most tickets that are admitted at once, prefilling and decoding together; at least 1.
        max_queue: Most tickets that may wait beyond the free places.
        patience: Seconds per prompt token by which a ticket lets later ones go ahead; 0 is first come, first served.
    """

    def __init__(self, *, parallel: int, max_queue: int, patience: float = 0.005) -> None:
        self._parallel = parallel
        self._max_queue = max_queue
        self._patience = patience
        self._submitted = 0
        self._orders: dict[Ticket, _Order] = {}  # of all that have not left
        self._held: dict[Ticket, dict[Ticket, None]] = {}  # those held back, by the sibling that holds them
        self._waiting = _Line()  # those not held back
        self._prefilling = _Line()
        self._decoding: dict[Ticket, None] = {}
        self._expiring = _Line()

    @property
    def waiting(self) -> int:
        """Tickets that are not admitted yet."""
        return len(self._orders) - self.running

    @property
    def running(self) -> int:
        """Tickets that are admitted, prefilling and decoding together."""
        return len(self._prefilling) + len(self._decoding)

    def submit(self, tickets: Sequence[Ticket]) -> None:
        """Let tickets wait: all or none. Among equal ranks those submitted first go first.

        Raises:
            QueueFull: When more than `max_queue` would wait beyond those that take the free places. A place counts
                as free even while memory is short.
            ValueError: When a ticket is here already.
        """
        if len(set(tickets)) < len(tickets) or any(ticket in self._orders for ticket in tickets):
            raise ValueError("a ticket is submitted once")
        if self.waiting + len(tickets) > self._max_queue + self._parallel - self.running:
            raise QueueFull(self._max_queue)
        for ticket in tickets:
            self._submitted += 1
            self._orders[ticket] = (ticket.arrived + self._patience * ticket.prompt_tokens, self._submitted)
            if ticket.expires is not None:
                self._expiring.add(ticket, (ticket.expires, self._submitted))
            if ticket.after in self._orders and ticket.after not in self._decoding:
                self._held.setdefault(ticket.after, {})[ticket] = None
            else:
                self._waiting.add(ticket, self._orders[ticket])

    def leave(self, ticket: Ticket) -> None:
        """Forget a ticket that is finished, cancelled or failed, wherever it is; nothing happens if it is not here."""
        if self._orders.pop(ticket, None) is None:
            return
        for line in (self._waiting, self._prefilling, self._expiring):
            line.discard(ticket)
        self._decoding.pop(ticket, None)
        if ticket.after in self._held:
            self._held[ticket.after].pop(ticket, None)
        self._let_go(ticket)

    def expired(self, now: float) -> list[Ticket]:
        """The waiting and running tickets whose `expires` is not after `now`, earliest first; they do not leave."""
        return self._expiring.up_to(now)

    def admit(self, reserve: Callable[[Ticket], bool]) -> list[Ticket]:
        """Give free places to waiting tickets by rank, as far as memory reaches.

        The first that gets no memory ends it: none of higher rank goes ahead, or large ones would starve. A ticket
        that a sibling holds back is passed over. When nothing runs and `reserve` still refuses, waiting will not help.

        Args:
            reserve: Takes the memory for a ticket, or takes nothing and returns False; must not call the scheduler.

        Returns:
            The admitted, in the order of rank; their prompts are prefilled from now on.
        """
        admitted: list[Ticket] = []
        while self.running < self._parallel:
            ticket = self._waiting.first
            if ticket is None or not reserve(ticket):
                break
            self._waiting.discard(ticket)
            self._prefilling.add(ticket, self._orders[ticket])
            admitted.append(ticket)
        return admitted

    def prefilled(self, ticket: Ticket) -> None:
        """Let a ticket decode from now on: its prompt is in. Nothing happens if it has left meanwhile."""
        if ticket in self._prefilling:
            self._prefilling.discard(ticket)
            self._decoding[ticket] = None
            self._let_go(ticket)

    def turn(self) -> Turn:
        """What to compute next; the same until something changes."""
        return Turn(tuple(self._decoding), self._prefilling.first)

    def _let_go(self, sibling: Ticket) -> None:
        """Let those that `sibling` has held back wait for their own turn."""
        for ticket in self._held.pop(sibling, ()):
            self._waiting.add(ticket, self._orders[ticket])


_Order = tuple[float, int]
"""What a line is sorted by: a time in seconds, then the number of the submission, which no two tickets share."""


class _Line:
    """Tickets in order. Finding a ticket's place takes a bisection, so one that leaves is gone at once."""

    def __init__(self) -> None:
        self._sorted: list[tuple[_Order, Ticket]] = []
        self._entries: dict[Ticket, tuple[_Order, Ticket]] = {}

    def __len__(self) -> int:
        return len(self._sorted)

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket in self._entries

    @property
    def first(self) -> Ticket | None:
        return self._sorted[0][1] if self._sorted else None

    def up_to(self, time: float) -> list[Ticket]:
        end = bisect_right(self._sorted, time, key=lambda entry: entry[0][0])
        return [ticket for _, ticket in self._sorted[:end]]

    def add(self, ticket: Ticket, order: _Order) -> None:
        self._entries[ticket] = (order, ticket)
        insort(self._sorted, self._entries[ticket])

    def discard(self, ticket: Ticket) -> None:
        entry = self._entries.pop(ticket, None)
        if entry is not None:
            del self._sorted[bisect_left(self._sorted, entry)]
