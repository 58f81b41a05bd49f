"""A fake engine with a fake clock around the scheduler: what continuous batching makes of a schedule of arrivals.

It keeps books of its own and writes down what happened.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from flexquant.server.scheduler import QueueFull, Scheduler, Ticket, Turn


@dataclass(frozen=True, slots=True)
class Machine:
    """What computing costs, in milliseconds, and what there is room for. `patience` is in milliseconds per token."""

    parallel: int = 4
    max_queue: int = 1000
    patience: float = 2.0
    slice_tokens: int = 32
    pages: int = 1000
    page_tokens: int = 16
    pass_ms: float = 20.0
    row_ms: float = 1.0
    token_ms: float = 1.0

    def pages_for(self, tokens: int) -> int:
        """Pages that hold `tokens`."""
        return math.ceil(tokens / self.page_tokens)

    def decode_ms(self, rows: int) -> float:
        """One decode pass."""
        return self.pass_ms + self.row_ms * rows if rows else 0.0

    def prefill_ms(self, tokens: int) -> float:
        """A prompt with the fullest decode passes between its slices."""
        return self.token_ms * tokens + math.ceil(tokens / self.slice_tokens) * self.decode_ms(self.parallel)

    def cycle_ms(self) -> float:
        """The longest time for which the engine does not look at the scheduler: a full decode pass and a slice."""
        return self.decode_ms(self.parallel) + self.token_ms * self.slice_tokens


@dataclass(frozen=True, slots=True)
class Request:
    """`choices` answers of `answer` tokens to a prompt that arrives at `at`; the first is given up `stays` ms later."""

    at: float
    prompt: int
    answer: int = 1
    choices: int = 1
    stays: float | None = None


@dataclass(eq=False, slots=True)
class Life:
    """What became of one sequence. Times are in milliseconds; None for what has not happened."""

    ticket: Ticket
    answer: int
    rank: tuple[float, int]
    left_to_prefill: int
    eligible: float | None = None
    """Since when it could be admitted: submitted, and held back by no sibling."""
    admitted: float | None = None
    nth: int = 0
    """How many were admitted before it."""
    prefilled: float | None = None
    """When its prompt was in, which gives the first token."""
    passes_before: int = 0
    """How many decode passes there were before that."""
    passes: list[int] = field(default_factory=list)
    """The numbers of the decode passes that it took part in."""
    left: float | None = None

    def runs(self, at: float) -> bool:
        """Whether it had been admitted before `at` and left after."""
        return self.admitted is not None and self.admitted < at and (self.left is None or self.left > at)

    def alone_ms(self, machine: Machine) -> float:
        """The work of this sequence, as if nothing else were in its decode passes."""
        return machine.token_ms * self.ticket.prompt_tokens + machine.decode_ms(1) * (self.answer - 1)

    def pages(self, machine: Machine) -> int:
        """What it holds while it runs."""
        return machine.pages_for(self.ticket.prompt_tokens + self.answer)


@dataclass(frozen=True, slots=True)
class Cycle:
    """What stood when the engine had asked the scheduler and was about to compute."""

    turn: Turn
    waiting: tuple[Life, ...]
    """Those that no sibling holds back."""
    held: tuple[Life, ...]
    prefilling: tuple[Life, ...]
    decoding: tuple[Life, ...]
    free_pages: int


class FakeBatchEngine:
    """Runs a schedule of arrivals to its end: in each cycle one decode pass, then one slice of one prompt."""

    def __init__(self, machine: Machine, requests: Iterable[Request]) -> None:
        self.machine = machine
        self.lives: list[Life] = []
        self.cycles: list[Cycle] = []
        self.refused = 0
        self._scheduler = Scheduler(parallel=machine.parallel, max_queue=machine.max_queue, patience=machine.patience)
        self._coming = deque(sorted(requests, key=lambda request: request.at))
        self._here: dict[Ticket, Life] = {}
        self._clock = 0.0
        self._free_pages = machine.pages
        self._passes = self._admissions = 0
        while self._coming or self._here:
            if not self._cycle():
                if not self._coming:
                    break
                self._spend(self._coming[0].at - self._clock)

    def _cycle(self) -> bool:
        """Admit and compute; False when there was nothing to compute."""
        for ticket in self._scheduler.expired(self._clock):
            self._leave(self._here[ticket])
        for ticket in self._scheduler.admit(self._reserve):
            life = self._here[ticket]
            life.admitted, life.nth = self._clock, self._admissions
            self._admissions += 1
        turn = self._scheduler.turn()
        self.cycles.append(self._look(turn))
        if turn.decoding:
            self._decode([self._here[ticket] for ticket in turn.decoding])
        if turn.prefilling is not None:
            self._prefill(self._here[turn.prefilling])
        return bool(turn.decoding or turn.prefilling)

    def _decode(self, lives: list[Life]) -> None:
        self._spend(self.machine.decode_ms(len(lives)))
        for life in lives:
            life.passes.append(self._passes)
            if len(life.passes) == life.answer - 1:
                self._leave(life)
        self._passes += 1

    def _prefill(self, life: Life) -> None:
        tokens = min(self.machine.slice_tokens, life.left_to_prefill)
        self._spend(self.machine.token_ms * tokens)
        life.left_to_prefill -= tokens
        if not life.left_to_prefill:
            life.prefilled, life.passes_before = self._clock, self._passes
            self._scheduler.prefilled(life.ticket)
            self._let_go(life)
            if life.answer == 1:
                self._leave(life)

    def _reserve(self, ticket: Ticket) -> bool:
        pages = self._here[ticket].pages(self.machine)
        if pages > self._free_pages:
            return False
        self._free_pages -= pages
        return True

    def _leave(self, life: Life) -> None:
        life.left = self._clock
        del self._here[life.ticket]
        if life.admitted is not None:
            self._free_pages += life.pages(self.machine)
        self._scheduler.leave(life.ticket)
        self._let_go(life)

    def _let_go(self, sibling: Life) -> None:
        for life in self._here.values():
            if life.eligible is None and life.ticket.after is sibling.ticket:
                life.eligible = self._clock

    def _spend(self, milliseconds: float) -> None:
        """Let time pass; who arrives meanwhile is submitted at once."""
        self._clock += milliseconds
        while self._coming and self._coming[0].at <= self._clock:
            self._submit(self._coming.popleft())

    def _submit(self, request: Request) -> None:
        """The other choices find the prompt of the first in the cache and compute its last token alone."""
        expires = None if request.stays is None else request.at + request.stays
        first = Ticket(request.prompt, request.at, expires)
        tickets = [first, *(Ticket(1, request.at, after=first) for _ in range(request.choices - 1))]
        try:
            self._scheduler.submit(tickets)
        except QueueFull:
            self.refused += request.choices
            return
        for ticket in tickets:
            rank = (ticket.arrived + self.machine.patience * ticket.prompt_tokens, len(self.lives))
            eligible = None if ticket.after else request.at
            self.lives.append(Life(ticket, request.answer, rank, ticket.prompt_tokens, eligible))
            self._here[ticket] = self.lives[-1]

    def _look(self, turn: Turn) -> Cycle:
        here = self._here.values()
        return Cycle(
            turn,
            waiting=tuple(life for life in here if life.admitted is None and life.eligible is not None),
            held=tuple(life for life in here if life.eligible is None),
            prefilling=tuple(life for life in here if life.admitted is not None and life.prefilled is None),
            decoding=tuple(life for life in here if life.prefilled is not None),
            free_pages=self._free_pages,
        )
