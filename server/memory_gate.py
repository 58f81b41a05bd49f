"""Admission against memory: how many bytes of KV pages may be promised, until the control law has looked again."""

import threading
from collections.abc import Callable
from typing import Final

from flexquant.server.api_error import unavailable

CRITICAL_RETRY_SECONDS: Final = 10
"""For which memory must be well again before new work is taken (the law's FLOOR phase)."""


class MemoryGate:
    """Lets in what memory has room for.

    The engine thread asks, the controller says each tick how much room there is. A promise is counted by the gate
    until a sample was taken after the pages were reserved: from then on the sample's `kv_promised` contains it, and
    the next room is less by it. So none is counted twice, and none is forgotten between two ticks. All methods may be
    called from any thread; nothing is called back with the lock held. Before the first `update` everything is let in.
    """

    def __init__(self) -> None:
        self.on_open: Callable[[], None] = lambda: None
        """Called by `update` when the one who waits should ask again."""
        self._lock = threading.Lock()  # guards what follows
        self._room: int | None = None
        self._final = False
        self._given = 0
        """Bytes that were ever promised; a promise that came to nothing is taken back."""
        self._reserved = 0
        """Of `given`, those whose pages are reserved, so that a sample taken now contains them."""
        self._sampled = 0
        """Of `given`, those that the sample contained from which the room comes."""
        self._sampling = 0
        """Of `given`, those that the sample under way contains."""
        self._wanted = 0
        self._reason: str | None = None

    # --- the engine thread's

    def admit(self, nbytes: int) -> bool:
        """Whether so many bytes may be promised to a sequence now. If not, it waits and asks again after `on_open`.

        A promise is followed by `reserved` or `take_back`.

        Raises:
            ApiError: 503, it does not fit and nothing more can be released for it.
        """
        with self._lock:
            if self._room is None or nbytes <= max(self._room - (self._given - self._sampled), 0):
                self._wanted = 0
                self._given += nbytes
                return True
            # Promises of the last moments may be in the room already: what they take is no reason to refuse.
            if not self._final or nbytes <= self._room:
                self._wanted = nbytes
                return False
            self._wanted = 0
            room = max(self._room, 0)
        raise unavailable(
            f"Memory is short: prompt and answer may take {_mib(nbytes)} of KV cache, and there is room for "
            f"{_mib(room)}. Ask for fewer tokens, or try again later.",
            code="memory_short",
        )

    def reserved(self) -> None:
        """The pages of the last promise are reserved: samples contain it from now on."""
        with self._lock:
            self._reserved = self._given

    def take_back(self, nbytes: int) -> None:
        """Nothing came of the last promise."""
        with self._lock:
            self._given -= nbytes

    def nobody_waits(self) -> None:
        """Whoever waited for memory is gone, or lacks something else now."""
        with self._lock:
            self._wanted = 0

    def check(self) -> None:
        """Raise ApiError (503) while no new work is taken."""
        reason = self._reason
        if reason is not None:
            raise unavailable(reason, code="memory_critical", retry_after_s=CRITICAL_RETRY_SECONDS)

    # --- the controller's

    @property
    def wanted(self) -> int:
        """Bytes that the first who waits for memory needs; 0 while nobody does."""
        return self._wanted

    def sampling(self) -> None:
        """A sample is about to be taken: the room that comes of it knows what is reserved now."""
        with self._lock:
            self._sampling = self._reserved

    def update(self, room: int, *, final: bool) -> None:
        """Set what may be promised from the sample on, which began with `sampling`.

        Args:
            room: In bytes; beyond the promises that the sample contains.
            final: Nothing more can be released: what does not fit is refused instead of waiting.
        """
        with self._lock:
            self._room, self._final, self._sampled = room, final, self._sampling
            someone = self._wanted > 0
        if someone:  # also without more room: refusing is news, too, and asking costs microseconds
            self.on_open()

    def refuse(self, reason: str | None) -> None:
        """Take no new work, for a reason that clients are told; None takes it again."""
        self._reason = reason


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:.1f} MiB"
